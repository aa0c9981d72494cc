/**
 * Goal: it does not matter where a page lies. The same real WAL is taken in twice: once with all of
 * it in memory, once with layers rolled every few hundred kilobytes, images made all the time, the
 * page server crashing and losing its disk in between, and a branch taking over half way. Every
 * page, size and blob is the same at many LSNs.
 * Method: WAL of a workload on stock Postgres, the real redo processes, two tenants of the storage.
 */
import { hash, randomBytes } from 'node:crypto'
import { cpSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newTimelineId, type TimelineId } from '#libs/ids.ts'
import { createLogger } from '#libs/log.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { parseControlFile } from '#libs/pg/control-file.ts'
import { ThreadRunner } from '../../pageserver/compaction/runner.ts'
import { importDataFolder, importLsn } from '../../pageserver/import/data-folder-import.ts'
import { applyNativeOp } from '../../pageserver/ingest/native-op.ts'
import { WalIngest } from '../../pageserver/ingest/wal-ingest.ts'
import { KeyClass, PAGE_SIZE } from '../../pageserver/keyspace/key-class.ts'
import type { Layer } from '../../pageserver/layers/layer.ts'
import { LayerKind } from '../../pageserver/layers/layer-name.ts'
import { RedoPool } from '../../pageserver/redo/redo-pool.ts'
import { ScratchServer } from '../../pageserver/tenants/testing/scratch-server.ts'
import type { StorageLimits } from '../../pageserver/timeline/storage-context.ts'
import type { Timeline } from '../../pageserver/timeline/timeline.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { PRELUDE, WORKLOAD } from '../oracle/access-method-workload.ts'
import { runStatements } from '../oracle/redo-scenario.ts'
import { runTransactionWorkload, TRANSACTION_SETTINGS } from '../oracle/transaction-workload.ts'
import { readWalSegments } from '../oracle/wal-segments.ts'

const SLICE_BYTES = 64 * 1024
const READ_BLOCKS = 64
/** Not the checkpoint: ingest looks ahead in its batch, and batches differ after a restart. */
const BLOB_CLASSES = [
  KeyClass.RelMap,
  KeyClass.DbDir,
  KeyClass.RelSize,
  KeyClass.SlruSegSize,
  KeyClass.TwoPhase,
  KeyClass.ControlFile,
]
const TINY: Partial<StorageLimits> = {
  rollSizeBytes: 1024 * 1024,
  l0CompactCount: 3,
  l1LayerBytes: 512 * 1024,
  imageDeltaBytes: 256 * 1024,
  bottomGainBytes: 64 * 1024,
  imageLayerBytes: 1024 * 1024,
  chunkCacheBytes: 1024 * 1024,
}
const HUGE: Partial<StorageLimits> = { rollSizeBytes: 2e9, rollDistanceBytes: 2e12 }

const log = createLogger('storage-shapes')
log.level = 'fatal'

let postgres: VanillaPostgres
let baseDir: string
let endLsn: Lsn
let pool: RedoPool

beforeAll(async () => {
  pool = new RedoPool({
    workDir: join(tmpdir(), `zenith-redo-${randomBytes(6).toString('hex')}`),
    log,
    maxProcesses: 2,
  })
  postgres = await VanillaPostgres.start({
    settings: { ...TRANSACTION_SETTINGS, wal_keep_size: "'4GB'", full_page_writes: 'off' },
  })
  await runStatements(postgres, PRELUDE)
  await postgres.stop()
  baseDir = join(postgres.dir, 'base')
  cpSync(postgres.dataDir, baseDir, { recursive: true })
  await postgres.start()
  await runStatements(postgres, WORKLOAD)
  await runTransactionWorkload(postgres)
  await postgres.stop()
  endLsn = importLsn(controlOf(postgres.dataDir))
})

afterAll(async () => {
  await postgres?.[Symbol.asyncDispose]()
  await pool?.close()
})

function controlOf(dataDir: string) {
  return parseControlFile(readFileSync(join(dataDir, 'global', 'pg_control')))
}

async function start(limits: Partial<StorageLimits>): Promise<ScratchServer> {
  return await ScratchServer.start(limits, { redo: pool, applyNativeOp })
}

async function bootstrap(server: ScratchServer, id: TimelineId): Promise<Timeline> {
  const control = controlOf(baseDir)
  const facts = {
    startLsn: importLsn(control),
    systemId: String(control.systemId),
    pgVersion: 170011,
  }
  return await server.tenant.createTimeline(id, facts, async (filling) => {
    await importDataFolder(filling, baseDir, control)
  })
}

