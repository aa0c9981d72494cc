/**
 * A base backup with WAL that shards take in, each its own part, gives together what one pageserver
 * makes of the same files: every page of every relation, at all LSNs from its first on.
 */
import { cp, mkdir, mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import {
  formatLsn,
  type Lsn,
  parseLsn,
  segmentFileName,
  segmentNumber,
  segmentOffset,
  WAL_SEGMENT_SIZE,
  writeLsnLE,
} from '#libs/lsn.ts'
import { CHECKPOINT_SIZE, writeCheckpoint } from '#libs/pg/checkpoint.ts'
import { DB_STATE, serializeControlFile } from '#libs/pg/control-file.ts'
import { shardOfBlock } from '#libs/sharding.ts'
import { HEAP_INFO, INIT_FORK, RMGR, XLOG_INFO } from '#libs/wal/format.ts'
import { buildPayload, WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { RANDOM_WAL_RELATION, RandomWal } from '../../test_runner/oracle/random-wal.ts'
import { Prng } from '../../test_runner/sim/prng.ts'
import { exampleControl } from '../ingest/testing/example-control.ts'
import { exampleState } from '../ingest/testing/example-state.ts'
import { KeyClass, PAGE_SIZE } from '../keyspace/key-class.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { ImportJobs } from './import-jobs.ts'

const START: Lsn = 3 * WAL_SEGMENT_SIZE + 0x28
const { spc: SPC, db: DB } = RANDOM_WAL_RELATION
const COUNT = 3
const SLOT = 'zenith_test'

/** 16386 is unlogged; 16387 ends within a stripe. */
const FILES: Readonly<Record<string, number>> = {
  '16384': 0,
  '16385': 1,
  '16386': 5,
  '16386_init': 1,
  '16387': 150,
  '16387_fsm': 3,
  '16387_vm': 1,
  '16388': 128,
}

let folder: string
/** Whole, and with WAL that ends earlier. */
let backup: string
let shorter: string
let completeLsn: Lsn
let middleLsn: Lsn
let endLsn: Lsn
const servers: ScratchServer[] = []

function filePages(name: string, blocks: number): Buffer {
  const bytes = Buffer.alloc(blocks * PAGE_SIZE)
  for (let blk = 0; blk < blocks; blk += 1) {
    // One is empty.
    if (blk === 77) continue
    bytes.write(`block ${blk} of ${name}`, blk * PAGE_SIZE + 24)
  }
  return bytes
}

async function writeWal(target: string, bytes: Buffer): Promise<void> {
  for (let at = START; at < START + bytes.length; ) {
    const name = segmentFileName(1, segmentNumber(at))
    const file = await open(join(target, 'pg_wal', name), 'w')
    const offset = segmentOffset(at)
    const from = at - START
    const length = Math.min(WAL_SEGMENT_SIZE - offset, bytes.length - from)
    await file.write(bytes, from, length, offset)
    await file.truncate(WAL_SEGMENT_SIZE)
    await file.close()
    at += length
  }
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sharded-import-'))
  backup = join(folder, 'whole')
  shorter = join(folder, 'shorter')
  const wal = new WalBuilder(START)
  const random = new Prng(5)
  wal.append(RMGR.XLOG, XLOG_INFO.CHECKPOINT_REDO, 0, buildPayload({ main: Buffer.alloc(4, 1) }))
  const main = Buffer.alloc(CHECKPOINT_SIZE)
  const checkpoint = { ...exampleState.checkpoint, redo: START }
  writeCheckpoint(checkpoint, main)
  const online = wal.append(RMGR.XLOG, XLOG_INFO.CHECKPOINT_ONLINE, 0, buildPayload({ main }))
  const nextXid = checkpoint.nextXid % 2 ** 32
  const rare = new RandomWal(
    wal,
    random,
    { nextXid, nextMulti: 1, nextMultiOffset: 1 },
    {
      lateOffsetsPages: false,
    },
  )
  let last = online
  const work = () => {
    for (let round = 0; round < 4; round += 1) {
      rare.append(20)
      for (let index = 0; index < 30; index += 1) {
        // Blocks that are there, and some past the end of the file.
        const block = random.int(0, 170)
        const blocks = [
          { id: 0, spc: SPC, db: DB, rel: 16387, block, data: Buffer.alloc(4, index) },
        ]
        const payload = buildPayload({ main: Buffer.from([1, 0, 1]), blocks })
        last = wal.append(RMGR.HEAP, HEAP_INFO.INSERT, 0, payload)
      }
    }
    return last.endLsn
  }
  work()
  const startLsn = Buffer.alloc(8)
  writeLsnLE(startLsn, START, 0)
  const ending = wal.append(RMGR.XLOG, XLOG_INFO.BACKUP_END, 0, buildPayload({ main: startLsn }))
  completeLsn = ending.endLsn
  middleLsn = work()
  endLsn = work()
  const bytes = wal.bytes()

  for (const name of ['base/5', 'global', 'pg_wal', 'pg_xact']) {
    await mkdir(join(backup, name), { recursive: true })
  }
  const put = (name: string, content: string | Buffer) => writeFile(join(backup, name), content)
  await put('PG_VERSION', '17\n')
  const control = { ...exampleControl(), state: DB_STATE.inProduction }
  await put('global/pg_control', serializeControlFile(control))
  await put('global/pg_filenode.map', Buffer.alloc(524, 1))
  await put('base/5/pg_filenode.map', Buffer.alloc(524, 2))
  await put('pg_xact/0000', filePages('status', 1))
  for (const [name, blocks] of Object.entries(FILES)) {
    await put(`base/5/${name}`, filePages(name, blocks))
  }
  const segment = segmentFileName(1, segmentNumber(START))
  await put(
    'backup_label',
    `START WAL LOCATION: ${formatLsn(START)} (file ${segment})\n` +
      `CHECKPOINT LOCATION: ${formatLsn(online.startLsn)}\nBACKUP FROM: primary\nSTART TIMELINE: 1\n`,
  )
  await cp(backup, shorter, { recursive: true })
  await writeWal(backup, bytes.subarray(0, endLsn - START))
  await writeWal(shorter, bytes.subarray(0, middleLsn - START))
})
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop()
})
afterAll(() => rm(folder, { recursive: true, force: true }))

