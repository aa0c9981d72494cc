/** What a read costs in layers after long churn; everything is random by a fixed seed. */
import { expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { quantile } from '../read/read-stats.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'

const ROUNDS = 100
const BLOCKS = 400
const HOT_BLOCKS = 2
const RECORDS = 400
const START_LSN = 0x1000000
const KIB = 1024
/** Behaviour 39 of docs/coverage.md. */
const MOST_VISITED = 8

/** Reads since the last time: how many, and of how many layers at the 99th percentile. */
function takeStats(server: ScratchServer) {
  const { visited } = server.manager.readStats
  const reads = visited.reduce((sum, count) => sum + count, 0)
  const stats = { reads, p99: quantile(visited, 0.99) }
  visited.fill(0)
  return stats
}

test('100 rounds of churn leave at most one L0 layer, and reads that visit fewer than 8', {
  timeout: 120_000,
}, async () => {
  await using server = await ScratchServer.start({
    rollSizeBytes: 64 * KIB,
    l1LayerBytes: 1024 * KIB,
    imageLayerBytes: 1024 * KIB,
    imageDeltaBytes: 64 * KIB,
  })
  let state = 1
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const page = Buffer.from(Uint8Array.from({ length: PAGE_SIZE }, () => random(256)))
  const facts = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }
  const timeline = await server.tenant.createTimeline(newTimelineId(), facts, async (filling) => {
    const size = Buffer.alloc(4)
    size.writeUInt32LE(BLOCKS)
    const sizeSlot = filling.slot(KeyClass.RelSize, 1663, 5, 16384, 0)
    filling.put(sizeSlot, 0, START_LSN, ValueKind.Image, size, 0, 4)
    const slot = filling.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
    for (let blk = 0; blk < BLOCKS; blk++) {
      filling.put(slot, blk, START_LSN, ValueKind.Image, page, 0, PAGE_SIZE)
    }
  })
  const slot = timeline.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
  let lsn = START_LSN
  for (let round = 0; round < ROUNDS; round++) {
    for (let index = 0; index < RECORDS; index++) {
      lsn += 128
      const blk = random(4) === 0 ? random(HOT_BLOCKS) : random(BLOCKS)
      timeline.put(slot, blk, lsn, ValueKind.Record, page, random(4000), 60 + random(100))
    }
    timeline.publish(lsn)
    await timeline.flush()
    await server.manager.compactor.settle()
    for (let read = 0; read < 20; read++) await timeline.readPage(slot, random(BLOCKS), lsn)
  }
  const during = takeStats(server)
  expect(during.reads).toBeGreaterThanOrEqual(20 * ROUNDS)
  expect(during.p99).toBeLessThan(MOST_VISITED)

  await timeline.createImageLayers()
  expect(timeline.layers.l0.length).toBeLessThanOrEqual(1)
  takeStats(server)
  for (let blk = 0; blk < BLOCKS; blk++) await timeline.readPage(slot, blk, lsn)
  const after = takeStats(server)
  expect(after.reads).toBe(BLOCKS)
  expect(after.p99).toBeLessThan(MOST_VISITED)
  for (let read = 0; read < 1000; read++) {
    const back = random((lsn - START_LSN) / 8) * 8
    await timeline.readPage(slot, random(BLOCKS), START_LSN + back)
  }
  const ofThePast = takeStats(server)
  expect(ofThePast.p99).toBeLessThan(MOST_VISITED)
})
