/**
 * Rate of merging L0 layers into L1 layers, one thread and zstd's pool, in a temporary folder:
 *
 *   node pageserver/compaction/l0-merge.bench.ts [MB of values]
 *
 * Two kinds of history: small records over many keys with a hot head, as pgbench writes, and whole
 * pages over many keys, as after a checkpoint. The copy of the same files, read and written, is
 * the limit beside them.
 */
import { randomFillSync } from 'node:crypto'
import { copyFile, rm, stat } from 'node:fs/promises'
import { newTimelineId } from '#libs/ids.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { Timeline } from '../timeline/timeline.ts'

const MB = 1e6
const TOTAL_BYTES = Number(process.argv[2] ?? 400) * MB
const LAYERS = 10
const START_LSN = 0x1000000
const HOT_KEYS = 8

type Fill = (timeline: Timeline, bytes: number) => void

let lsn = START_LSN
let state = 1

function random(below: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return Math.floor((state / 2 ** 32) * below)
}

/** Half random bytes: about what WAL of pgbench compresses to. */
const noise = randomFillSync(Buffer.alloc(2 * MB))
for (let at = 0; at < noise.length; at += 64) noise.fill(0x20, at, at + 32)

/** Records of about 130 bytes: one in four to a hot page, the others to any of 30,000. */
const records: Fill = (timeline, bytes) => {
  const slot = timeline.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
  for (let done = 0; done < bytes; ) {
    const length = 80 + random(100)
    const blk = random(4) === 0 ? random(HOT_KEYS) : random(30_000)
    lsn += 128
    timeline.put(slot, blk, lsn, ValueKind.Record, noise, random(MB), length)
    done += length
  }
  timeline.publish(lsn)
}

const pages: Fill = (timeline, bytes) => {
  for (let done = 0; done < bytes; done += PAGE_SIZE) {
    const slot = timeline.slot(KeyClass.RelBlock, 1663, 5, 16384 + random(20), 0)
    lsn += 8200
    timeline.put(slot, random(20_000), lsn, ValueKind.Image, noise, random(MB), PAGE_SIZE)
  }
  timeline.publish(lsn)
}

async function measure(what: string, fill: Fill): Promise<void> {
  const limits = { rollSizeBytes: 1e9, rollDistanceBytes: 1e12, l0CompactCount: 1000 }
  const server = await ScratchServer.start({ ...limits, imageDepth: 1e9, imageAfterDeltas: 1e9 })
  const facts = { startLsn: START_LSN, systemId: '1', pgVersion: 170011 }
  lsn = START_LSN
  const id = newTimelineId()
  const timeline = await server.tenant.createTimeline(id, facts, async () => undefined)
  for (let layer = 0; layer < LAYERS; layer++) {
    fill(timeline, TOTAL_BYTES / LAYERS)
    await timeline.flush()
  }
  const inputs = timeline.layers.l0
  let stored = 0
  let raw = 0
  for (const layer of inputs) {
    stored += layer.sizeBytes
    await layer.load()
    for (const bytes of layer.index.columns.chunkRaw) raw += bytes
  }
  const copyStart = performance.now()
  for (const layer of inputs) {
    await copyFile(layer.path, `${layer.path}.copy`)
    await stat(`${layer.path}.copy`)
  }
  const copyMs = performance.now() - copyStart
  for (const layer of inputs) await rm(`${layer.path}.copy`)
  const cpuStart = process.threadCpuUsage()
  const startMs = performance.now()
  await timeline.compaction.compactL0()
  const elapsedMs = performance.now() - startMs
  const cpu = process.threadCpuUsage(cpuStart)
  const rate = (bytes: number, ms: number) => `${(bytes / 1e3 / ms).toFixed(0)} MB/s`
  const cpuMs = (cpu.user + cpu.system) / 1000
  process.stdout.write(
    `${what}: ${(raw / MB).toFixed(0)} MB in ${inputs.length} layers (${(stored / MB).toFixed(0)} MB stored) ` +
      `-> ${timeline.layers.newestFirst.length} layers: ${rate(raw, elapsedMs)}, ` +
      `${rate(raw, cpuMs)} of CPU of its thread; file copy ${rate(stored, copyMs)}; ` +
      `rss ${Math.round(process.memoryUsage().rss / MB)} MB\n`,
  )
  await server.stop()
}

await measure('records', records)
await measure('pages', pages)
