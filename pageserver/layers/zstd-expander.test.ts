import { randomBytes } from 'node:crypto'
import { zstdCompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { expandZstd } from './zstd-expander.ts'

test('expands frames of all sizes, one after the other', () => {
  for (const size of [1, 100, 8192, 32_768, 65_536, 300_000, 5_000_000]) {
    const raw = Buffer.concat([randomBytes(size / 2), Buffer.alloc(size - Math.floor(size / 2))])
    expect(expandZstd(zstdCompressSync(raw), raw.length).equals(raw)).toBe(true)
  }
})

test('a bad frame or a wrong size throws, and the next good frame expands', () => {
  const raw = Buffer.alloc(10_000, 'abc')
  const stored = zstdCompressSync(raw)
  expect(() => expandZstd(randomBytes(100), 10_000)).toThrow()
  expect(expandZstd(stored, raw.length).equals(raw)).toBe(true)
  expect(() => expandZstd(stored.subarray(0, stored.length / 2), raw.length)).toThrow()
  expect(expandZstd(stored, raw.length).equals(raw)).toBe(true)
  expect(() => expandZstd(stored, 9_999)).toThrow()
  expect(expandZstd(stored, 10_001).length).toBe(10_000)
  expect(expandZstd(stored, raw.length).equals(raw)).toBe(true)
})
