/**
 * Finds the end of the log when a timeline is opened, and makes the disk agree with it. What is done
 * to the files is decided in boot-plan.ts; here the files are read and its effects performed.
 *
 * The scan begins at the stored commit position, a record end, and stops at the first byte that is
 * not a valid record: that is the end of the log.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { type Lsn, segmentOffset } from '#libs/lsn.ts'
import { RecordScanner } from '#libs/wal/record-scanner.ts'
import {
  type BootControl,
  type FoundSegment,
  planBoot,
  type ScanResult,
  scanResult,
  segmentsToScan,
  surveyFiles,
  tailToCheck,
} from './boot-plan.ts'
import type { FileEffect, SegmentDisk } from './segment-disk.ts'
import { type SegmentRange, segmentStart } from './segment-plan.ts'

const MIN_READ_BYTES = 64 * 1024
const MAX_READ_BYTES = 1024 * 1024
const ZEROS = Buffer.alloc(MAX_READ_BYTES)

export interface RecoveredWal {
  flushLsn: Lsn
  segments: SegmentRange | null
}

/**
 * Returns the end of the log, and what is on disk of it. `afterCleanStop` says that the process
 * before ended in order. Throws `corrupt` when WAL below the stored commit is missing.
 */
export async function recoverWal(
  disk: SegmentDisk,
  control: BootControl,
  afterCleanStop = false,
): Promise<RecoveredWal> {
  const survey = surveyFiles(await disk.list(), control)
  const scan = await scanRecords(disk, segmentsToScan(survey, control), control.commitLsn)
  const tail = tailToCheck(survey, control, scan, afterCleanStop)
  const tailIsZero = tail === null || (await isZero(disk.path(tail.name), tail))
  const { effects, segments } = planBoot({ survey, control, scan, tailIsZero, afterCleanStop })
  for (const effect of effects) await disk.perform(effect as FileEffect)
  return { flushLsn: scan.flushLsn, segments }
}

async function scanRecords(
  disk: SegmentDisk,
  files: readonly FoundSegment[],
  commitLsn: Lsn,
): Promise<ScanResult> {
  const scanner = new RecordScanner(commitLsn)
  for (const file of files) {
    const endLsn = segmentStart(file.segment + 1)
    const handle = await open(disk.path(file.name), 'r')
    try {
      await scanSegment(handle, scanner, endLsn)
    } finally {
      await handle.close()
    }
    if (scanner.lsn < endLsn) break
  }
  return scanResult(scanner, files)
}

/** Most timelines have nothing behind their commit position, so the first read is a small one. */
async function scanSegment(handle: FileHandle, scanner: RecordScanner, endLsn: Lsn): Promise<void> {
  let buffer = Buffer.allocUnsafe(MIN_READ_BYTES)
  while (scanner.lsn < endLsn) {
    const wanted = Math.min(buffer.length, endLsn - scanner.lsn)
    const { bytesRead } = await handle.read(buffer, 0, wanted, segmentOffset(scanner.lsn))
    if (bytesRead === 0 || !scanner.feed(buffer, 0, bytesRead)) return
    if (buffer.length < MAX_READ_BYTES) buffer = Buffer.allocUnsafe(MAX_READ_BYTES)
  }
}

async function isZero(path: string, range: { startLsn: Lsn; endLsn: Lsn }): Promise<boolean> {
  const handle = await open(path, 'r')
  try {
    const buffer = Buffer.allocUnsafe(Math.min(MAX_READ_BYTES, range.endLsn - range.startLsn))
    for (let lsn = range.startLsn; lsn < range.endLsn; ) {
      const wanted = Math.min(buffer.length, range.endLsn - lsn)
      const { bytesRead } = await handle.read(buffer, 0, wanted, segmentOffset(lsn))
      if (bytesRead === 0) return true
      if (buffer.compare(ZEROS, 0, bytesRead, 0, bytesRead) !== 0) return false
      lsn += bytesRead
    }
    return true
  } finally {
    await handle.close()
  }
}
