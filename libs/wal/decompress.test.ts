import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decompressLz4, decompressPglz } from './decompress.ts'

function run(decoder: typeof decompressPglz, input: Buffer, length: number): Buffer | null {
  const output = Buffer.alloc(length)
  return decoder(input, 0, input.length, output, length) ? output : null
}

describe('decompressPglz', () => {
  it('copies literals and overlapping matches', () => {
    // Two literals, then a match of 18 + 2 bytes two back.
    const input = Buffer.from([0b100, 0x61, 0x62, 0x0f, 0x02, 0x02])
    expect(run(decompressPglz, input, 22)?.toString()).toBe('ab'.repeat(11))
  })

  it('refuses a match before the start and a wrong length', () => {
    expect(run(decompressPglz, Buffer.from([0b1, 0x00, 0x05]), 3)).toBeNull()
    expect(run(decompressPglz, Buffer.from([0, 0x61]), 2)).toBeNull()
  })
})

describe('decompressLz4', () => {
  it('copies literals and overlapping matches', () => {
    const input = Buffer.from([0x2f, 0x61, 0x62, 0x02, 0x00, 0x01, 0x10, 0x63])
    expect(run(decompressLz4, input, 23)?.toString()).toBe(`${'ab'.repeat(11)}c`)
  })

  it('refuses a distance before the start and a cut block', () => {
    expect(run(decompressLz4, Buffer.from([0x10, 0x61, 0x05, 0x00]), 5)).toBeNull()
    expect(run(decompressLz4, Buffer.from([0xf0]), 5)).toBeNull()
  })
})

describe('both', () => {
  it('survive any input', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), fc.nat(9000), (bytes, length) => {
        const output = Buffer.alloc(length)
        decompressPglz(Buffer.from(bytes), 0, bytes.length, output, length)
        decompressLz4(Buffer.from(bytes), 0, bytes.length, output, length)
        expect(output.length).toBe(length)
      }),
      { numRuns: 2000 },
    )
  })
})
