/** Which WAL of a timeline is on this disk, and how much of it may go. Pure. */
import { type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import type { ControlState } from '../control-state.ts'
import { type SegmentRange, segmentStart } from './segment-plan.ts'

/** A segment as others see it: it covers [startLsn, endLsn), all of it written when `full`. */
export interface LocalSegment {
  segment: number
  startLsn: Lsn
  endLsn: Lsn
  full: boolean
}

/** Oldest first. */
export function localSegments(range: SegmentRange | null, durableLsn: Lsn): LocalSegment[] {
  if (range === null) return []
  return Array.from({ length: range.newest - range.first + 1 }, (_, index) => {
    const startLsn = segmentStart(range.first + index)
    const endLsn = startLsn + WAL_SEGMENT_SIZE
    return { segment: range.first + index, startLsn, endLsn, full: endLsn <= durableLsn }
  })
}

/**
 * How far WAL may be removed when removal below `lsn` is asked for: not beyond what is stored of the
 * positions of the page server, of object storage and of commit, the end of the log, and the slowest
 * reader that holds WAL. Segments wholly below may go.
 */
export function removalBound(
  lsn: Lsn,
  stored: Pick<ControlState, 'remoteConsistentLsn' | 'backupLsn' | 'commitLsn'>,
  flushLsn: Lsn,
  holds: Iterable<{ readonly lsn: Lsn }>,
): Lsn {
  let bound = Math.min(
    lsn,
    stored.remoteConsistentLsn,
    stored.backupLsn,
    stored.commitLsn,
    flushLsn,
  )
  for (const hold of holds) bound = Math.min(bound, hold.lsn)
  return bound
}
