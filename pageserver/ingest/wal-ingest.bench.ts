/**
 * Rates of WAL decoding and ingest over real WAL, one thread:
 *
 *   node pageserver/ingest/wal-ingest.bench.ts <data folder before> <data folder after>
 *
 * Both are folders of one stopped server; the WAL between them must still be in the latter's pg_wal.
 * Versions go nowhere in the first stages, and into a real timeline in a temporary folder last.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { newTimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import { parseControlFile } from '#libs/pg/control-file.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { RecordFramer } from '#libs/wal/record-framer.ts'
import { readWalSegments } from '../../test_runner/oracle/wal-segments.ts'
import { importDataFolder, importLsn } from '../import/data-folder-import.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { IngestTarget } from './ingest-target.ts'
import { WalIngest } from './wal-ingest.ts'

const SLICE_BYTES = 256 * 1024
const ROUNDS = 3

const [beforeDir, afterDir] = process.argv.slice(2)
if (beforeDir === undefined || afterDir === undefined) {
  throw new Error('usage: wal-ingest.bench.ts <data folder before> <data folder after>')
}
const before = parseControlFile(readFileSync(join(beforeDir, 'global', 'pg_control')))
const after = parseControlFile(readFileSync(join(afterDir, 'global', 'pg_control')))
const startLsn = importLsn(before)
const endLsn = importLsn(after)
const wal = Buffer.concat(
  [...readWalSegments(join(afterDir, 'pg_wal'), startLsn, endLsn)].map(({ bytes }) => bytes),
)

async function stage(what: string, work: () => Promise<string> | string): Promise<void> {
  let bestMs = Number.POSITIVE_INFINITY
  let bestCpuMs = Number.POSITIVE_INFINITY
  let note = ''
  for (let round = 0; round < ROUNDS; round += 1) {
    const startMs = performance.now()
    const startCpu = process.threadCpuUsage()
    note = await work()
    const cpu = process.threadCpuUsage(startCpu)
    bestMs = Math.min(bestMs, performance.now() - startMs)
    bestCpuMs = Math.min(bestCpuMs, (cpu.user + cpu.system) / 1000)
  }
  const rate = (ms: number) => (wal.length / 1e3 / ms).toFixed(0).padStart(6)
  process.stdout.write(
    `${what.padEnd(36)} ${rate(bestMs)} MB/s, ${rate(bestCpuMs)} MB per CPU second; ${note}\n`,
  )
}

/** Keeps only what ingest asks back. */
class NoTimeline implements IngestTarget {
  lastRecordLsn: Lsn = startLsn
  puts = 0
  #slots = new Map<string, number>()
  #checkpoint: Buffer

  constructor(checkpoint: Buffer) {
    this.#checkpoint = checkpoint
  }

  ready = () => Promise.resolve()
  waitForRoom = () => Promise.resolve()
  latestRelSize = () => 1_000_000
  scanBlobs = () => Promise.resolve([])
  readPages = () => Promise.reject(new Error('nothing to read'))
  readBlob = (slot: number) => Promise.resolve(slot === 0 ? this.#checkpoint : null)

  slot(...key: number[]): number {
    const text = key.join('/')
    const slot = this.#slots.get(text) ?? this.#slots.size
    this.#slots.set(text, slot)
    return slot
  }

  put(): void {
    this.puts += 1
  }

  publish(lastRecordLsn: Lsn): void {
    this.lastRecordLsn = lastRecordLsn
  }
}

async function ingestAll(target: IngestTarget): Promise<void> {
  const ingest = await WalIngest.open(target)
  for (let at = 0; at < wal.length; at += SLICE_BYTES) {
    await ingest.ingest(wal.subarray(at, at + SLICE_BYTES), startLsn + at)
  }
}

process.stdout.write(`${(wal.length / 1e6).toFixed(0)} MB of WAL in memory\n`)

await stage('framing and CRC', () => {
  const framer = new RecordFramer(startLsn)
  let records = 0
  for (let at = 0; at < wal.length; at += SLICE_BYTES) {
    framer.feed(wal.subarray(at, at + SLICE_BYTES))
    records += framer.count
  }
  return `${records} records`
})

await stage('framing, CRC and block references', () => {
  const framer = new RecordFramer(startLsn)
  const record = new DecodedRecord()
  let blocks = 0
  for (let at = 0; at < wal.length; at += SLICE_BYTES) {
    framer.feed(wal.subarray(at, at + SLICE_BYTES))
    for (let index = 0; index < framer.count; index += 1) {
      framer.decode(index, record)
      blocks += record.blockCount
    }
  }
  return `${blocks} block references`
})

const server = await ScratchServer.start({
  rollSizeBytes: 1e9,
  imageDepth: 1e9,
  imageAfterDeltas: 1e9,
})
const timelines: Timeline[] = []
for (let round = 0; round <= ROUNDS; round += 1) {
  const facts = { startLsn, systemId: String(before.systemId), pgVersion: 170011 }
  timelines.push(
    await server.tenant.createTimeline(newTimelineId(), facts, async (filling) => {
      await importDataFolder(filling, beforeDir, before)
    }),
  )
}
const first = timelines.pop() as Timeline
const checkpoint = await first.readBlob(
  first.slot(KeyClass.Checkpoint, 0, 0, 0, 0),
  0,
  first.lastRecordLsn,
)

await stage('ingest into nothing', async () => {
  const target = new NoTimeline(checkpoint as Buffer)
  target.slot(KeyClass.Checkpoint, 0, 0, 0, 0)
  await ingestAll(target)
  return `${target.puts} versions`
})

await stage('ingest into a timeline', async () => {
  const timeline = timelines.pop() as Timeline
  await ingestAll(timeline)
  return `${(timeline.memoryBytes / 1e6).toFixed(0)} MB in memory`
})
await server.stop()
