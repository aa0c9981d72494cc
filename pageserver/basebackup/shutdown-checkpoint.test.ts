import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type Lsn,
  parseLsn,
  segmentNumber,
  segmentOffset,
  WAL_PAGE_SIZE,
  WAL_SEGMENT_SIZE,
  walHeaderSize,
  walPageOffset,
} from '#libs/lsn.ts'
import { type Checkpoint, readCheckpoint } from '#libs/pg/checkpoint.ts'
import { recordCrc } from '#libs/wal/crc32c.ts'
import { readPageHeader } from '#libs/wal/page-header.ts'
import {
  floorToRecordBoundary,
  isRecordBoundary,
  makeShutdownCheckpoint,
  type ShutdownCheckpoint,
  shutdownCheckpointEnd,
} from './shutdown-checkpoint.ts'
import type { WalPart } from './wal-pages.ts'

const COUNTERS: Checkpoint = {
  redo: 0,
  walTimeline: 9,
  previousWalTimeline: 9,
  fullPageWrites: false,
  walLevel: 1,
  nextXid: 5_000_000_000,
  nextOid: 24576,
  nextMulti: 7,
  nextMultiOffset: 19,
  oldestXid: 730,
  oldestXidDb: 1,
  oldestMulti: 1,
  oldestMultiDb: 1,
  timeSeconds: 1_790_000_000,
  oldestCommitTsXid: 0,
  newestCommitTsXid: 0,
  oldestActiveXid: 12,
}
const SYSTEM_ID = 7_300_000_000_000_000_123n
const SEGMENT = parseLsn('2/40000000')

function make(lsn: Lsn): ShutdownCheckpoint {
  return makeShutdownCheckpoint({
    lsn,
    previousRecordLsn: lsn - 64,
    systemId: SYSTEM_ID,
    checkpoint: COUNTERS,
  })
}

function wholeSegments(parts: readonly WalPart[]): Map<number, Buffer> {
  const segments = new Map<number, Buffer>()
  for (const part of parts) {
    const segment = segments.get(part.segment) ?? Buffer.alloc(WAL_SEGMENT_SIZE)
    part.bytes.copy(segment, part.offset)
    segments.set(part.segment, segment)
  }
  return segments
}

/** Reads the record back as a WAL reader does, page by page. */
function readRecord(made: ShutdownCheckpoint): Buffer {
  const segments = wholeSegments(made.parts)
  const bytes: Buffer[] = []
  let left = 114
  let at = made.recordLsn
  while (left > 0) {
    const segment = segments.get(segmentNumber(at))
    if (segment === undefined) throw new Error('segment missing')
    const pageLsn = at - walPageOffset(at)
    const header = readPageHeader(segment, segmentOffset(pageLsn), pageLsn)
    if (at === pageLsn) {
      expect(header.remainingLength).toBe(left)
      at += walHeaderSize(pageLsn)
    }
    const taken = Math.min(left, WAL_PAGE_SIZE - walPageOffset(at))
    bytes.push(segment.subarray(segmentOffset(at), segmentOffset(at) + taken))
    at += taken
    left -= taken
  }
  expect(made.endLsn - at).toBeGreaterThanOrEqual(0)
  expect(made.endLsn - at).toBeLessThan(8)
  return Buffer.concat(bytes)
}

const PLACES: [string, Lsn][] = [
  ['mid-page', SEGMENT + 5 * WAL_PAGE_SIZE + 4000],
  ['first page of a segment', SEGMENT + 120],
  ['8 bytes before a page end', SEGMENT + 6 * WAL_PAGE_SIZE - 8],
  ['24 bytes before a page end', SEGMENT + 6 * WAL_PAGE_SIZE - 24],
  ['on a page boundary', SEGMENT + 6 * WAL_PAGE_SIZE],
  ['right behind a page header', SEGMENT + 6 * WAL_PAGE_SIZE + 24],
  ['40 bytes before a segment end', SEGMENT + WAL_SEGMENT_SIZE - 40],
  ['on a segment boundary', SEGMENT],
  ['right behind a segment header', SEGMENT + 40],
]

describe('shutdown checkpoint', () => {
  test.each(PLACES)('%s: a reader gets the record back', (_place, lsn) => {
    const made = make(lsn)
    const record = readRecord(made)
    expect(record.readUInt32LE(0)).toBe(114)
    expect(record.readUInt32LE(20)).toBe(recordCrc(record, 0, 114))
    const checkpoint = readCheckpoint(record, 26)
    expect(checkpoint).toEqual({
      ...COUNTERS,
      redo: made.recordLsn,
      walTimeline: 1,
      previousWalTimeline: 1,
      oldestActiveXid: 0,
    })
    expect(made.endLsn).toBe(shutdownCheckpointEnd(made.recordLsn))
  })

  test.each(PLACES)('%s: each segment begins with a valid long header', (_place, lsn) => {
    for (const [segment, bytes] of wholeSegments(make(lsn).parts)) {
      const header = readPageHeader(bytes, 0, segment * WAL_SEGMENT_SIZE)
      expect(header.systemId).toBe(SYSTEM_ID)
    }
  })

  test('the bytes before S are marked as the tail of a record that ends at S', () => {
    const lsn = SEGMENT + 5 * WAL_PAGE_SIZE + 4000
    const page = make(lsn).parts[1]
    expect(page?.offset).toBe(5 * WAL_PAGE_SIZE)
    const header = readPageHeader(page?.bytes as Buffer, 0, lsn - 4000)
    expect(header.remainingLength).toBe(4000 - 24)
    expect(make(lsn - 4000).parts[1]?.bytes.readUInt16LE(2)).toBe(0)
  })

  test('anywhere at all: a reader gets the record back', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 3 * WAL_SEGMENT_SIZE }), (distance) => {
        const made = make(floorToRecordBoundary(SEGMENT + distance))
        const record = readRecord(made)
        expect(record.readUInt32LE(20)).toBe(recordCrc(record, 0, 114))
        expect(readCheckpoint(record, 26).redo).toBe(made.recordLsn)
        expect(isRecordBoundary(made.endLsn)).toBe(true)
      }),
      { numRuns: 60 },
    )
  })

  test('the boundary below an LSN is one, and nothing can end in between', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 4 * WAL_SEGMENT_SIZE }), (lsn) => {
        const floor = floorToRecordBoundary(lsn)
        expect(isRecordBoundary(floor)).toBe(true)
        expect(floor).toBeLessThanOrEqual(lsn)
        for (let at = floor + 8; at <= lsn; at += 8) expect(isRecordBoundary(at)).toBe(false)
      }),
    )
  })
})
