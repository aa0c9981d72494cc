import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Lsn } from '#libs/lsn.ts'
import { type ControlFile, parseControlFile } from '#libs/pg/control-file.ts'
import { importDataFolder, importLsn } from '../../pageserver/import/data-folder-import.ts'
import { WalIngest } from '../../pageserver/ingest/wal-ingest.ts'
import type { Timeline } from '../../pageserver/timeline/timeline.ts'
import { MemoryTimeline } from '../fixtures/memory-timeline.ts'
import { readWalSegments } from './wal-segments.ts'

/** pg_control of a stopped server. */
export function controlOf(dataDir: string): ControlFile {
  return parseControlFile(readFileSync(join(dataDir, 'global', 'pg_control')))
}

/** A timeline in memory with the folder of a stopped server; its WAL goes on at `lastRecordLsn`. */
export async function importIntoMemory(baseDir: string): Promise<MemoryTimeline> {
  const control = controlOf(baseDir)
  const timeline = new MemoryTimeline(importLsn(control))
  await importDataFolder(timeline as unknown as Timeline, baseDir, control)
  return timeline
}

/** Takes in WAL that continues the timeline, in slices of `sliceBytes`. */
export async function ingestBytes(
  timeline: MemoryTimeline,
  bytes: Buffer,
  sliceBytes = 100_000,
): Promise<void> {
  const ingest = await WalIngest.open(timeline)
  for (let at = 0; at < bytes.length; at += sliceBytes) {
    await ingest.ingest(bytes.subarray(at, at + sliceBytes), ingest.nextLsn)
  }
}

/** Takes in the WAL of a server's pg_wal up to `untilLsn`. */
export async function ingestSegments(
  timeline: MemoryTimeline,
  walDir: string,
  untilLsn: Lsn,
  sliceBytes = 100_000,
): Promise<void> {
  const startLsn = timeline.lastRecordLsn
  const pieces = [...readWalSegments(walDir, startLsn, untilLsn)].map(({ bytes }) => bytes)
  await ingestBytes(timeline, Buffer.concat(pieces), sliceBytes)
}
