/**
 * Checks WAL that came from somewhere else, one segment by itself: page headers, record lengths, back
 * links and CRCs of every record that begins in it.
 */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { ZenithError } from '#libs/errors.ts'
import {
  alignLsn,
  formatLsn,
  type Lsn,
  segmentOffset,
  WAL_PAGE_SIZE,
  walHeaderSize,
} from '#libs/lsn.ts'
import { XLP_FIRST_IS_CONTRECORD } from '#libs/wal/format.ts'
import { readPageHeader } from '#libs/wal/page-header.ts'
import { RecordScanner } from '#libs/wal/record-scanner.ts'

/** Bytes between two looks at other work: a segment is too much for one go. */
const STEP_BYTES = 256 * 1024

/**
 * Checks `bytes`, which begin at a segment's start and at `segmentLsn`. Records begin at `startLsn`
 * when the timeline begins in this segment. Returns the end of the last whole record; a record that
 * continues in the next segment is fine. Throws `corrupt` for anything that cannot be WAL.
 */
export function checkSegment(bytes: Buffer, segmentLsn: Lsn, startLsn: Lsn): Promise<Lsn> {
  return inTurns(segmentCheck(bytes, segmentLsn, startLsn))
}

function* segmentCheck(bytes: Buffer, segmentLsn: Lsn, startLsn: Lsn): Generator<void, Lsn> {
  const first = startLsn > segmentLsn ? startLsn : firstRecord(bytes, segmentLsn)
  const scanner = new RecordScanner(first)
  for (let offset = first - segmentLsn; offset < bytes.length; offset += STEP_BYTES) {
    if (!scanner.feed(bytes, offset, Math.min(offset + STEP_BYTES, bytes.length))) {
      throw new ZenithError('corrupt', scanner.damage ?? 'damaged WAL')
    }
    yield
  }
  return Math.min(scanner.recordEndLsn, segmentLsn + bytes.length)
}

/**
 * Where the first record begins: behind the rest of one that began before, which may go on over many
 * pages, and beyond these bytes.
 */
function firstRecord(bytes: Buffer, segmentLsn: Lsn): Lsn {
  for (let offset = 0; offset < bytes.length; offset += WAL_PAGE_SIZE) {
    const pageLsn = segmentLsn + offset
    const size = walHeaderSize(pageLsn)
    if (bytes.length - offset < size) break
    const { info, remainingLength } = readPageHeader(bytes, offset, pageLsn)
    // Before any page header, which the scanner wants to see itself.
    if ((info & XLP_FIRST_IS_CONTRECORD) === 0) return pageLsn
    const end = alignLsn(size + remainingLength)
    if (end < WAL_PAGE_SIZE) return pageLsn + end
  }
  return segmentLsn + bytes.length
}

/** Throws `corrupt` unless all records of a tail are right and the last one ends at `flushLsn`. */
export function checkTail(bytes: Buffer, flushLsn: Lsn, startLsn: Lsn): Promise<void> {
  return inTurns(tailCheck(bytes, flushLsn, startLsn))
}

/** `checkTail` in steps of bounded length, for whoever has other turns than those of the process. */
export function* tailCheck(bytes: Buffer, flushLsn: Lsn, startLsn: Lsn): Generator<void, void> {
  const segmentLsn = flushLsn - segmentOffset(flushLsn)
  const name = `the stored end of the log at ${formatLsn(flushLsn)}`
  if (segmentLsn + bytes.length !== flushLsn) {
    const wanted = flushLsn - segmentLsn
    throw new ZenithError('corrupt', `${name} has ${bytes.length} bytes, not ${wanted}`)
  }
  const end = yield* segmentCheck(bytes, segmentLsn, startLsn)
  if (end !== flushLsn) {
    throw new ZenithError('corrupt', `${name} has its last whole record at ${formatLsn(end)}`)
  }
}

async function inTurns<T>(steps: Generator<void, T>): Promise<T> {
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done) return step.value
    await nextTurn()
  }
}
