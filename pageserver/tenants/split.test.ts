import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import { newTenantId, newTimelineId, type TenantId } from '#libs/ids.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { checkStorage } from '../check/storage-check.ts'
import type { CompactionRunner } from '../compaction/job.ts'
import { LocalRunner } from '../compaction/runner.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { sweepFormer } from './former.ts'
import { isParentOf } from './split.ts'
import { heatmapOf } from '../secondary/heatmap.ts'
import { Secondary } from '../secondary/secondary.ts'
import { ScratchServer } from './testing/scratch-server.ts'
import {
  expectOwnOnly as expectEachOwnOnly,
  FACTS,
  putRound,
  START,
  STRIPE,
} from './testing/striped-pages.ts'

const main = newTimelineId()
const branch = newTimelineId()
const archived = newTimelineId()
let server: ScratchServer
/** How many shards there are now, and their generation. */
let count = 1
let generation = 2
/** Compaction would drop what was taken over before the tests have looked at it. */
let mayRewrite = false

const idOf = (shard: number, of = count) => tenantShardId(server.tenantId, shard, of)
const shards = () => Array.from({ length: count }, (_, shard) => shard)
const timelineOf = (shard: number, timelineId = main) =>
  server.manager.tenant(idOf(shard)).timeline(timelineId)
const expectOwnOnly = (lsn: number, round: number, timelineId = main) =>
  expectEachOwnOnly(
    shards().map((shard) => timelineOf(shard, timelineId)),
    lsn,
    round,
  )

async function attachAll(): Promise<void> {
  generation++
  for (const shard of shards()) {
    await server.manager.attach(idOf(shard), generation, undefined, STRIPE)
  }
}

/** As the control plane does it: the parents are stale, their children take over, the parents go. */
async function split(to: number): Promise<void> {
  const from = count
  const parents = shards().map((shard) => idOf(shard))
  for (const parent of parents) {
    const tenant = server.manager.tenant(parent)
    for (const timeline of tenant.timelines()) await timeline.flush()
    await tenant.become('stale')
  }
  count = to
  generation++
  for (const shard of shards()) {
    const parent = { tenantId: parents[shard % from] as TenantId, generation: generation - 1 }
    await server.manager.attach(idOf(shard), generation, undefined, STRIPE, 'attached', parent)
  }
  for (const parent of parents) await server.manager.detach(parent)
}

const borrowed = (shard: number, timelineId = main) =>
  timelineOf(shard, timelineId).layers.newestFirst.filter(({ splitFrom }) => splitFrom)

async function check(): Promise<string[]> {
  const options = { quick: false, removeOrphans: false, onProgress: () => undefined }
  return (await checkStorage(server.store, options)).problems
}

beforeAll(async () => {
  server = await ScratchServer.start({ l0CompactCount: 100 })
  server.runner = (store) => {
    const local = new LocalRunner(store, server.toy)
    const run: CompactionRunner['run'] = (job, stop) =>
      mayRewrite ? local.run(job, stop) : Promise.reject(new ZenithError('unavailable', 'not yet'))
    return { run, close: () => local.close() }
  }
  await server.restart()
  await server.tenant.createTimeline(main, FACTS, async (empty) => putRound(empty, START, 0))
  putRound(timelineOf(0), START + 0x100, 1)
  await timelineOf(0).flush()
  const at = { ancestorTimelineId: main, ancestorLsn: START + 0x100 }
  await server.tenant.branchTimeline(branch, at)
  await server.tenant.branchTimeline(archived, at)
  putRound(timelineOf(0, branch), START + 0x180, 7)
  putRound(timelineOf(0, archived), START + 0x180, 8)
  await server.tenant.lives.archive(archived)
  putRound(timelineOf(0), START + 0x200, 2)
})
afterAll(() => server.stop())