interface World {
  server: ScratchServer
  jobs: ImportJobs
  imports: string
  ids: (shard: number) => { tenantId: Timeline['tenantId']; timelineId: Timeline['timelineId'] }
}

async function world(stripeBlocks: number | null): Promise<World> {
  const limits = { imageLayerBytes: 256 * 1024, rollSizeBytes: 64 * 1024 }
  const shards = stripeBlocks === null ? undefined : { count: COUNT, stripeBlocks }
  const server = await ScratchServer.start(limits, undefined, shards)
  servers.push(server)
  const imports = join(server.folder, 'imports')
  await mkdir(imports)
  const jobs = new ImportJobs({
    tenants: server.manager,
    folder: imports,
    pgVersion: async () => 170011,
    log: pino({ level: 'silent' }),
  })
  const timelineId = newTimelineId()
  const ids = (shard: number) => ({
    tenantId: server.shards[shard]?.tenantId as Timeline['tenantId'],
    timelineId,
  })
  return { server, jobs, imports, ids }
}

const sourceAt = (path: string) => ({ kind: 'backup', path }) as const

async function ended({ jobs, ids }: World, shard: number) {
  await expect.poll(() => jobs.get(ids(shard)).state, { timeout: 60_000 }).not.toBe('running')
  return jobs.get(ids(shard))
}

const timelineAt = ({ server, ids }: World, shard: number): Timeline =>
  (server.shards[shard] as ScratchServer['tenant']).timeline(ids(shard).timelineId)

/** Begins on all shards, each from its own path; agrees; waits. */
async function importAll(world: World, paths: readonly string[]): Promise<Lsn> {
  const { jobs, ids } = world
  for (const [shard, path] of paths.entries()) jobs.start(ids(shard), sourceAt(path), SLOT)
  const ends: Lsn[] = []
  for (const shard of paths.keys()) {
    const known = () => jobs.get(ids(shard)).walEndLsn
    await expect.poll(known, { timeout: 60_000 }).not.toBeNull()
    ends.push(parseLsn(known() as string))
    expect(jobs.get(ids(shard)).state).toBe('running')
  }
  const agreed = Math.min(...ends)
  for (const [shard, path] of paths.entries()) {
    jobs.start(ids(shard), sourceAt(path), SLOT, agreed)
  }
  for (const shard of paths.keys()) {
    expect(await ended(world, shard)).toMatchObject({
      state: 'done',
      error: null,
      startLsn: formatLsn(completeLsn),
      endLsn: formatLsn(agreed),
    })
  }
  expect(await readdir(world.imports)).toEqual([])
  return agreed
}

