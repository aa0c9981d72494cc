import { describe, expect, test } from 'vitest'
import { initPage, PAGE_SIZE } from './page.ts'
import { pageChecksum, setPageChecksums } from './page-checksum.ts'

function example(seed: number): Buffer {
  const page = Buffer.alloc(PAGE_SIZE)
  initPage(page)
  for (let at = 24; at < PAGE_SIZE; at += 1) page[at] = (at * seed) & 0xff
  return page
}

describe('data checksums', () => {
  test('depend on the contents and on the block number, not on what is stored', () => {
    const page = example(7)
    const sum = pageChecksum(page, 0, 3)
    expect(pageChecksum(page, 0, 4)).not.toBe(sum)
    page.writeUInt16LE(0xffff, 8)
    expect(pageChecksum(page, 0, 3)).toBe(sum)
    page[5000] = (page[5000] as number) ^ 1
    expect(pageChecksum(page, 0, 3)).not.toBe(sum)
  })

  test('are from 1 to 65535', () => {
    const sums = Array.from({ length: 300 }, (_, block) => pageChecksum(example(3), 0, block))
    expect(sums.every((sum) => sum >= 1 && sum <= 65535)).toBe(true)
    expect(new Set(sums).size).toBeGreaterThan(250)
  })

  test('go into pages, not into new ones', () => {
    const pages = Buffer.concat([example(5), Buffer.alloc(PAGE_SIZE), example(5)])
    setPageChecksums(pages, 131072)
    expect(pages.readUInt16LE(8)).toBe(pageChecksum(pages, 0, 131072))
    expect(pages.subarray(PAGE_SIZE, 2 * PAGE_SIZE).every((byte) => byte === 0)).toBe(true)
    expect(pages.readUInt16LE(2 * PAGE_SIZE + 8)).toBe(pageChecksum(pages, 2 * PAGE_SIZE, 131074))
  })
})