describe('a shard that begins as a part of another', () => {
  test('knows who its parent is', () => {
    const id = (shard: number, of: number) => tenantShardId('a'.repeat(32), shard, of)
    expect(isParentOf(id(0, 1), id(1, 2))).toBe(true)
    expect(isParentOf(id(1, 2), id(3, 4))).toBe(true)
    expect(isParentOf(id(0, 2), id(3, 4))).toBe(false)
    expect(isParentOf(id(0, 2), id(1, 3))).toBe(false)
    expect(isParentOf(id(0, 2), id(0, 2))).toBe(false)
    expect(isParentOf(id(0, 1), tenantShardId('b'.repeat(32), 1, 2))).toBe(false)
  })

  test('has just what is its own, at all LSNs and on all timelines, and copied nothing', async () => {
    await split(2)
    await expectOwnOnly(START, 0)
    await expectOwnOnly(START + 0x100, 1)
    await expectOwnOnly(START + 0x200, 2)
    await expectOwnOnly(START + 0x180, 7, branch)
    for (const shard of shards()) {
      expect(borrowed(shard)).toHaveLength(timelineOf(shard).layers.newestFirst.length)
      // The files of the parent are there without having been fetched.
      expect(borrowed(shard).every((layer) => layer.isResident)).toBe(true)
      await server.manager.tenant(idOf(shard)).lives.unarchive(archived)
    }
    await expectOwnOnly(START + 0x180, 8, archived)
    expect(await check()).toEqual([])
  })

  test('is copied by a secondary, with the layers that its parent has', async () => {
    await using other = await ScratchServer.start()
    const tenantId = idOf(1)
    const heatmap = heatmapOf(server.manager.tenant(tenantId).timelines())
    const copyOf = (what: TenantId) => {
      const { store } = server
      const { folder } = other
      const ask = () => Promise.resolve(heatmap)
      return new Secondary({
        tenantId: what,
        folder,
        store,
        log: pino({ level: 'silent' }),
        heatmap: ask,
      })
    }
    const own = copyOf(tenantId)
    own.start()
    await expect.poll(() => own.info.missingBytes, { timeout: 10_000 }).toBe(0)
    expect(own.info).toMatchObject({
      layers: heatmap.timelines.flatMap((one) => one.layers).length,
      lastError: null,
    })
    await own.stop()
    // Nothing of a shard that it was not split from.
    const stranger = copyOf(tenantShardId(newTenantId(), 1, 2))
    stranger.start()
    await expect.poll(() => stranger.info.lastError, { timeout: 10_000 }).toContain('of object')
    await stranger.stop()
  })

  test('takes in WAL, is restarted without its disk, and is split again', async () => {
    for (const shard of shards()) {
      putRound(timelineOf(shard), START + 0x300, 3)
      await timelineOf(shard).flush()
    }
    await server.restart({ wipeLocal: true })
    await attachAll()
    await expectOwnOnly(START + 0x300, 3)
    for (const shard of shards()) putRound(timelineOf(shard), START + 0x400, 4)
    await split(4)
    const from = new Set(borrowed(3).map(({ splitFrom }) => splitFrom))
    expect(from).toEqual(new Set([server.tenantId, idOf(1, 2)]))
    for (const [lsn, round] of [[0, 0] as const, [0x200, 2] as const, [0x400, 4] as const]) {
      await expectOwnOnly(START + lsn, round)
    }
    await expectOwnOnly(START + 0x180, 7, branch)
    expect(await check()).toEqual([])
  })

  test('lets its parents go object by object, as none of the shards needs them', async () => {
    const borrowedNow = () =>
      shards().flatMap((shard) => server.manager.tenant(idOf(shard)).lives.borrowed())
    const sweepAll = async (kept: readonly string[]) => {
      let left = 0
      for (const former of [idOf(0, 1), idOf(0, 2), idOf(1, 2)]) {
        const keep = new Set(kept.filter((name) => name.startsWith(`tenants/${former}/`)))
        left += await sweepFormer(server.store, idOf(0), former, keep)
      }
      return left
    }
    const before = borrowedNow()
    expect(await sweepAll(before)).toBe(new Set(before).size)
    await server.restart({ wipeLocal: true })
    await attachAll()
    await expectOwnOnly(START + 0x200, 2)
    expect(await check()).toEqual([])
    mayRewrite = true
    // Compaction writes with their own keys alone what was taken over, images that cover more too.
    for (const shard of shards()) {
      for (const timeline of server.manager.tenant(idOf(shard)).timelines()) {
        await timeline.compaction.rewriteOwn()
      }
    }
    const foreign = borrowedNow()
    expect(foreign.length).toBeLessThan(before.length)
    expect(await sweepAll(foreign)).toBe(new Set(foreign).size)
    await server.restart({ wipeLocal: true })
    await attachAll()
    for (const [lsn, round] of [[0, 0] as const, [0x200, 2] as const, [0x400, 4] as const]) {
      await expectOwnOnly(START + lsn, round)
    }
    await expectOwnOnly(START + 0x180, 7, branch)
    expect(await check()).toEqual([])
    await expect(sweepFormer(server.store, idOf(0), idOf(1), new Set())).rejects.toThrow('not what')
  })

  test('drops what it refers to as it is compacted, and releases none of it', async () => {
    server.doomed.length = 0
    for (const shard of shards()) {
      const timeline = timelineOf(shard)
      while (await timeline.compaction.compactL0(1)) continue
      await timeline.createImageLayers()
      expect(borrowed(shard)).toEqual([])
    }
    for (const [lsn, round] of [[0, 0] as const, [0x200, 2] as const, [0x400, 4] as const]) {
      await expectOwnOnly(START + lsn, round)
    }
    const own = shards().map((shard) => `tenants/${idOf(shard)}/`)
    const foreign = server.doomed.filter((name) => !own.some((folder) => name.startsWith(folder)))
    expect(foreign).toEqual([])
    expect(await check()).toEqual([])
  })

  test('is detached from its ancestor, whose layers lie with the parent', async () => {
    for (const shard of shards()) {
      const { lives } = server.manager.tenant(idOf(shard))
      await lives.detach(branch, { ancestorTimelineId: main, ancestorLsn: START + 0x100 })
    }
    await server.restart({ wipeLocal: true })
    await attachAll()
    await expectOwnOnly(START + 0x180, 7, branch)
    await expectOwnOnly(START + 0x100, 1, branch)
    expect(await check()).toEqual([])
  })
})