async function wholeImport(path: string): Promise<Timeline> {
  const one = await world(null)
  one.jobs.start(one.ids(0), sourceAt(path), SLOT)
  expect(await ended(one, 0)).toMatchObject({ state: 'done', error: null })
  return timelineAt(one, 0)
}

/** Sizes on all shards, every page on its own; returns how many pages each shard has. */
async function expectSame(world: World, stripe: number, whole: Timeline, lsn: Lsn) {
  const pages = [0, 0, 0]
  const sizes = await whole.scanBlobs(KeyClass.RelSize, lsn)
  expect(sizes.length).toBeGreaterThan(8)
  for (const shard of pages.keys()) {
    expect(await timelineAt(world, shard).scanBlobs(KeyClass.RelSize, lsn)).toEqual(sizes)
  }
  for (const { spc, db, rel, fork, value } of sizes) {
    for (let blk = 0; blk < value.readUInt32LE(0); blk += 1) {
      const shard =
        fork === INIT_FORK ? 0 : shardOfBlock(rel, blk, { count: COUNT, stripeBlocks: stripe })
      const read = (timeline: Timeline) =>
        timeline.readPage(timeline.slot(KeyClass.RelBlock, spc, db, rel, fork), blk, lsn)
      const [found, expected] = [await read(timelineAt(world, shard)), await read(whole)]
      if (!found.equals(expected)) expect.fail(`${rel}.${fork} block ${blk} at ${formatLsn(lsn)}`)
      pages[shard] = (pages[shard] as number) + 1
    }
  }
  for (const cls of [KeyClass.RelMap, KeyClass.DbDir, KeyClass.SlruSegSize, KeyClass.TwoPhase]) {
    expect(await timelineAt(world, 0).scanBlobs(cls, lsn)).toEqual(await whole.scanBlobs(cls, lsn))
    expect(await timelineAt(world, 1).scanBlobs(cls, lsn)).toEqual([])
  }
  return pages
}

describe('an import by several shards', () => {
  test.each([1, 7])('has what one pageserver makes of it: stripes of %i', async (stripe) => {
    const whole = await wholeImport(backup)
    const spread = await world(stripe)
    expect(await importAll(spread, [backup, backup, backup])).toBe(endLsn)
    for (const lsn of stripe === 1 ? [endLsn] : [completeLsn, middleLsn]) {
      const pages = await expectSame(spread, stripe, whole, lsn)
      for (const count of pages) expect(count).toBeGreaterThan(20)
    }
    await spread.server.restart({ wipeLocal: true })
    await expectSame(spread, stripe, whole, endLsn)
  })

  test('ends where the one with the least WAL does', async () => {
    const whole = await wholeImport(shorter)
    const spread = await world(4)
    expect(await importAll(spread, [backup, shorter, backup])).toBe(middleLsn)
    await expectSame(spread, 4, whole, middleLsn)
    for (const shard of [0, 1, 2]) {
      const { walStartLsn, lastRecordLsn } = timelineAt(spread, shard)
      expect([walStartLsn, lastRecordLsn]).toEqual([middleLsn, middleLsn])
    }
  })

  test('is refused where it cannot end, and leaves nothing when it is given up', async () => {
    const spread = await world(4)
    const { jobs, ids, imports, server } = spread
    const wrong: [Lsn, RegExp][] = [
      [completeLsn - 8, /can end from .* and other shards end at/],
      [endLsn + 8, /can end from .* and other shards end at/],
      [endLsn - 8, /no record ends at/],
    ]
    for (const [at, message] of wrong) {
      jobs.start(ids(1), sourceAt(backup), SLOT, at)
      const { state, error } = await ended(spread, 1)
      expect([state, error?.message]).toEqual(['failed', expect.stringMatching(message)])
    }
    jobs.start(ids(2), sourceAt(backup), SLOT)
    await expect.poll(() => jobs.get(ids(2)).walEndLsn).not.toBeNull()
    await jobs.abort(ids(2))
    expect(() => jobs.get(ids(2))).toThrow('is under way')
    expect(await readdir(imports)).toEqual([])
    expect((await server.store.list('tenants')).objects).toEqual([])
  })
})