/** Takes in WAL up to `untilLsn`; returns the record ends where it paused. */
async function ingest(timeline: Timeline, untilLsn: Lsn): Promise<Lsn[]> {
  const sink = await WalIngest.open(timeline)
  const ends: Lsn[] = []
  const walDir = join(postgres.dataDir, 'pg_wal')
  for (const { lsn, bytes } of readWalSegments(walDir, timeline.lastRecordLsn, untilLsn)) {
    for (let at = 0; at < bytes.length; at += SLICE_BYTES) {
      await sink.ingest(bytes.subarray(at, at + SLICE_BYTES), lsn + at)
      ends.push(timeline.lastRecordLsn)
    }
  }
  return ends
}

type Prefix = readonly [cls: KeyClass, spc: number, db: number, rel: number, fork: number]

/** What others are compared with, many times. Its pages are made once and then known by their sum. */
class Reference {
  readonly timeline: Timeline
  readonly #sums = new Map<string, string>()

  constructor(timeline: Timeline) {
    this.timeline = timeline
  }

  pages(prefix: Prefix, first: number, count: number, lsn: Lsn): Promise<Buffer> {
    return this.timeline.readPages(this.timeline.slot(...prefix), first, count, lsn)
  }

  async sum(prefix: Prefix, first: number, count: number, lsn: Lsn): Promise<string> {
    const name = `${prefix.join('/')} ${first} ${lsn}`
    const known = this.#sums.get(name)
    if (known !== undefined) return known
    const sum = sumOf(await this.pages(prefix, first, count, lsn))
    this.#sums.set(name, sum)
    return sum
  }
}

function sumOf(pages: Buffer): string {
  return hash('sha256', pages)
}

async function expectSame(reference: Reference, found: Timeline, lsn: Lsn): Promise<number> {
  const expected = reference.timeline
  let pages = 0
  for (const cls of BLOB_CLASSES) {
    const [one, other] = [await expected.scanBlobs(cls, lsn), await found.scanBlobs(cls, lsn)]
    expect(other.length, `entries of class ${cls} at ${formatLsn(lsn)}`).toBe(one.length)
    for (const [index, entry] of one.entries()) {
      const { value, ...key } = entry
      const { value: otherValue, ...otherKey } = other[index] as typeof entry
      expect(otherKey).toEqual(key)
      expect(otherValue.equals(value), `class ${cls} ${JSON.stringify(key)}`).toBe(true)
    }
    if (cls !== KeyClass.RelSize && cls !== KeyClass.SlruSegSize) continue
    const pageClass = cls === KeyClass.RelSize ? KeyClass.RelBlock : KeyClass.SlruBlock
    for (const { spc, db, rel, fork, value } of one) {
      const prefix = [pageClass, spc, db, rel, fork] as const
      pages += await expectSamePages(reference, found, prefix, value.readUInt32LE(0), lsn)
    }
  }
  return pages
}

async function expectSamePages(
  reference: Reference,
  found: Timeline,
  prefix: Prefix,
  blocks: number,
  lsn: Lsn,
): Promise<number> {
  for (let first = 0; first < blocks; first += READ_BLOCKS) {
    const count = Math.min(READ_BLOCKS, blocks - first)
    const [sum, other] = await Promise.all([
      reference.sum(prefix, first, count, lsn),
      found.readPages(found.slot(...prefix), first, count, lsn),
    ])
    if (sumOf(other) === sum) continue
    const one = await reference.pages(prefix, first, count, lsn)
    for (let at = 0; at < count; at++) {
      const page = (pages: Buffer) => pages.subarray(at * PAGE_SIZE, (at + 1) * PAGE_SIZE)
      const what = `${prefix.join('/')} block ${first + at} at ${formatLsn(lsn)}`
      expect(page(other).equals(page(one)), what).toBe(true)
    }
    expect.fail('what is compared with gives other pages when it is asked again')
  }
  return blocks
}

/** Waits until what is due of compaction is done. */
async function compacted(server: ScratchServer): Promise<void> {
  for (const timeline of server.tenant.timelines()) await timeline.settle()
  await server.manager.compactor.settle()
}

/** Collects garbage, with so many bytes of history kept; returns the retained points. */
async function collect(server: ScratchServer, id: TimelineId, pitrBytes: number): Promise<Lsn[]> {
  const history = { pitrIntervalMs: 86_400_000, pitrBytes }
  return (await server.tenant.collectGarbage(id, history)).retainedPoints
}

function storedBytes(server: ScratchServer, id: TimelineId): number {
  const { newestFirst } = server.tenant.timeline(id).layers
  return newestFirst.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
}

