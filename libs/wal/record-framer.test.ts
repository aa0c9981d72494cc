import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { WAL_PAGE_SIZE, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { ZenithError } from '../errors.ts'
import { IN_ARENA, RecordFramer } from './record-framer.ts'

type Framed = { startLsn: number; endLsn: number; bytes: Buffer }

function drain(framer: RecordFramer, into: Framed[]): void {
  for (let index = 0; index < framer.count; index += 1) {
    const source = framer.place[index] === IN_ARENA ? framer.arena : framer.slice
    const offset = framer.offset[index] as number
    into.push({
      startLsn: framer.startLsn[index] as number,
      endLsn: framer.endLsn[index] as number,
      bytes: Buffer.from(source.subarray(offset, offset + (framer.length[index] as number))),
    })
  }
}

function frame(bytes: Buffer, startLsn: number, cuts: number[]): Framed[] {
  const framer = new RecordFramer(startLsn)
  const framed: Framed[] = []
  let at = 0
  for (let index = 0; at < bytes.length; index += 1) {
    const step = cuts.length === 0 ? bytes.length : (cuts[index % cuts.length] as number)
    framer.feed(Buffer.from(bytes.subarray(at, at + step)))
    drain(framer, framed)
    at += step
  }
  expect(framer.nextLsn).toBe(startLsn + bytes.length)
  return framed
}

const startLsns = fc.oneof(
  fc.constant(0x1000000),
  fc.integer({ min: 8, max: 4095 }).map((n) => 0x2000000 + n * 8),
  fc.integer({ min: 1, max: 300 }).map((n) => 0x3000000 - n * 8),
  fc.integer({ min: 1, max: 4 }).map((n) => 0x3000000 - n * WAL_PAGE_SIZE),
  fc.constant(2 ** 33 + WAL_SEGMENT_SIZE - 24),
)
const steps = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: fc.integer({ min: 27, max: 300 }) },
    { weight: 2, arbitrary: fc.integer({ min: 8000, max: 40_000 }) },
    { weight: 1, arbitrary: fc.constantFrom('switch' as const, 'overwrite' as const) },
  ),
  { minLength: 1, maxLength: 60 },
)
const cuts = fc.array(
  fc.oneof(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 9000 })),
  {
    minLength: 1,
    maxLength: 8,
  },
)

function build(startLsn: number, plan: (number | 'switch' | 'overwrite')[]): WalBuilder {
  // A page start holds a header; a start inside the header would be no position at all.
  const inPage = startLsn % WAL_PAGE_SIZE
  const wal = new WalBuilder(inPage !== 0 && inPage < 40 ? startLsn + 40 : startLsn)
  let switched = false
  for (const step of plan) {
    if (step === 'overwrite') wal.appendOverwritten(9000)
    else if (step !== 'switch') wal.appendNoop(step)
    else if (!switched) {
      wal.appendSwitch()
      switched = true
    }
  }
  return wal
}

describe('RecordFramer', () => {
  it('finds the same records however the stream is cut', () => {
    fc.assert(
      fc.property(startLsns, steps, cuts, (startLsn, plan, cutPlan) => {
        const wal = build(startLsn, plan)
        const bytes = wal.bytes()
        const large = bytes.length > 1_000_000
        const framed = frame(
          bytes,
          wal.startLsn,
          large ? cutPlan.map((cut) => cut + 4000) : cutPlan,
        )
        expect(framed.map((r) => [r.startLsn, r.endLsn])).toEqual(
          wal.records.map((r) => [r.startLsn, r.endLsn]),
        )
        for (const [index, record] of framed.entries()) {
          expect(record.bytes.equals(wal.records[index]?.bytes as Buffer)).toBe(true)
        }
      }),
      { numRuns: 60 },
    )
  })

  it('cuts every record size at every residue of page and slice', () => {
    const wal = new WalBuilder(WAL_SEGMENT_SIZE - 3 * WAL_PAGE_SIZE)
    for (let size = 27; size < 900; size += 1) wal.appendNoop(size)
    const expected = wal.records.map((r) => r.endLsn)
    for (const cut of [1, 3, 7, 8, 24, 40, 8191, 8192, 8193]) {
      expect(frame(wal.bytes(), wal.startLsn, [cut]).map((r) => r.endLsn)).toEqual(expected)
    }
  })

  it('gives out a switch record when its segment has passed, at each residue', () => {
    for (let gap = 24; gap < 24 + WAL_PAGE_SIZE; gap += 8) {
      const startLsn = 2 * WAL_SEGMENT_SIZE - gap
      if (startLsn % WAL_PAGE_SIZE !== 0 && startLsn % WAL_PAGE_SIZE < 24) continue
      const wal = new WalBuilder(startLsn)
      wal.appendSwitch()
      wal.appendNoop(100)
      const framer = new RecordFramer(startLsn)
      const bytes = wal.bytes()
      framer.feed(bytes.subarray(0, gap - 1))
      expect(framer.count).toBe(0)
      framer.feed(bytes.subarray(gap - 1))
      expect([...framer.endLsn.subarray(0, framer.count)]).toEqual(wal.records.map((r) => r.endLsn))
      expect(framer.endLsn[0]).toBe(2 * WAL_SEGMENT_SIZE)
    }
  })

  it('refuses a damaged stream with a typed error and holds bounded memory', () => {
    fc.assert(
      fc.property(
        steps,
        fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), {
          minLength: 1,
          maxLength: 4,
        }),
        cuts,
        (plan, damage, cutPlan) => {
          const wal = build(
            0x2000000 + 64,
            plan.filter((step) => step !== 'switch'),
          )
          const bytes = Buffer.from(wal.bytes())
          for (const [at, mask] of damage) {
            const index = at % bytes.length
            bytes[index] = (bytes[index] as number) ^ mask
          }
          const framer = new RecordFramer(wal.startLsn)
          // What is given is good, in order, and the framer's end is where it ends.
          let given = 0
          let endLsn = wal.startLsn
          const look = () => {
            for (let index = 0; index < framer.count; index += 1) {
              endLsn = wal.records[given]?.endLsn as number
              expect(framer.endLsn[index]).toBe(endLsn)
              given += 1
            }
            expect(framer.recordEndLsn).toBe(endLsn)
          }
          try {
            for (let at = 0, index = 0; at < bytes.length; index += 1) {
              const step = cutPlan[index % cutPlan.length] as number
              framer.feed(bytes.subarray(at, at + step))
              at += step
              look()
              expect(framer.pendingBytes).toBeLessThanOrEqual(at)
            }
          } catch (error) {
            look()
            expect(error).toBeInstanceOf(ZenithError)
            expect((error as ZenithError).code).toBe('corrupt')
            expect((error as ZenithError).message).toMatch(/ at [0-9A-F]+\/[0-9A-F]+ /)
          }
        },
      ),
      { numRuns: 200 },
    )
  })

  it('refuses a record longer than its limit without room for it', () => {
    const wal = new WalBuilder(0x2000000 + 64)
    wal.appendNoop(5000)
    const framer = new RecordFramer(wal.startLsn, { maxRecordSize: 4000 })
    expect(() => framer.feed(wal.bytes())).toThrow(/impossible length 5000/)
  })
})
