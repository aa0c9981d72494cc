/**
 * Goal: WAL that a server seldom or no longer writes is understood as stock Postgres understands it:
 * multixacts as minor versions before 17.8 logged them, records cut off by a crash, segment switches
 * at every odd place, hint records with and without images, images of 33 pages, origins, truncation.
 * Method: built WAL is put behind the last record of a stopped stock server; stock Postgres recovers
 * it, the page server takes it in; pg_control, SLRU files, origins and relation files are compared.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { formatLsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE, walHeaderSize } from '#libs/lsn.ts'
import { importLsn } from '../../pageserver/import/data-folder-import.ts'
import { checkpointAt } from '../../pageserver/ingest/checkpoint-state.ts'
import { KeyClass } from '../../pageserver/keyspace/key-class.ts'
import type { MemoryTimeline } from '../fixtures/memory-timeline.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { WalBuilder } from '../fixtures/wal-builder.ts'
import { controlOf, importIntoMemory, ingestBytes } from '../oracle/memory-ingest.ts'
import { RANDOM_WAL_RELATION, RandomWal } from '../oracle/random-wal.ts'
import { listRelationFiles, readBlocks } from '../oracle/relation-files.ts'
import { differentSlruPages } from '../oracle/slru-files.ts'
import { type Recovered, recoverWithStock } from '../oracle/stock-recovery.ts'
import { TRANSACTION_SETTINGS } from '../oracle/transaction-workload.ts'
import { Prng } from '../sim/prng.ts'

const FSM_FORK = 1
/** Sizes of the pieces in which WAL comes. */
const SLICES = [50_000, 777]

let server: VanillaPostgres

beforeAll(async () => {
  server = await VanillaPostgres.start({ settings: { ...TRANSACTION_SETTINGS } })
  await server.stop()
})

afterAll(async () => {
  await server[Symbol.asyncDispose]()
})

function builder(): WalBuilder {
  const control = controlOf(server.dataDir)
  return new WalBuilder(importLsn(control), {
    systemId: control.systemId,
    previousLsn: control.checkpointLsn,
  })
}

/** Both make their own of the WAL; everything that can be compared is. */
async function expectSame(wal: WalBuilder): Promise<MemoryTimeline> {
  const bytes = wal.bytes()
  await using stock = await recoverWithStock({
    baseDir: server.dataDir,
    wal: { startLsn: wal.startLsn, bytes },
    settings: { ...TRANSACTION_SETTINGS, max_replication_slots: '20' },
  })
  const last = wal.records.at(-1)
  expect(stock.log).toContain(`redo done at ${formatLsn(last?.startLsn ?? 0)}`)
  let timeline: MemoryTimeline | null = null
  for (const sliceBytes of SLICES) {
    timeline = await importIntoMemory(server.dataDir)
    await ingestBytes(timeline, bytes, sliceBytes)
    expect(timeline.lastRecordLsn).toBe(wal.lsn)
    await expectStateOf(stock, timeline)
  }
  return timeline as MemoryTimeline
}

async function expectStateOf(stock: Recovered, timeline: MemoryTimeline): Promise<void> {
  const expected = stock.control.checkpoint
  const { checkpoint } = await checkpointAt(timeline, timeline.lastRecordLsn)
  for (const counter of [
    'nextXid',
    'nextOid',
    'nextMulti',
    'nextMultiOffset',
    'oldestMulti',
    'oldestMultiDb',
    'oldestXid',
    'oldestCommitTsXid',
  ] as const) {
    expect(checkpoint[counter], counter).toBe(expected[counter])
  }
  const { compared, different } = await differentSlruPages(
    timeline,
    stock.dataDir,
    timeline.lastRecordLsn,
    expected.oldestCommitTsXid,
  )
  expect(different).toEqual([])
  expect(compared).toBeGreaterThan(0)
  expect(await originsOf(timeline)).toEqual(readOrigins(stock.dataDir))
  await expectRelations(stock, timeline)
}

async function originsOf(timeline: MemoryTimeline): Promise<Map<number, bigint>> {
  const live = await timeline.scanBlobs(KeyClass.ReplOrigin, timeline.lastRecordLsn)
  return new Map(
    live.map((entry) => [entry.rel, entry.value.readBigUInt64LE(0)] as const).toSorted(byId),
  )
}

/** replorigin_checkpoint: magic u32 | id u16, 6 unused, LSN u64 each | CRC u32. */
function readOrigins(dataDir: string): Map<number, bigint> {
  const path = join(dataDir, 'pg_logical', 'replorigin_checkpoint')
  const file = existsSync(path) ? readFileSync(path) : Buffer.alloc(8)
  const origins: [number, bigint][] = []
  for (let at = 4; at + 16 < file.length; at += 16) {
    origins.push([file.readUInt16LE(at), file.readBigUInt64LE(at + 8)])
  }
  return new Map(origins.toSorted(byId))
}

