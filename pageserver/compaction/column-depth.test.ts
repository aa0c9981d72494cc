/** Images come where reads have become deep, and only there. */
import { expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import { ALL_KEYS } from '../keyspace/key-range.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import { LayerKind } from '../layers/layer-name.ts'
import { quantile } from '../read/read-stats.ts'
import { indexedLayer } from './range-keys.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { ColumnDepths, sampledDepth } from './column-depth.ts'

const START_LSN = 0x1000000
const BLOCKS = 600

async function start(): Promise<{ server: ScratchServer; timeline: Timeline }> {
  const server = await ScratchServer.start({ l0CompactCount: 1, l0DelayMs: 0 })
  const facts = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }
  const timeline = await server.tenant.createTimeline(newTimelineId(), facts, async (filling) => {
    const slot = slotOf(filling)
    for (let blk = 0; blk < BLOCKS; blk++) {
      filling.put(slot, blk, START_LSN, ValueKind.ZeroPage, Buffer.alloc(0), 0, 0)
    }
    const size = Buffer.alloc(4)
    size.writeUInt32LE(BLOCKS)
    filling.put(
      filling.slot(KeyClass.RelSize, 1, 2, 3, 0),
      ...[0, START_LSN, ValueKind.Image, size, 0, 4],
    )
  })
  return { server, timeline }
}

function slotOf(timeline: Timeline): number {
  return timeline.slot(KeyClass.RelBlock, 1, 2, 3, 0)
}

/** A record for each of the blocks, in a delta of their own below the boundary. */
async function addDelta(server: ScratchServer, timeline: Timeline, blks: Iterable<number>) {
  let lsn = Math.max(timeline.lastRecordLsn, START_LSN)
  for (const blk of blks) {
    lsn += 8
    const record = Buffer.alloc(60, blk)
    timeline.put(slotOf(timeline), blk, lsn, ValueKind.Record, record, 0, record.length)
  }
  timeline.publish(lsn)
  await timeline.flush()
  await server.manager.compactor.settle()
}

function* every(step: number, from: number): Generator<number> {
  for (let blk = from; blk < BLOCKS; blk += step) yield blk
}

function deltasOf(timeline: Timeline) {
  return timeline.layers.newestFirst.filter(
    ({ id }) => id.kind === LayerKind.Delta && id.startLsn > START_LSN,
  )
}

function hasImages(timeline: Timeline): boolean {
  return timeline.layers.newestImageLsn > 0
}

test('deltas of the same pages get images; a read visits few layers however many there were', async () => {
  const { server, timeline } = await start()
  await using _ = server
  for (let round = 0; round < 12; round++) {
    await addDelta(server, timeline, every(1, 0))
    server.manager.readStats.visited.fill(0)
    for (const blk of every(50, 0)) {
      await timeline.readPage(slotOf(timeline), blk, timeline.lastRecordLsn)
    }
    expect(quantile(server.manager.readStats.visited, 1)).toBeLessThanOrEqual(4)
  }
  expect(hasImages(timeline)).toBe(true)
})

test('as many deltas of different pages get none: a read comes to one of them', async () => {
  const { server, timeline } = await start()
  await using _ = server
  for (let round = 0; round < 12; round++) await addDelta(server, timeline, every(12, round))
  expect(deltasOf(timeline)).toHaveLength(12)
  expect(hasImages(timeline)).toBe(false)
  await addDelta(server, timeline, every(1, 0))
  expect(hasImages(timeline)).toBe(false)
  await addDelta(server, timeline, every(1, 0))
  expect(hasImages(timeline)).toBe(true)
})

test('what is counted ends at a page that needs nothing older', async () => {
  const { server, timeline } = await start()
  await using _ = server
  await addDelta(server, timeline, every(1, 0))
  await addDelta(server, timeline, every(2, 0))
  const depth = async () => {
    const layers = deltasOf(timeline)
    const indexed = await Promise.all(layers.map(indexedLayer))
    const { slots } = timeline.source
    return sampledDepth(indexed, slots, ALL_KEYS, START_LSN + 1, timeline.lastRecordLsn + 1)
  }
  // Of three rows two lie in pages that both have.
  expect(await depth()).toBeGreaterThan(1.5)
  expect(await depth()).toBeLessThan(1.85)
  let lsn = timeline.lastRecordLsn
  for (const blk of every(1, 0)) {
    timeline.put(slotOf(timeline), blk, (lsn += 8), ValueKind.ZeroPage, Buffer.alloc(0), 0, 0)
  }
  timeline.publish(lsn)
  await timeline.flush()
  await server.manager.compactor.settle()
  expect(await depth()).toBe(1)
})

test('a column is looked at again when it may have become deep', () => {
  const depths = new ColumnDepths()
  const column = { ...ALL_KEYS, sinceLsn: 7 }
  expect(depths.bound(column, 3)).toBe(3)
  expect(depths.isExact(column, 3)).toBe(false)
  depths.note(column, 3, 1.5)
  depths.during(() => expect(depths.bound(column, 3)).toBe(1.5))
  expect(depths.isExact(column, 3)).toBe(true)
  depths.during(() => expect(depths.bound(column, 5)).toBe(3.5))
  expect(depths.isExact(column, 5)).toBe(false)
  // An image since then: all is counted anew.
  expect(depths.bound({ ...column, sinceLsn: 9 }, 2)).toBe(2)
  depths.during(() => undefined)
  expect(depths.bound(column, 3)).toBe(3)
})
