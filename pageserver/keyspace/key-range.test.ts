import fc from 'fast-check'
import { expect, test } from 'vitest'
import { compareKeys, encodeKey, type Key, MAX_KEY, MIN_KEY } from './key.ts'
import { ALL_KEYS, keyAfter, keyBefore, rangeCovers, rangesOverlap } from './key-range.ts'

const edge32 = fc.oneof(fc.constantFrom(0, 1, 0xff, 0xffffffff, 0xfffffffe), fc.nat())
const edge8 = fc.constantFrom(0, 1, 3, 0xff)
const anyKey: fc.Arbitrary<Key> = fc.record({
  cls: edge8,
  spc: edge32,
  db: edge32,
  rel: edge32,
  fork: edge8,
  blk: edge32,
})

function asNumber(key: Key): bigint {
  return BigInt(`0x${encodeKey(key).toString('hex')}`)
}

test('the neighbours of a key are the numbers next to it', () => {
  fc.assert(
    fc.property(anyKey, (key) => {
      if (compareKeys(key, MAX_KEY) < 0) expect(asNumber(keyAfter(key))).toBe(asNumber(key) + 1n)
      if (compareKeys(key, MIN_KEY) > 0) expect(asNumber(keyBefore(key))).toBe(asNumber(key) - 1n)
    }),
  )
  expect(() => keyAfter(MAX_KEY)).toThrow('no key comes after')
  expect(() => keyBefore(MIN_KEY)).toThrow('no key comes before')
})

test('ranges overlap when they share a key, and cover when they have all', () => {
  const range = fc.tuple(anyKey, anyKey).map(([a, b]) => {
    const [firstKey, lastKey] = compareKeys(a, b) <= 0 ? [a, b] : [b, a]
    return { firstKey, lastKey }
  })
  fc.assert(
    fc.property(range, range, (a, b) => {
      const [aFirst, aLast] = [asNumber(a.firstKey), asNumber(a.lastKey)]
      const [bFirst, bLast] = [asNumber(b.firstKey), asNumber(b.lastKey)]
      expect(rangesOverlap(a, b)).toBe(!(aLast < bFirst || bLast < aFirst))
      expect(rangeCovers(a, b)).toBe(aFirst <= bFirst && bLast <= aLast)
      expect(rangeCovers(ALL_KEYS, a)).toBe(true)
    }),
  )
})
