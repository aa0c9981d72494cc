import { crc32c as nativeCrc32c } from '@node-rs/crc32'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { crc32c, recordCrc, wrongOfTwoRecords } from './crc32c.ts'

describe('crc32c', () => {
  it('gives the check value of the standard', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283)
  })

  it('equals the native function for any bytes, range and seed', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 3000 }),
        fc.nat(50),
        fc.integer({ min: 0, max: 0xffffffff }),
        (bytes, skip, seed) => {
          const start = Math.min(skip, bytes.length)
          expect(crc32c(bytes, start, bytes.length, seed)).toBe(
            nativeCrc32c(bytes.subarray(start), seed),
          )
        },
      ),
    )
  })

  it('takes a record body first and its header after', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 24, maxLength: 3000 }), (record) => {
        const expected = nativeCrc32c(record.subarray(0, 20), nativeCrc32c(record.subarray(24)))
        expect(recordCrc(record, 0, record.length)).toBe(expected)
      }),
    )
  })

  it('tells which of two records is wrong', () => {
    const body = fc.uint8Array({ maxLength: 300 })
    fc.assert(
      fc.property(
        body,
        body,
        fc.nat(7),
        fc.nat(3),
        fc.nat(),
        (first, second, gap, damaged, bit) => {
          const bodies = [first, second]
          const records = bodies.map((bytes) => {
            const record = Buffer.concat([Buffer.alloc(24, bytes.length), bytes])
            record.writeUInt32LE(recordCrc(record, 0, record.length), 20)
            return record
          })
          const [one, other] = records as [Buffer, Buffer]
          for (const [index, record] of records.entries()) {
            const at = bit % (record.length * 8)
            if ((damaged & (1 << index)) !== 0)
              record[at >> 3] = (record[at >> 3] ?? 0) ^ (1 << (at & 7))
          }
          const all = new Uint8Array(
            Buffer.concat([Buffer.alloc(gap), one, Buffer.alloc(gap), other]),
          )
          const view = new DataView(all.buffer)
          const at = gap + one.length + gap
          expect(wrongOfTwoRecords(view, gap, one.length, at, other.length)).toBe(damaged)
        },
      ),
    )
  })
})
