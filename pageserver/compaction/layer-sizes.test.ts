/** No layer outgrows its bound by much, however many relations there are or however hot a key is. */
import { expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { Timeline } from '../timeline/timeline.ts'

const START_LSN = 0x1000000
const RELATIONS = 2000
const SNAPSHOTS = 10_000
const LAYER_BYTES = 256 * 1024
const ROLL_BYTES = 1024 * 1024

test('2,000 partitions and 10,000 snapshots of running transactions make no giant layer', {
  timeout: 60_000,
}, async () => {
  await using server = await ScratchServer.start({
    rollSizeBytes: ROLL_BYTES,
    l1LayerBytes: LAYER_BYTES,
    imageLayerBytes: LAYER_BYTES,
    l0CompactCount: 1000,
  })
  const facts = { startLsn: START_LSN, systemId: '7', pgVersion: 170011 }
  let lsn = START_LSN
  const putRound = async (timeline: Timeline, round: number) => {
    for (let rel = 0; rel < RELATIONS; rel++) {
      const size = Buffer.alloc(4)
      size.writeUInt32LE(1)
      const sizeSlot = timeline.slot(KeyClass.RelSize, 1, 2, rel, 0)
      timeline.put(sizeSlot, 0, lsn, ValueKind.Image, size, 0, 4)
      const slot = timeline.slot(KeyClass.RelBlock, 1, 2, rel, 0)
      if (round === 0 && rel % 4 === 0) {
        const page = Buffer.alloc(PAGE_SIZE)
        for (let at = 0; at < PAGE_SIZE; at += 4)
          page.writeInt32LE(Math.imul(at + rel, 2654435761) | 0, at)
        timeline.put(slot, 0, lsn, ValueKind.Image, page, 0, PAGE_SIZE)
      } else if (round === 0) {
        timeline.put(slot, 0, lsn, ValueKind.ZeroPage, Buffer.alloc(0), 0, 0)
      } else timeline.put(slot, 0, lsn, ValueKind.Record, Buffer.alloc(100, rel), 0, 100)
      if (rel % 20 > 0) continue
      if (lsn > START_LSN) timeline.publish(lsn)
      await timeline.waitForRoom()
      if (lsn > START_LSN) lsn += 8
    }
  }
  const timeline = await server.tenant.createTimeline(newTimelineId(), facts, (one) =>
    putRound(one, 0),
  )
  lsn += 8
  await putRound(timeline, 1)
  const snapshots = timeline.slot(KeyClass.AuxFile, 0, 0, 1, 0)
  for (let index = 0; index < SNAPSHOTS; index++) {
    lsn += 8
    timeline.put(snapshots, 0, lsn, ValueKind.Image, Buffer.alloc(300, index), 0, 300)
    timeline.publish(lsn)
    await timeline.waitForRoom()
  }
  await timeline.flush()
  const flushed = timeline.layers.newestFirst.filter(({ endLsn }) => endLsn > START_LSN + 1)
  expect(flushed.length).toBeGreaterThan(2)
  for (const { sizeBytes } of flushed) expect(sizeBytes).toBeLessThan(2 * ROLL_BYTES)
  await timeline.createImageLayers()
  expect(timeline.layers.l0.length).toBeLessThan(2)
  const later = timeline.layers.newestFirst.filter((layer) => !layer.isL0)
  expect(later.length).toBeGreaterThan(10)
  for (const { sizeBytes } of later) expect(sizeBytes).toBeLessThan(2 * LAYER_BYTES)
})
