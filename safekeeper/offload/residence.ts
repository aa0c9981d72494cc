/**
 * A timeline leaves this disk, and comes back. The control file is ahead of both: it says that the
 * timeline is evicted before the first file goes, and until its last segment is back and durable. So a
 * crash anywhere leaves an evicted timeline whose files, if some are left, count for nothing.
 */
import { open, rename } from 'node:fs/promises'
import { type Lsn, segmentNumber, segmentOffset, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { parseSegmentFileName } from '#libs/lsn.ts'
import { removeFile, syncDirectory, syncHandle } from '../store/files.ts'
import type { SegmentDisk } from '../store/segment-disk.ts'
import {
  PARTIAL_SUFFIX,
  segmentName,
  type SegmentRange,
  segmentStart,
} from '../store/segment-plan.ts'

const RESTORE_SUFFIX = '.restore'
const SUFFIXES = [PARTIAL_SUFFIX, RESTORE_SUFFIX]
const ZEROS = Buffer.alloc(1024 * 1024)

/** Removes every file of WAL; those that an earlier try left too. */
export async function removeAllWal(disk: SegmentDisk, flushLsn: Lsn): Promise<void> {
  for (const { name } of await disk.list()) if (isWalFile(name)) await removeFile(disk.path(name))
  await syncDirectory(disk.directory)
  await disk.perform({ kind: 'mark', dirtyTail: false, localStartLsn: flushLsn })
}

/** Removes what a restore that a crash interrupted has left. */
export async function removeLeftovers(disk: SegmentDisk): Promise<void> {
  for (const { name } of await disk.list()) {
    if (name.endsWith(RESTORE_SUFFIX)) await removeFile(disk.path(name))
  }
}

/**
 * Puts the newest segment back: `tail`, which ends at `flushLsn`, and zeros behind. Null when the log
 * ends at a segment's start, whose file the next write makes. Returns what is on disk now.
 */
export async function restoreTail(
  disk: SegmentDisk,
  tail: Buffer | null,
  flushLsn: Lsn,
  startLsn: Lsn,
): Promise<{ segments: SegmentRange | null; localStartLsn: Lsn }> {
  const segment = segmentNumber(flushLsn)
  const localStartLsn = Math.max(startLsn, segmentStart(segment))
  if (tail !== null) await writeSegment(disk.path(segmentName(segment, true)), tail)
  await syncDirectory(disk.directory)
  await disk.perform({ kind: 'mark', dirtyTail: false, localStartLsn })
  const isThere = tail !== null && segmentOffset(flushLsn) !== 0
  return { segments: isThere ? { first: segment, newest: segment } : null, localStartLsn }
}

async function writeSegment(path: string, tail: Buffer): Promise<void> {
  const temporary = path + RESTORE_SUFFIX
  const handle = await open(temporary, 'w')
  try {
    await handle.writeFile(tail)
    for (let offset = tail.length; offset < WAL_SEGMENT_SIZE; offset += ZEROS.length) {
      const length = Math.min(ZEROS.length, WAL_SEGMENT_SIZE - offset)
      await handle.write(ZEROS, 0, length, offset)
    }
    await syncHandle(handle, temporary)
  } finally {
    await handle.close()
  }
  await rename(temporary, path)
}

function isWalFile(name: string): boolean {
  let base = name
  for (let suffix: string | undefined = ''; suffix !== undefined; ) {
    base = base.slice(0, base.length - suffix.length)
    suffix = SUFFIXES.find((candidate) => base.endsWith(candidate))
  }
  return parseSegmentFileName(base) !== null
}
