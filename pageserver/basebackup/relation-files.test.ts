import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type BlockRun, blockRuns, filesOf, MAX_RUN_BLOCKS } from './relation-files.ts'

const FILE = 131072

const filesFor = (blocks: number): BlockRun[] => [...filesOf(blocks)]

describe('files of relations', () => {
  test('end at 1 GiB, and an empty fork is one empty file', () => {
    expect(filesFor(0)).toEqual([{ firstBlock: 0, count: 0 }])
    expect(filesFor(1)).toEqual([{ firstBlock: 0, count: 1 }])
    expect(filesFor(FILE)).toEqual([{ firstBlock: 0, count: FILE }])
    expect(filesFor(FILE + 1)).toEqual([
      { firstBlock: 0, count: FILE },
      { firstBlock: FILE, count: 1 },
    ])
    expect(filesFor(2 * FILE).map(({ count }) => count)).toEqual([FILE, FILE])
  })

  test('runs cover each block once, and cross no end of a file, stripe or read', () => {
    const stripes = fc.oneof(
      fc.constant(null),
      fc.constantFrom(1, 7, 8, 100, 2048, 2049, FILE, FILE + 3, 1_048_576),
    )
    // Around the edges of the second file, and of stripes that do not divide it.
    const sizes = fc.oneof(
      fc.integer({ min: 0, max: 600 }),
      fc.integer({ min: FILE - 300, max: FILE + 300 }),
      fc.integer({ min: 2 * FILE - 2, max: 2 * FILE + 2 }),
    )
    fc.assert(
      fc.property(sizes, stripes, (blocks, stripe) => {
        let at = 0
        for (const file of filesOf(blocks)) {
          for (const { firstBlock, count } of blockRuns(file, stripe)) {
            const last = firstBlock + count - 1
            const ok =
              firstBlock === at &&
              count > 0 &&
              count <= MAX_RUN_BLOCKS &&
              Math.floor(firstBlock / FILE) === Math.floor(last / FILE) &&
              (stripe === null || Math.floor(firstBlock / stripe) === Math.floor(last / stripe))
            if (!ok) throw new Error(`${firstBlock} + ${count} of ${blocks} in ${stripe}`)
            at += count
          }
        }
        expect(at).toBe(blocks)
      }),
      { numRuns: 60 },
    )
  })
})