test('a crash between two timelines is answered by doing it again', async () => {
  await using other = await ScratchServer.start()
  const timelines = [newTimelineId(), newTimelineId(), newTimelineId()]
  for (const timelineId of timelines) {
    await other.tenant.createTimeline(timelineId, FACTS, async (empty) => putRound(empty, START, 5))
  }
  await other.tenant.become('stale')
  const child = tenantShardId(other.tenantId, 1, 2)
  const parent = { tenantId: other.tenantId, generation: 1 }
  let steps = 0
  other.onStep = (step) => {
    if (step === 'split-timeline' && ++steps === 2) throw new Error('cut off')
  }
  const attach = (by: number) =>
    other.manager.attach(child, by, undefined, STRIPE, 'attached', parent)
  await expect(attach(2)).rejects.toThrow('cut off')
  expect(other.manager.find(child)).toBeNull()
  other.onStep = () => undefined
  const tenant = await attach(3)
  expect(tenant.timelines()).toHaveLength(3)
  // Again under the same generation it is what it was, and what it has written since stays.
  const [timeline] = tenant.timelines() as [Timeline]
  putRound(timeline, START + 0x100, 6)
  await timeline.flush()
  expect(await attach(3)).toBe(tenant)
  expect((await attach(4)).timeline(timeline.timelineId).lastRecordLsn).toBe(START + 0x100)
})
