/** Ranges of keys, both ends inclusive, and the neighbours of a key. */
import { assert } from '#libs/errors.ts'
import { compareKeys, encodeKey, type Key, MAX_KEY, MIN_KEY, readKey } from './key.ts'

export interface KeyRange {
  firstKey: Key
  lastKey: Key
}

export const ALL_KEYS: KeyRange = { firstKey: MIN_KEY, lastKey: MAX_KEY }

export function rangesOverlap(a: KeyRange, b: KeyRange): boolean {
  return compareKeys(a.firstKey, b.lastKey) <= 0 && compareKeys(b.firstKey, a.lastKey) <= 0
}

/** True when every key of `inner` is one of `outer`. */
export function rangeCovers(outer: KeyRange, inner: KeyRange): boolean {
  return (
    compareKeys(outer.firstKey, inner.firstKey) <= 0 &&
    compareKeys(outer.lastKey, inner.lastKey) >= 0
  )
}

export function isMinKey(key: Key): boolean {
  return compareKeys(key, MIN_KEY) === 0
}

export function isMaxKey(key: Key): boolean {
  return compareKeys(key, MAX_KEY) === 0
}

/** The key that sorts just after; there is none after `MAX_KEY`. */
export function keyAfter(key: Key): Key {
  assert(!isMaxKey(key), 'no key comes after the last one')
  return step(key, 0xff, 0x00, 1)
}

/** The key that sorts just before; there is none before `MIN_KEY`. */
export function keyBefore(key: Key): Key {
  assert(!isMinKey(key), 'no key comes before the first one')
  return step(key, 0x00, 0xff, -1)
}

/** Adds 1 or -1 to the key as one number of 18 bytes. */
function step(key: Key, carries: number, carried: number, by: number): Key {
  const bytes = encodeKey(key)
  let at = bytes.length - 1
  while (bytes[at] === carries) bytes[at--] = carried
  bytes[at] = (bytes[at] as number) + by
  return readKey(bytes, 0)
}
