/**
 * The bytes of a timeline's first segment before the start of the timeline: the long header that
 * every segment has, and on the page of the start a header which says that the bytes up to the start
 * are the rest of an earlier record, so that Postgres' readers find the first real record. Zeros
 * otherwise. Pure.
 */
import {
  type Lsn,
  segmentOffset,
  WAL_LONG_HEADER_SIZE,
  WAL_PAGE_SIZE,
  walPageOffset,
} from '#libs/lsn.ts'
import { writePageHeader } from '#libs/wal/page-header.ts'

export interface TimelineStart {
  startLsn: Lsn
  systemId: bigint
}

/** The headers, with the LSN of the page of each. Empty when the timeline starts with a segment. */
export function leadHeaders(start: TimelineStart): { pageLsn: Lsn; bytes: Buffer }[] {
  const { startLsn, systemId } = start
  const segmentLsn = startLsn - segmentOffset(startLsn)
  const startPage = startLsn - walPageOffset(startLsn)
  const pages = new Set([segmentLsn, startPage].filter((pageLsn) => pageLsn < startLsn))
  return [...pages].map((pageLsn) => {
    const bytes = Buffer.alloc(WAL_LONG_HEADER_SIZE)
    const size = writePageHeader(bytes, 0, { pageLsn, systemId })
    const remainingLength = startLsn - pageLsn - size
    if (remainingLength > 0 && remainingLength < WAL_PAGE_SIZE) {
      writePageHeader(bytes, 0, { pageLsn, systemId, remainingLength })
    }
    return { pageLsn, bytes: bytes.subarray(0, size) }
  })
}

/** Bytes [fromLsn, toLsn) of the lead; both lie in the segment of the start, at or before it. */
export function leadBytes(start: TimelineStart, fromLsn: Lsn, toLsn: Lsn): Buffer {
  const out = Buffer.alloc(toLsn - fromLsn)
  for (const { pageLsn, bytes } of leadHeaders(start)) {
    const from = Math.max(fromLsn, pageLsn)
    const to = Math.min(toLsn, pageLsn + bytes.length)
    if (from < to) bytes.copy(out, from - fromLsn, from - pageLsn, to - pageLsn)
  }
  return out
}
