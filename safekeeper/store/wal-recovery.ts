/**
 * Finds the end of the log when a timeline is opened, and makes the disk agree with it.
 *
 * The scan begins at the stored commit position, a record end, and stops at the first byte that is
 * not a valid record: that is the end of the log. Every segment from there on is then written anew
 * (copy, sync, rename): what was read may have been in the page cache only, for instance after a
 * sync that failed, and must be on disk before a vote names it. Whatever lies behind the end goes.
 * After a clean stop everything read is known to be on disk, so only what lies behind matters.
 */
import { constants } from 'node:fs'
import { type FileHandle, open, readdir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import {
  formatLsn,
  type Lsn,
  segmentNumber,
  segmentOffset,
  WAL_PAGE_SIZE,
  WAL_SEGMENT_SIZE,
  walPageOffset,
} from '#libs/lsn.ts'
import { writePageHeader } from '#libs/wal/page-header.ts'
import { RecordScanner } from '#libs/wal/record-scanner.ts'
import type { ControlState } from '../control-state.ts'
import { removeFile, syncDirectory, syncHandle } from './files.ts'
import { listSegments, type SegmentFile, segmentPath } from './segment-files.ts'
import type { SpareSegments } from './spare-segments.ts'

const READ_BYTES = 1024 * 1024
const COPY_SUFFIX = '.copy'

/**
 * Returns the end of the log. `afterCleanStop` says that the process before ended in order. Throws
 * `corrupt` when WAL below the stored commit is missing.
 */
export async function recoverWal(
  directory: string,
  control: ControlState,
  afterCleanStop = false,
): Promise<Lsn> {
  for (const name of await readdir(directory)) {
    if (name.endsWith(COPY_SUFFIX)) await removeFile(join(directory, name))
  }
  const files = await listSegments(directory)
  const flushLsn = await scanFrom(files, control.commitLsn)
  const firstSegment = segmentNumber(control.commitLsn)
  for (const file of files.toReversed()) {
    const start = file.segment * WAL_SEGMENT_SIZE
    if (start >= flushLsn) await removeFile(file.path)
    else if (file.segment >= firstSegment || file.partial) {
      const partial = flushLsn - start < WAL_SEGMENT_SIZE
      const path = segmentPath(directory, file.segment, partial)
      if (path !== file.path) await rename(file.path, path)
      const used = Math.min(flushLsn - start, WAL_SEGMENT_SIZE)
      if (!afterCleanStop || !(await isZeroAfter(path, used))) await copyForward(path, used)
    }
  }
  await syncDirectory(directory)
  return flushLsn
}

async function scanFrom(files: readonly SegmentFile[], commitLsn: Lsn): Promise<Lsn> {
  const scanner = new RecordScanner(commitLsn)
  const buffer = Buffer.allocUnsafe(READ_BYTES)
  for (let segment = segmentNumber(commitLsn); scanner.damage === null; segment += 1) {
    const file = files.find((candidate) => candidate.segment === segment)
    if (file === undefined) {
      if (scanner.lsn === commitLsn && segmentOffset(commitLsn) !== 0) {
        throw new ZenithError('corrupt', `the segment that holds ${formatLsn(commitLsn)} is gone`, {
          hint: 'The control file says that WAL up to there was stored here. Restore the segment.',
        })
      }
      break
    }
    const handle = await open(file.path, 'r')
    try {
      await scanSegment(handle, scanner, (segment + 1) * WAL_SEGMENT_SIZE, buffer)
    } finally {
      await handle.close()
    }
    if (scanner.lsn < (segment + 1) * WAL_SEGMENT_SIZE) break
  }
  return scanner.recordEndLsn
}

async function scanSegment(
  handle: FileHandle,
  scanner: RecordScanner,
  endLsn: Lsn,
  buffer: Buffer,
): Promise<void> {
  while (scanner.lsn < endLsn) {
    const wanted = Math.min(buffer.length, endLsn - scanner.lsn)
    const { bytesRead } = await handle.read(buffer, 0, wanted, segmentOffset(scanner.lsn))
    if (bytesRead === 0 || !scanner.feed(buffer, 0, bytesRead)) return
  }
}

const ZEROS = Buffer.alloc(READ_BYTES)

function isZero(bytes: Buffer): boolean {
  for (let offset = 0; offset < bytes.length; offset += READ_BYTES) {
    const end = Math.min(bytes.length, offset + READ_BYTES)
    if (bytes.compare(ZEROS, 0, end - offset, offset, end) !== 0) return false
  }
  return true
}

async function isZeroAfter(path: string, used: number): Promise<boolean> {
  const handle = await open(path, 'r')
  try {
    const rest = Buffer.allocUnsafe(WAL_SEGMENT_SIZE - used)
    const { bytesRead } = await handle.read(rest, 0, rest.length, used)
    return bytesRead === rest.length && isZero(rest)
  } finally {
    await handle.close()
  }
}

/** Writes a segment anew: its first `used` bytes, then zeros. A crash leaves the old or the new file. */
async function copyForward(path: string, used: number): Promise<void> {
  const copyPath = path + COPY_SUFFIX
  const source = await open(path, 'r')
  const copy = await open(copyPath, 'w')
  try {
    const bytes = Buffer.alloc(WAL_SEGMENT_SIZE)
    await source.read(bytes, 0, used, 0)
    for (let offset = 0; offset < WAL_SEGMENT_SIZE; offset += READ_BYTES) {
      await copy.write(bytes, offset, READ_BYTES, offset)
    }
    await syncHandle(copy, copyPath)
  } finally {
    await source.close()
    await copy.close()
  }
  await rename(copyPath, path)
}

/**
 * Makes the first segment of a timeline that starts inside it: the long header that every segment
 * has, and on the page of the start a header which says that the bytes up to the start are the rest
 * of an earlier record, so that Postgres' readers find the first real record.
 */
export async function createFirstSegment(
  directory: string,
  control: Pick<ControlState, 'startLsn' | 'systemId'>,
  spares: SpareSegments,
): Promise<void> {
  const { startLsn, systemId } = control
  if (segmentOffset(startLsn) === 0) return
  const path = segmentPath(directory, segmentNumber(startLsn), true)
  await spares.take(path)
  const handle = await open(path, constants.O_WRONLY)
  try {
    const segmentLsn = startLsn - segmentOffset(startLsn)
    const startPage = startLsn - walPageOffset(startLsn)
    const header = Buffer.alloc(40)
    const write = async (pageLsn: Lsn) => {
      const size = writePageHeader(header, 0, { pageLsn, systemId })
      const remaining = startLsn - pageLsn - size
      if (remaining > 0 && remaining < WAL_PAGE_SIZE) {
        writePageHeader(header, 0, { pageLsn, systemId, remainingLength: remaining })
      }
      await handle.write(header, 0, size, segmentOffset(pageLsn))
    }
    await write(segmentLsn)
    if (startPage !== segmentLsn && startPage !== startLsn) await write(startPage)
    await syncHandle(handle, path)
  } finally {
    await handle.close()
  }
}
