import fc from 'fast-check'
import { expect, test } from 'vitest'
import { KeyClass } from '../keyspace/key-class.ts'
import type { Key } from '../keyspace/key.ts'
import { type CoverLayer, coveredLayers, planEviction } from './eviction-plan.ts'

const candidate = fc.record({
  tenantId: fc.constantFrom('a', 'b', 'c'),
  sizeBytes: fc.integer({ min: 1, max: 100 }),
  lastAccessMs: fc.integer({ min: 0, max: 50 }),
  endLsn: fc.nat(100),
  isCovered: fc.boolean(),
})
const need = fc.record({
  bytesToFree: fc.integer({ min: 0, max: 1500 }),
  floorBytes: fc.integer({ min: 0, max: 150 }),
})
const sum = (files: readonly { sizeBytes: number }[]) =>
  files.reduce((total, { sizeBytes }) => total + sizeBytes, 0)

test('frees what is needed and no file more, or all but the floors', () => {
  fc.assert(
    fc.property(
      fc.array(candidate, { maxLength: 30 }),
      need,
      (files, { bytesToFree, floorBytes }) => {
        const chosen = planEviction(files, { bytesToFree, floorBytes })
        expect(new Set(chosen).size).toBe(chosen.length)
        for (const tenantId of ['a', 'b', 'c']) {
          const own = files.filter((file) => file.tenantId === tenantId)
          const left = sum(own.filter((file) => !chosen.includes(file)))
          expect(left).toBeGreaterThanOrEqual(Math.min(floorBytes, sum(own)))
        }
        if (sum(chosen) >= bytesToFree) {
          expect(sum(chosen.slice(0, -1)) < bytesToFree || chosen.length === 0).toBe(true)
          return
        }
        for (const tenantId of ['a', 'b', 'c']) {
          const left = files.filter((file) => file.tenantId === tenantId && !chosen.includes(file))
          const largest = Math.max(0, ...left.map(({ sizeBytes }) => sizeBytes))
          expect(sum(left) - largest).toBeLessThanOrEqual(floorBytes)
        }
      },
    ),
  )
})

test('covered files go first, then the least recently used, then the oldest history', () => {
  const file = (lastAccessMs: number, isCovered: boolean, endLsn = 10) => ({
    endLsn,
    tenantId: 'a',
    sizeBytes: 10,
    lastAccessMs,
    isCovered,
  })
  const files = [file(5, false), file(1, false), file(9, true), file(3, false), file(2, true)]
  const chosen = planEviction(files, { bytesToFree: 35, floorBytes: 0 })
  expect(chosen.map(({ lastAccessMs }) => lastAccessMs)).toEqual([2, 9, 1, 3])
  const kept = planEviction(files, { bytesToFree: 100, floorBytes: 20 })
  expect(kept.map(({ lastAccessMs }) => lastAccessMs)).toEqual([2, 9, 1])
  const same = [file(1, false, 30), file(1, false, 20), file(1, false, 40)]
  const oldest = planEviction(same, { bytesToFree: 15, floorBytes: 0 })
  expect(oldest.map(({ endLsn }) => endLsn)).toEqual([20, 30])
})

const key = (blk: number): Key => ({ cls: KeyClass.RelBlock, spc: 1, db: 2, rel: 3, fork: 0, blk })
const layer = (first: number, last: number, startLsn: number, endLsn: number): CoverLayer => ({
  firstKey: key(first),
  lastKey: key(last),
  startLsn,
  endLsn,
  isImage: false,
})
const image = (first: number, last: number, lsn: number): CoverLayer => ({
  ...layer(first, last, lsn, lsn + 1),
  isImage: true,
})

test('images that leave no gap cover what lies below them', () => {
  const below = layer(0, 99, 10, 20)
  const cover = (layers: CoverLayer[], points: number[] = []) =>
    coveredLayers([below, ...layers], points)[0]
  expect(cover([])).toBe(false)
  expect(cover([image(0, 99, 30)])).toBe(true)
  expect(cover([image(0, 99, 15)])).toBe(false)
  expect(cover([image(0, 49, 30), image(50, 120, 40)])).toBe(true)
  expect(cover([image(0, 48, 30), image(50, 120, 40)])).toBe(false)
  expect(cover([image(0, 49, 30), image(50, 98, 40)])).toBe(false)
  expect(cover([image(0, 99, 30)], [25])).toBe(false)
  expect(cover([image(0, 99, 30)], [5, 30, 35])).toBe(true)
  // An image is not covered by itself, but by a newer one.
  expect(coveredLayers([image(0, 9, 30), image(0, 9, 40)], [])).toEqual([true, false])
})