function byId(left: readonly [number, bigint], right: readonly [number, bigint]): number {
  return left[0] - right[0]
}

async function expectRelations(stock: Recovered, timeline: MemoryTimeline): Promise<void> {
  const { spc, db, firstRel, count } = RANDOM_WAL_RELATION
  const files = listRelationFiles(stock.dataDir)
  const sizes = await timeline.scanBlobs(KeyClass.RelSize, timeline.lastRecordLsn, { spc, db })
  for (const entry of sizes) {
    if (entry.rel < firstRel || entry.rel >= firstRel + count) continue
    const { rel, fork } = entry
    const key = `${spc}/${db}/${rel}.${fork}`
    const file = files.get(key)
    files.delete(key)
    const blocks = entry.value.readUInt32LE(0)
    expect(file?.blocks, key).toBe(blocks)
    if (file === undefined) continue
    const slot = timeline.slot(KeyClass.RelBlock, spc, db, rel, fork)
    for (let block = 0; block < blocks; block += 1) {
      const page = timeline.page(slot, block) as Buffer
      expect(page.equals(readBlocks(file, block, 1)), `${key} block ${block}`).toBe(true)
    }
  }
  const left = [...files.values()].filter(
    ({ rel, fork }) => rel >= firstRel && rel < firstRel + count && fork !== FSM_FORK,
  )
  expect(left).toEqual([])
}

describe('random records', () => {
  for (const lateOffsetsPages of [false, true]) {
    test(`multixacts as ${lateOffsetsPages ? 'before' : 'since'} 17.8`, async () => {
      for (let round = 0; round < 2; round += 1) {
        const seed = Math.floor(Math.random() * 2 ** 31)
        const wal = builder()
        const start = controlOf(server.dataDir).checkpoint
        new RandomWal(wal, new Prng(seed), start, { lateOffsetsPages }).append(3000)
        await expectSame(wal).catch((error: unknown) => {
          throw new Error(`seed ${seed}: ${String(error)}`, { cause: error })
        })
      }
    })
  }
})

/** Bytes from a page end at which a record of 24 bytes touches it, or nearly. */
const NEAR_PAGE_END = [72, 48, 32, 24, 16, 8]

describe('segment switches', () => {
  test('before and across the end of a page', async () => {
    const wal = builder()
    for (const bytesLeft of NEAR_PAGE_END) {
      fillUntil(wal, WAL_PAGE_SIZE - bytesLeft, WAL_PAGE_SIZE)
      wal.appendSwitch()
      wal.appendNoop(100, 5000 + bytesLeft)
    }
    await expectSame(wal)
  })

  test('before and across the end of a segment, and on an empty segment', async () => {
    const wal = builder()
    for (const bytesLeft of NEAR_PAGE_END) {
      fillUntil(wal, WAL_SEGMENT_SIZE - bytesLeft, WAL_SEGMENT_SIZE)
      wal.appendSwitch()
      wal.appendNoop(60)
      if (bytesLeft === 48) wal.appendSwitch()
    }
    wal.appendNoop(100, 5000)
    await expectSame(wal)
  })
})

test('records that a crash cut off at every place of a page', async () => {
  const wal = builder()
  for (let bytesLeft = 8; bytesLeft < WAL_PAGE_SIZE - 64; bytesLeft += bytesLeft < 96 ? 8 : 1096) {
    fillUntil(wal, WAL_PAGE_SIZE - bytesLeft, WAL_PAGE_SIZE)
    wal.appendOverwritten(9000 + bytesLeft)
    wal.appendNoop(50)
  }
  fillUntil(wal, WAL_SEGMENT_SIZE - 8, WAL_SEGMENT_SIZE)
  wal.appendOverwritten(100_000)
  wal.appendNoop(100, 6000)
  await expectSame(wal)
})

/** Appends records until the next one begins at `residue` modulo `unit`. */
function fillUntil(wal: WalBuilder, residue: number, unit: number): void {
  const left = () => (unit + residue - (wal.lsn % unit)) % unit
  while (left() > 2 * WAL_PAGE_SIZE) wal.appendNoop(Math.min(left() - WAL_PAGE_SIZE, 400_000))
  while (left() !== 0) {
    const inPage = WAL_PAGE_SIZE - (wal.lsn % WAL_PAGE_SIZE)
    const start = wal.lsn % WAL_PAGE_SIZE === 0 ? walHeaderSize(wal.lsn) : 0
    const room = Math.min(left(), inPage) - start
    // Never leave less than a record needs, unless that is where the next one begins.
    if (room >= 32 && (room === left() - start || room > 96)) {
      wal.appendNoop(room === left() - start ? room : room - 64)
    } else wal.appendNoop(room + 64)
  }
}
