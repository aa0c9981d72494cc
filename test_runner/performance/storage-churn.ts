/**
 * What reads cost after long churn, in layers, what is written for that and what is left on disk:
 * pgbench in the small. Layers are of 2 MiB in place of 128, so 600,000 records are to them what 4.2
 * GB are to real ones: an hour of some 2,500 transactions of pgbench per second; and 2.5 MB/s are to
 * them what 160 MB/s are to real ones. Records go to random pages of one relation, all of which change
 * in each layer, and two hot pages take a quarter of them. Random pages are read at the tip all the
 * time and, at the end, at random LSNs. Redo is the tests' toy, and compaction runs in the same
 * thread.
 */
import { newTimelineId } from '#libs/ids.ts'
import { timestampNow } from '#libs/pg/timestamp.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../../pageserver/keyspace/key-class.ts'
import { quantile } from '../../pageserver/read/read-stats.ts'
import { ScratchServer } from '../../pageserver/tenants/testing/scratch-server.ts'
import { putToyCheckpoint } from '../../pageserver/tenants/testing/toy-checkpoint.ts'
import type { Timeline } from '../../pageserver/timeline/timeline.ts'
import type { Report } from './report.ts'

const BLOCKS = 4000
const HOT = 2
const BATCH = 500
const START_LSN = 0x1000000
const MIB = 1024 * 1024
const NOISE_BYTES = BLOCKS * PAGE_SIZE
const BYTES_PER_MS = 2500
const RECORD_BYTES = 110

export async function measureChurn(sizes: { records: number }, report: Report): Promise<void> {
  const server = await ScratchServer.start({
    rollSizeBytes: 2 * MIB,
    l1LayerBytes: 2 * MIB,
    imageLayerBytes: 2 * MIB,
    imageDeltaBytes: MIB / 2,
    bottomGainBytes: MIB / 8,
  })
  try {
    await measure(server, sizes.records, report)
  } finally {
    await server.stop()
  }
}

let state = 1
function random(below: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return Math.floor((state / 2 ** 32) * below)
}

async function measure(server: ScratchServer, records: number, report: Report): Promise<void> {
  // Of six bits a byte, and no page like another.
  const noise = Buffer.alloc(NOISE_BYTES)
  for (let at = 0; at < noise.length; at++) noise[at] = random(256) & (at & 1 ? 0xff : 0x0f)
  const timeline = await newTimeline(server, noise)
  const slot = timeline.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
  const written = new WrittenBytes(timeline)
  let lsn = START_LSN
  const startMs = performance.now()
  for (let done = 0; done < records; done += BATCH) {
    for (let index = 0; index < BATCH; index++) {
      lsn += 128
      const blk = random(4) === 0 ? random(HOT) : random(BLOCKS)
      timeline.put(slot, blk, lsn, ValueKind.Record, noise, random(MIB), 60 + random(100))
    }
    timeline.publish(lsn)
    await timeline.waitForRoom()
    const dueMs = startMs + (done * RECORD_BYTES) / BYTES_PER_MS
    await new Promise((resolve) => setTimeout(resolve, Math.max(dueMs - performance.now(), 0)))
    for (let read = 0; read < 4; read++) await timeline.readPage(slot, random(BLOCKS), lsn)
    await timeline.readPage(slot, random(HOT), lsn)
    written.look()
  }
  const add = (name: string, unit: string, how: string, goal: string, figure: number) =>
    report.add({ name, unit, better: 'less', how, goal }, 'zenith', figure)
  const churned = `${records / 1e6} million records, layers of 2 MiB`
  const layersVisited = (where: string, goal: string) => {
    const { visited } = server.manager.readStats
    const name = `layers visited per read, p99, ${where}`
    add(name, 'layers', churned, goal, quantile(visited, 0.99))
    visited.fill(0)
  }
  layersVisited('tip under churn', '< 8')
  add('written by flushes and compaction, by flushes', 'ratio', churned, '', written.ratio)
  for (let read = 0; read < 2000; read++) {
    await timeline.readPage(slot, random(BLOCKS), START_LSN + random((lsn - START_LSN) / 8) * 8)
  }
  layersVisited('any LSN', '')
  await server.manager.compactor.settle()
  putToyCheckpoint(timeline, lsn + 8, timestampNow())
  timeline.publish(lsn + 8)
  await timeline.createImageLayers()
  const history = { pitrIntervalMs: 0, pitrBytes: null }
  await server.tenant.collectGarbage(timeline.timelineId, history)
  await timeline.compaction.compactBottom()
  const bytes = timeline.layers.newestFirst.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  const ratio = bytes / (BLOCKS * PAGE_SIZE)
  const how = `${churned}, pages of which zstd makes about three quarters, cutoff at the end`
  add('physical / logical after churn', 'ratio', how, '<= 2', ratio)
}

async function newTimeline(server: ScratchServer, noise: Buffer): Promise<Timeline> {
  const facts = { startLsn: START_LSN, systemId: '1', pgVersion: 170011 }
  return await server.tenant.createTimeline(newTimelineId(), facts, async (filling) => {
    const slot = filling.slot(KeyClass.RelBlock, 1663, 5, 16384, 0)
    for (let blk = 0; blk < BLOCKS; blk++) {
      filling.put(slot, blk, START_LSN, ValueKind.Image, noise, blk * PAGE_SIZE, PAGE_SIZE)
    }
    const size = Buffer.alloc(4)
    size.writeUInt32LE(BLOCKS)
    const sizeSlot = filling.slot(KeyClass.RelSize, 1663, 5, 16384, 0)
    filling.put(sizeSlot, 0, START_LSN, ValueKind.Image, size, 0, 4)
  })
}

/** Layer files that came, the first ones left out. */
class WrittenBytes {
  readonly #timeline: Timeline
  readonly #seen: Set<string>
  #flushed = 0
  #rewritten = 0

  constructor(timeline: Timeline) {
    this.#timeline = timeline
    this.#seen = new Set(timeline.layers.newestFirst.map(({ key }) => key))
  }

  /** Called so often that no layer comes and goes between. */
  look(): void {
    for (const { key, isL0, sizeBytes } of this.#timeline.layers.newestFirst) {
      if (this.#seen.has(key)) continue
      this.#seen.add(key)
      if (isL0) this.#flushed += sizeBytes
      else this.#rewritten += sizeBytes
    }
  }

  /** 1 = nothing was written twice. */
  get ratio(): number {
    return (this.#flushed + this.#rewritten) / this.#flushed
  }
}