describe('storage over real WAL', () => {
  test('gives the same from memory, deltas, images, branches, and after crashes', async () => {
    await using inMemory = await start(HUGE)
    await using onDisk = await start(TINY)
    // As in a page server: compaction in a thread of its own, with redo processes of its own.
    const redoDir = join(tmpdir(), `zenith-redo-${randomBytes(6).toString('hex')}`)
    const config = { postgresPrefix: '', redoDir, redoProcesses: 1 }
    onDisk.runner = (store) => new ThreadRunner(config, store)
    await onDisk.restart()
    const expected = await bootstrap(inMemory, newTimelineId())
    const ends = await ingest(expected, endLsn)
    expect(expected.lastRecordLsn).toBe(endLsn)
    const reference = new Reference(expected)
    const halfLsn = ends[Math.floor(ends.length / 2)] as Lsn

    const main = newTimelineId()
    await bootstrap(onDisk, main)
    await ingest(onDisk.tenant.timeline(main), ends[Math.floor(ends.length / 4)] as Lsn)
    await compacted(onDisk)
    await onDisk.restart({ wipeLocal: true })
    await ingest(onDisk.tenant.timeline(main), halfLsn)
    const branch = newTimelineId()
    const origin = { ancestorTimelineId: main, ancestorLsn: halfLsn }
    await onDisk.tenant.branchTimeline(branch, origin)
    await compacted(onDisk)
    await onDisk.restart()
    await ingest(onDisk.tenant.timeline(main), endLsn)
    await ingest(onDisk.tenant.timeline(branch), endLsn)
    await onDisk.tenant.timeline(branch).createImageLayers()
    await compacted(onDisk)
    await onDisk.restart({ wipeLocal: true })
    for (const id of [main, branch]) await ingest(onDisk.tenant.timeline(id), endLsn)

    await compacted(onDisk)
    const layers = onDisk.tenant.timeline(main).layers
    expect(layers.newestFirst.length).toBeGreaterThan(10)
    expect(layers.imageLsns.length).toBeGreaterThan(1)
    const isL1 = (layer: Layer) => !layer.isL0 && layer.id.kind === LayerKind.Delta
    expect(layers.newestFirst.filter(isL1).length).toBeGreaterThan(1)
    expect(onDisk.errors).toEqual([])
    const lsns = [1 / 5, 2 / 5, 1 / 2, 3 / 5, 4 / 5].map(
      (share) => ends[Math.floor(ends.length * share)] as Lsn,
    )
    let pages = 0
    for (const lsn of [...lsns, endLsn]) {
      for (const id of [main, branch]) {
        // Below its branch point a branch has no history of its own.
        if (lsn < onDisk.tenant.timeline(id).startLsn) continue
        pages += await expectSame(reference, onDisk.tenant.timeline(id), lsn)
      }
    }
    console.log(`${pages} pages compared, ${layers.newestFirst.length} layers on main`)

    // History goes: of the main timeline all but the branch point and the end.
    await onDisk.tenant.timeline(main).flush()
    const written = storedBytes(onDisk, main)
    const retained = await collect(onDisk, main, 0)
    expect(retained).toContain(halfLsn)
    const cutoffLsn = onDisk.tenant.timeline(main).gcCutoffLsn as Lsn
    expect(cutoffLsn).toBeGreaterThan(halfLsn)
    for (const id of [main, branch]) await onDisk.tenant.timeline(id).compaction.compactBottom()
    const left = storedBytes(onDisk, main)
    expect(left).toBeLessThan(written)
    await onDisk.restart({ wipeLocal: true })
    for (const id of [main, branch]) await ingest(onDisk.tenant.timeline(id), endLsn)
    await expectSame(reference, onDisk.tenant.timeline(main), cutoffLsn)
    await expectSame(reference, onDisk.tenant.timeline(main), endLsn)
    for (const lsn of [halfLsn, lsns[4] as Lsn, endLsn]) {
      await expectSame(reference, onDisk.tenant.timeline(branch), lsn)
    }
    await collect(onDisk, branch, 0)
    await onDisk.tenant.timeline(branch).compaction.compactBottom()
    await expectSame(reference, onDisk.tenant.timeline(branch), endLsn)
    expect(onDisk.errors).toEqual([])
    console.log(`main: ${written} bytes stored with its history, ${left} with two states of it`)
  })

  test('without history takes at most twice the size of the data', async () => {
    await using server = await start(TINY)
    const id = newTimelineId()
    await bootstrap(server, id)
    await ingest(server.tenant.timeline(id), endLsn)
    await server.tenant.timeline(id).flush()
    const written = storedBytes(server, id)
    await collect(server, id, 0)
    await server.tenant.timeline(id).createImageLayers()
    await collect(server, id, 0)
    await server.tenant.timeline(id).compaction.compactBottom()
    const sizes = await server.tenant.timeline(id).scanBlobs(KeyClass.RelSize, endLsn)
    const logical = sizes.reduce((sum, { value }) => sum + value.readUInt32LE(0) * PAGE_SIZE, 0)
    const physical = storedBytes(server, id)
    console.log(`${logical} bytes logical, ${written} stored with history, ${physical} without`)
    expect(physical).toBeLessThan(2 * logical)
    expect(server.errors).toEqual([])
  })
})
