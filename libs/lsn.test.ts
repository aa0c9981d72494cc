import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  alignLsn,
  formatLsn,
  parseLsn,
  parseSegmentFileName,
  readLsnBE,
  readLsnLE,
  segmentFileName,
  segmentNumber,
  skipWalHeader,
  writeLsnBE,
  writeLsnLE,
} from './lsn.ts'

const anyLsn = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER })

test('text and bytes come back as the same LSN', () => {
  fc.assert(
    fc.property(anyLsn, (lsn) => {
      expect(parseLsn(formatLsn(lsn))).toBe(lsn)
      const buffer = Buffer.alloc(8)
      writeLsnBE(buffer, lsn, 0)
      expect(readLsnBE(buffer, 0)).toBe(lsn)
      expect(buffer.readBigUInt64BE()).toBe(BigInt(lsn))
      writeLsnLE(buffer, lsn, 0)
      expect(readLsnLE(buffer, 0)).toBe(lsn)
    }),
  )
})

test('text follows Postgres', () => {
  expect(formatLsn(0x1609610)).toBe('0/1609610')
  expect(parseLsn('16/b374d848')).toBe(0x16b374d848)
  expect(() => parseLsn('1609610')).toThrow('write it as 0/1609610')
  expect(() => readLsnBE(Buffer.alloc(8, 0xff), 0)).toThrow('2^53')
})

test('positions', () => {
  expect(alignLsn(17)).toBe(24)
  expect(alignLsn(24)).toBe(24)
  expect(skipWalHeader(0x1000000)).toBe(0x1000000 + 40)
  expect(skipWalHeader(0x1002000)).toBe(0x1002000 + 24)
  expect(skipWalHeader(0x1002008)).toBe(0x1002008)
})

test('segment names as Postgres writes them', () => {
  expect(segmentFileName(1, segmentNumber(0x16b374d848))).toBe('0000000100000016000000B3')
  expect(parseSegmentFileName('0000000100000016000000B3')).toEqual({
    walTimeline: 1,
    segment: segmentNumber(0x16b374d848),
  })
  expect(parseSegmentFileName('0000000100000016000000B3.partial')).toBeNull()
})
