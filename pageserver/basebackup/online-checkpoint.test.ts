import { describe, expect, test } from 'vitest'
import { type Lsn, parseLsn, segmentOffset, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { type Checkpoint, readCheckpoint } from '#libs/pg/checkpoint.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { RecordFramer } from '#libs/wal/record-framer.ts'
import { makeOnlineCheckpoint, type OnlineCheckpoint } from './online-checkpoint.ts'

const COUNTERS: Checkpoint = {
  redo: 0,
  walTimeline: 9,
  previousWalTimeline: 9,
  fullPageWrites: true,
  walLevel: 1,
  nextXid: 4294967296 + 100,
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
const SEGMENT = parseLsn('2/40000000')

interface Found {
  startLsn: Lsn
  endLsn: Lsn
  rmid: number
  info: number
  data: Buffer
}

/** What a reader finds that begins where redo does. */
function recordsOf(made: OnlineCheckpoint, endLsn: Lsn): Found[] {
  const first = made.redoLsn - segmentOffset(made.redoLsn)
  const bytes = Buffer.alloc(Math.ceil((endLsn - first) / WAL_SEGMENT_SIZE) * WAL_SEGMENT_SIZE)
  for (const part of made.parts) {
    part.bytes.copy(bytes, part.segment * WAL_SEGMENT_SIZE + part.offset - first)
  }
  const framer = new RecordFramer(made.redoLsn)
  framer.feed(bytes.subarray(made.redoLsn - first, endLsn - first))
  const found: Found[] = []
  for (let index = 0; index < framer.count; index++) {
    const record = new DecodedRecord()
    framer.decode(index, record)
    const { rmid, info, mainOffset, mainLength } = record
    found.push({
      startLsn: framer.startLsn[index] as number,
      endLsn: framer.endLsn[index] as number,
      rmid,
      info,
      data: Buffer.from(record.buffer.subarray(mainOffset, mainOffset + mainLength)),
    })
  }
  return found
}

function make(lsn: Lsn, lastRecordLsn: Lsn, runningXids: number[]): OnlineCheckpoint | null {
  return makeOnlineCheckpoint({
    lsn,
    lastRecordLsn,
    systemId: 7n,
    checkpoint: COUNTERS,
    runningXids,
  })
}

/** Places of S and P, by their distance from the beginning of a segment. */
const PLACES: [string, number, number][] = [
  ['mid-page', 4 * WAL_PAGE_SIZE + 512, 64],
  ['on a page boundary', 4 * WAL_PAGE_SIZE, 4072],
  ['right behind the first record of a page', 4 * WAL_PAGE_SIZE + 24 + 48, 48],
  ['right behind the first record of a segment', 40 + 48, 48],
  ['on a segment boundary', 0, 320],
  ['behind a record of three pages', 9 * WAL_PAGE_SIZE + 800, 3 * WAL_PAGE_SIZE],
  ['behind a record that crosses a segment end', 400, 1024],
  ['behind the shortest record', 2 * WAL_PAGE_SIZE + 1024, 24],
]

describe('a made online checkpoint', () => {
  test.each(PLACES)('%s', (_, offset, length) => {
    const lsn = SEGMENT + offset
    const lastRecordLsn = lsn - length
    const xids = [4294967290, 5, 42]
    const made = make(lsn, lastRecordLsn, xids)
    if (made === null) throw new Error('there is room')
    const found = recordsOf(made, lsn)
    expect(found.map(({ rmid, info }) => [rmid, info])).toEqual([
      [0, 0xe0],
      [8, 0x10],
      [0, 0x10],
      [0, 0x20],
      [0, 0x20],
    ])
    expect(found.at(0)?.startLsn).toBe(made.redoLsn)
    expect(found.at(2)?.startLsn).toBe(made.recordLsn)
    expect(found.at(-1)).toMatchObject({ startLsn: lastRecordLsn, endLsn: lsn })
    expect(readCheckpoint(found[2]?.data as Buffer)).toEqual({
      ...COUNTERS,
      redo: made.redoLsn,
      walTimeline: 1,
      previousWalTimeline: 1,
      fullPageWrites: false,
      oldestActiveXid: 4294967290,
    })
    const running = found[1]?.data as Buffer
    expect(running.readInt32LE(0)).toBe(3)
    expect(running[8]).toBe(0)
    expect([12, 16, 20].map((at) => running.readUInt32LE(at))).toEqual([100, 4294967290, 99])
    expect([24, 28, 32].map((at) => running.readUInt32LE(at))).toEqual(xids)
  })

  test('with more transactions than a page holds, and with none', () => {
    const lsn = SEGMENT + 400
    const many = Array.from({ length: 12_000 }, (_, index) => 1000 + index)
    const made = make(lsn, lsn - 64, many) as OnlineCheckpoint
    expect(recordsOf(made, lsn)[1]?.data.readInt32LE(0)).toBe(12_000)
    const idle = recordsOf(make(lsn, lsn - 64, []) as OnlineCheckpoint, lsn)
    expect(idle[1]?.data.readUInt32LE(16)).toBe(100)
  })

  test('is not made where there is no room', () => {
    expect(make(WAL_PAGE_SIZE + 512, WAL_PAGE_SIZE + 400, [])).toBeNull()
    expect(make(SEGMENT + 5 * 1024 * 1024, SEGMENT + 256, [])).toBeNull()
  })
})
