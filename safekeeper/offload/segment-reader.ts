/** Open segments, from this disk or from object storage, for whoever reads WAL. */
import type { FileHandle } from 'node:fs/promises'
import { assert, ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn, segmentNumber, segmentOffset } from '#libs/lsn.ts'
import type { ArchivedTimeline, WalArchive } from './wal-archive.ts'

export interface SegmentReader {
  /** Reads up to `length` bytes at `offset` of the segment; returns how many, 0 at its end. */
  read(target: Buffer, length: number, offset: number): Promise<number>
  close(): Promise<void>
}

/** The timeline whose segments are read. */
export interface SegmentSource {
  readonly control: ArchivedTimeline
  readonly flushLsn: Lsn
  readonly evicted: boolean
  /** Throws `not_found` when it is not on this disk. */
  openLocalSegment(lsn: Lsn): Promise<FileHandle>
  occupy(): Promise<() => void>
}

/**
 * Opens the segment that holds `lsn`: on this disk, or else from object storage. Of an evicted
 * timeline only the newest segment has to come back to this disk for that, and stays while it is
 * read. Throws as `WalArchive.segment`.
 */
export async function openSegment(
  source: SegmentSource,
  archive: WalArchive | null,
  lsn: Lsn,
): Promise<SegmentReader> {
  const isOld = segmentNumber(lsn) < segmentNumber(source.flushLsn)
  const leave = source.evicted && isOld ? () => {} : await source.occupy()
  try {
    return fileReader(await source.openLocalSegment(lsn), leave)
  } catch (error) {
    leave()
    const gone = error instanceof ZenithError && error.code === 'not_found'
    if (!gone || archive === null) throw error
    return bufferReader(await archive.segment(source.control, segmentNumber(lsn)))
  }
}

/** Reads bytes [lsn, endLsn), which lie in one segment. Throws as `openSegment`. */
export async function readWal(
  timeline: { openSegment(lsn: Lsn): Promise<SegmentReader> },
  lsn: Lsn,
  endLsn: Lsn,
): Promise<Buffer> {
  assert(segmentNumber(lsn) === segmentNumber(endLsn - 1), 'a read stays in one segment')
  const reader = await timeline.openSegment(lsn)
  try {
    const bytes = Buffer.allocUnsafe(endLsn - lsn)
    if ((await reader.read(bytes, bytes.length, segmentOffset(lsn))) !== bytes.length) {
      throw new ZenithError('corrupt', `the segment at ${formatLsn(lsn)} is shorter than 16 MiB`)
    }
    return bytes
  } finally {
    await reader.close()
  }
}

function fileReader(handle: FileHandle, onClose: () => void): SegmentReader {
  return {
    read: async (target, length, offset) =>
      (await handle.read(target, 0, length, offset)).bytesRead,
    close: async () => {
      onClose()
      await handle.close()
    },
  }
}

function bufferReader(bytes: Buffer): SegmentReader {
  return {
    read: (target, length, offset) =>
      Promise.resolve(bytes.copy(target, 0, offset, offset + length)),
    close: () => Promise.resolve(),
  }
}
