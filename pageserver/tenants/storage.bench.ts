/**
 * Rates of the storage alone, one thread, in a temporary folder:
 *
 *   node pageserver/tenants/storage.bench.ts [million versions]
 *
 * Puts of small records over keys with a hot head, then flush, then page reads from each place
 * that a page can come from. Redo is the test's toy, so its cost is not in the numbers.
 */
import { newTimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { ScratchServer } from './testing/scratch-server.ts'

const VERSIONS = Number(process.argv[2] ?? 1) * 1e6
const BLOCKS = 20_000
const START_LSN = 0x1000000
const BATCH = 1000
const REL = [KeyClass.RelBlock, 1663, 5, 16384, 0] as const

function report(what: string, count: number, unit: string, elapsedMs: number): void {
  const rate = ((count / elapsedMs) * 1000).toFixed(0)
  process.stdout.write(`${what.padEnd(44)} ${rate.padStart(10)} ${unit}/s\n`)
}

async function timed(work: () => Promise<void> | void): Promise<number> {
  const startMs = performance.now()
  await work()
  return performance.now() - startMs
}

async function readAll(what: string, timeline: Timeline, perCall: number, depth: number) {
  const slot = timeline.slot(...REL)
  const calls = Math.floor(Math.min(BLOCKS, perCall * 1000) / perCall)
  let next = 0
  const elapsedMs = await timed(async () => {
    const work = async () => {
      while (next < calls) {
        const call = next++
        const first = perCall > 1 ? call * perCall : Math.imul(call, 7919) % BLOCKS
        await timeline.readPages(slot, Math.abs(first), perCall, timeline.lastRecordLsn)
      }
    }
    await Promise.all(Array.from({ length: depth }, work))
  })
  report(`${what}, ${perCall} a call, depth ${depth}`, calls * perCall, 'pages', elapsedMs)
}

async function readModes(what: string, timeline: Timeline): Promise<void> {
  await readAll(what, timeline, 1, 1)
  await readAll(what, timeline, 1, 16)
  await readAll(what, timeline, 16, 4)
}

const server = await ScratchServer.start({
  rollSizeBytes: 1e9,
  imageDepth: 1e9,
  imageAfterDeltas: 1e9,
})
const id = newTimelineId()
const facts = { startLsn: START_LSN, systemId: '1', pgVersion: 170011 }
const page = Buffer.alloc(PAGE_SIZE)
for (let at = 0; at < PAGE_SIZE; at += 16) page.writeUInt32LE(Math.imul(at, 2654435761) >>> 0, at)

const timeline = await server.tenant.createTimeline(id, facts, async (filling) => {
  const slot = filling.slot(...REL)
  for (let blk = 0; blk < BLOCKS; blk++) {
    page.writeUInt32LE(blk, 8)
    filling.put(slot, blk, START_LSN, ValueKind.Image, page, 0, PAGE_SIZE)
  }
  const size = Buffer.alloc(4)
  size.writeUInt32LE(BLOCKS)
  const sizeSlot = filling.slot(KeyClass.RelSize, 1663, 5, 16384, 0)
  filling.put(sizeSlot, 0, START_LSN, ValueKind.Image, size, 0, 4)
})
await readModes('read from a delta of images, cold', timeline)

const record = Buffer.alloc(120, 'a WAL record of usual length ')
let lsn = START_LSN
let state = 1
const slot = timeline.slot(...REL)
const put = (withCap: boolean) => {
  for (let done = 0; done < VERSIONS; done += BATCH) {
    for (let index = 0; index < BATCH; index++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      lsn += 128
      const blk = withCap && state % 4 === 0 ? state % 8 : (state >>> 8) % BLOCKS
      timeline.put(slot, blk, lsn, ValueKind.Record, record, 0, record.length)
    }
    timeline.publish(lsn)
  }
}
report('put and publish', VERSIONS, 'versions', await timed(() => put(true)))
report('chain cap catches up', 1, 'times', await timed(() => timeline.settle()))
await readModes('read from memory and delta', timeline)
report('flush', VERSIONS, 'versions', await timed(() => timeline.flush()))
await readModes('read from two deltas', timeline)
report('images', BLOCKS, 'pages', await timed(() => timeline.createImageLayers()))
await readModes('read from images', timeline)
const branchMs = await timed(async () => {
  for (let count = 0; count < 20; count++) {
    await server.tenant.branchTimeline(newTimelineId(), {
      ancestorTimelineId: id,
      ancestorLsn: timeline.lastRecordLsn,
    })
  }
})
report('branches, one after the other', 20, 'branches', branchMs)
process.stdout.write(`rss ${Math.round(process.memoryUsage().rss / 1e6)} MB\n`)
await server.stop()
