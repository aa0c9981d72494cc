/**
 * What reads cost after long churn, in layers, and what is left on disk, in a temporary folder:
 *
 *   node pageserver/compaction/churn.bench.ts [million records]
 *
 * pgbench in the small: records to random pages of one relation, and two hot pages that take a
 * quarter of them, with layers of 2 MiB in place of 128. Random pages are read at the tip all the
 * time and, at the end, at random LSNs. Records come at 5 MB/s, 64 times as fast for these layers as
 * 320 MB/s for real ones. Redo is the test's toy, and compaction runs in the same thread.
 */
import { newTimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { quantile } from '../read/read-stats.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import { LayerKind } from '../layers/layer-name.ts'

const RECORDS = Number(process.argv[2] ?? 1) * 1e6
const BLOCKS = 4000
const HOT = 2
const BATCH = 500
const START_LSN = 0x1000000
const MIB = 1024 * 1024
const BYTES_PER_MS = 5000

const server = await ScratchServer.start({
  rollSizeBytes: 2 * MIB,
  l1LayerBytes: 2 * MIB,
  imageLayerBytes: 2 * MIB,
  imageDeltaBytes: MIB / 2,
})
const id = newTimelineId()
const facts = { startLsn: START_LSN, systemId: '1', pgVersion: 170011 }
let state = 1
const random = (below: number) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return Math.floor((state / 2 ** 32) * below)
}
const page = Buffer.alloc(PAGE_SIZE)
for (let at = 0; at < PAGE_SIZE; at++) page[at] = random(256) & (at & 1 ? 0xff : 0x0f)
const timeline = await server.tenant.createTimeline(id, facts, async (filling) => {
  const slot = filling.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
  for (let blk = 0; blk < BLOCKS; blk++) {
    page.writeUInt32LE(blk, 8)
    filling.put(slot, blk, START_LSN, ValueKind.Image, page, 0, PAGE_SIZE)
  }
  const size = Buffer.alloc(4)
  size.writeUInt32LE(BLOCKS)
  const sizeSlot = filling.slot(KeyClass.RelSize, 1663, 5, 16384, 0)
  filling.put(sizeSlot, 0, START_LSN, ValueKind.Image, size, 0, 4)
})
const slot = timeline.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
let lsn = START_LSN
let mostL0 = 0
const startMs = performance.now()
for (let done = 0; done < RECORDS; done += BATCH) {
  for (let index = 0; index < BATCH; index++) {
    lsn += 128
    const blk = random(4) === 0 ? random(HOT) : random(BLOCKS)
    timeline.put(slot, blk, lsn, ValueKind.Record, page, random(4000), 60 + random(100))
  }
  timeline.publish(lsn)
  await timeline.waitForRoom()
  const dueMs = startMs + (done * 110) / BYTES_PER_MS
  await new Promise((resolve) => setTimeout(resolve, Math.max(dueMs - performance.now(), 0)))
  for (let read = 0; read < 4; read++) await timeline.readPage(slot, random(BLOCKS), lsn)
  await timeline.readPage(slot, random(HOT), lsn)
  mostL0 = Math.max(mostL0, timeline.layers.l0.length)
}
function report(what: string): void {
  const { visited, searched } = server.manager.readStats
  const text = (counts: Float64Array) =>
    [0.5, 0.99, 1].map((share) => quantile(counts, share)).join(' / ')
  process.stdout.write(
    `${what}: layers visited ${text(visited)}, searched ${text(searched)} (p50 / p99 / most)\n`,
  )
  visited.fill(0)
  searched.fill(0)
}
report('reads of the tip under churn')
for (let read = 0; read < 2000; read++) {
  await timeline.readPage(slot, random(BLOCKS), START_LSN + random((lsn - START_LSN) / 8) * 8)
}
report('reads at any LSN')
await server.manager.compactor.settle()
const layers = timeline.layers.newestFirst
const count = (kind: LayerKind) => layers.filter((layer) => layer.id.kind === kind).length
const bytes = layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
const { done, preempted } = server.manager.compactor.stats
process.stdout.write(
  `${count(LayerKind.Delta)} deltas (${timeline.layers.l0.length} L0, at most ${mostL0}), ` +
    `${count(LayerKind.Image)} images, ${(bytes / MIB).toFixed(0)} MiB for ${(BLOCKS / 128).toFixed(0)} MiB of pages; ` +
    `jobs ${JSON.stringify(done)}, ${preempted} preempted, ` +
    `flushes delayed ${(timeline.flushDelayedMs / 1000).toFixed(1)} s\n`,
)
await server.stop()
