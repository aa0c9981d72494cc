/**
 * Data checksums of pages (storage/checksum_impl.h): 32 FNV-1a sums side by side over the page's
 * 32-bit words, folded together and mixed with the block number. Kept in pd_checksum, bytes 8 and 9.
 */
import { isNewPage, PAGE_SIZE } from './page.ts'

const SUMS = 32
const WORDS = PAGE_SIZE / 4
const PRIME = 16777619
const CHECKSUM_OFFSET = 8
/** checksumBaseOffsets. */
const BASES = Int32Array.from([
  0x5b1f36e9, 0xb8525960, 0x02ab50aa, 0x1de66d2a, 0x79ff467a, 0x9bb9f8a3, 0x217e7cd2, 0x83e13d2c,
  0xf8d4474f, 0xe39eb970, 0x42c6ae16, 0x993216fa, 0x7b093b5d, 0x98daff3c, 0xf718902a, 0x0b1c9cdb,
  0xe58f764b, 0x187636bc, 0x5d7b3bb1, 0xe73de7de, 0x92bec979, 0xcca6c0b2, 0x304a0979, 0x85aa43d4,
  0x783125bb, 0x6ca8eaa2, 0xe407eac6, 0x4b5cfc3e, 0x9fbf8c76, 0x15ca20be, 0xf2ca9fd3, 0x959bd756,
])
const words = new Int32Array(WORDS)
const bytes = Buffer.from(words.buffer)
const sums = new Int32Array(SUMS)

/**
 * The checksum of the page at `offset`, as block `block` of its fork (not of its segment file), from
 * 1 to 65535. What pd_checksum holds does not count.
 */
export function pageChecksum(buffer: Buffer, offset: number, block: number): number {
  buffer.copy(bytes, 0, offset, offset + PAGE_SIZE)
  bytes.writeUInt16LE(0, CHECKSUM_OFFSET)
  sums.set(BASES)
  for (let at = 0; at < WORDS; at += SUMS) {
    for (let sum = 0; sum < SUMS; sum += 1) {
      const mixed = (sums[sum] as number) ^ (words[at + sum] as number)
      sums[sum] = Math.imul(mixed, PRIME) ^ (mixed >>> 17)
    }
  }
  let folded = 0
  for (let sum = 0; sum < SUMS; sum += 1) {
    let value = sums[sum] as number
    // Two rounds of zeros, so that the last words spread over all bits.
    value = Math.imul(value, PRIME) ^ (value >>> 17)
    value = Math.imul(value, PRIME) ^ (value >>> 17)
    folded ^= value
  }
  return (((folded ^ block) >>> 0) % 65535) + 1
}

/** Sets pd_checksum of consecutive pages, of which the first is block `firstBlock`; new pages have none. */
export function setPageChecksums(pages: Buffer, firstBlock: number): void {
  for (let offset = 0; offset < pages.length; offset += PAGE_SIZE) {
    if (isNewPage(pages.subarray(offset, offset + PAGE_SIZE))) continue
    const block = firstBlock + offset / PAGE_SIZE
    pages.writeUInt16LE(pageChecksum(pages, offset, block), offset + CHECKSUM_OFFSET)
  }
}
