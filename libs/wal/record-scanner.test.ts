import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { WAL_PAGE_SIZE, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { RecordScanner } from './record-scanner.ts'

const SEGMENT = 5 * WAL_SEGMENT_SIZE

/** Feeds in slices of the given sizes, round and round; returns the record ends seen. */
function scan(bytes: Buffer, startLsn: number, slices: number[]): RecordScanner {
  const scanner = new RecordScanner(startLsn)
  let offset = 0
  for (let turn = 0; offset < bytes.length; turn += 1) {
    const end = Math.min(bytes.length, offset + (slices[turn % slices.length] as number))
    if (!scanner.feed(bytes, offset, end)) break
    offset = end
  }
  return scanner
}

describe('RecordScanner', () => {
  it.each([
    SEGMENT,
    SEGMENT + 40,
    SEGMENT + WAL_PAGE_SIZE,
    SEGMENT + WAL_PAGE_SIZE - 8,
    SEGMENT + 10_000 - (10_000 % 8),
    SEGMENT + WAL_SEGMENT_SIZE - WAL_PAGE_SIZE,
    SEGMENT + WAL_SEGMENT_SIZE - 8,
  ])('finds the same record ends for any slicing, from %d', (startLsn) => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 26, max: 20_000 }), { minLength: 1, maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 9000 }), { minLength: 1, maxLength: 8 }),
        (lengths, slices) => {
          const wal = new WalBuilder(startLsn)
          for (const length of lengths) wal.appendNoop(length)
          const scanner = scan(wal.bytes(), startLsn, slices)
          expect(scanner.damage).toBeNull()
          expect(scanner.recordEndLsn).toBe(wal.lsn)
          expect(scanner.lsn).toBe(wal.lsn)
        },
      ),
      { numRuns: 30 },
    )
  })

  it('reports a record only when its last byte and padding are here', () => {
    const wal = new WalBuilder(SEGMENT + 8000)
    const ends = [30, 400, 33, 9000, 26].map((length) => wal.appendNoop(length).endLsn)
    const bytes = wal.bytes()
    const scanner = new RecordScanner(SEGMENT + 8000)
    for (let offset = 0; offset < bytes.length; offset += 1) {
      const before = ends.filter((end) => end <= SEGMENT + 8000 + offset).at(-1) ?? SEGMENT + 8000
      expect(scanner.recordEndLsn).toBe(before)
      scanner.feed(bytes, offset, offset + 1)
    }
    expect(scanner.recordEndLsn).toBe(ends.at(-1))
  })

  it('goes on after a switch record at the start of the next segment', () => {
    const wal = new WalBuilder(SEGMENT + WAL_SEGMENT_SIZE - 3 * WAL_PAGE_SIZE)
    wal.appendNoop(100)
    const switched = wal.appendSwitch()
    expect(switched.endLsn).toBe(SEGMENT + WAL_SEGMENT_SIZE)
    const after = wal.appendNoop(500)
    const scanner = scan(wal.bytes(), wal.startLsn, [777])
    expect(scanner.damage).toBeNull()
    expect(scanner.recordEndLsn).toBe(after.endLsn)
    const cut = scan(wal.bytes().subarray(0, 2 * WAL_PAGE_SIZE), wal.startLsn, [8192])
    expect(cut.recordEndLsn).toBe(wal.records[0]?.endLsn)
  })

  it('passes over a record that a crash left without its end', () => {
    const wal = new WalBuilder(SEGMENT + 40)
    wal.appendNoop(100)
    wal.appendOverwritten(20_000)
    wal.appendNoop(60)
    const scanner = scan(wal.bytes(), wal.startLsn, [1000, 3])
    expect(scanner.damage).toBeNull()
    expect(scanner.recordEndLsn).toBe(wal.lsn)
  })

  it('stops at a changed byte and keeps the end before it', () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 1, max: 255 }), (place, change) => {
        const wal = new WalBuilder(SEGMENT + 40)
        for (const length of [100, 60, 9000, 300]) wal.appendNoop(length)
        const bytes = Buffer.from(wal.bytes())
        const at = place % bytes.length
        bytes[at] = (bytes[at] as number) ^ change
        const scanner = scan(bytes, wal.startLsn, [5000, 11])
        const damaged = wal.startLsn + at
        const intact = wal.records.findLast((record) => record.endLsn <= damaged)?.endLsn
        // A change in padding or in unchecked header fields goes unseen; no record is made up.
        expect(scanner.recordEndLsn).toBeGreaterThanOrEqual(intact ?? wal.startLsn)
        expect([wal.startLsn, ...wal.records.map((record) => record.endLsn)]).toContain(
          scanner.recordEndLsn,
        )
      }),
    )
    const wal = new WalBuilder(SEGMENT + 40)
    wal.appendNoop(100)
    const scanner = scan(Buffer.concat([wal.bytes(), Buffer.alloc(64)]), wal.startLsn, [4096])
    expect(scanner.recordEndLsn).toBe(wal.lsn)
    expect(scanner.damage).toContain('no record starts here')
  })
})
