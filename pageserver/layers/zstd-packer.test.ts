import { randomBytes } from 'node:crypto'
import { crc32, zstdDecompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { Codec } from './layer-format.ts'
import { SLOT_RAW_BYTES } from './pack-slots.ts'
import { compressZstd } from './zstd-compressor.ts'
import { chunkToPack } from './zstd-packer.ts'

function inputs(): Buffer[] {
  const sizes = Array.from({ length: 60 }, (_, index) => index)
  const mixed = sizes.map((index) =>
    Buffer.concat([randomBytes(index * 700), Buffer.alloc(index * 1000, `chunk ${index} `)]),
  )
  const random = randomBytes(SLOT_RAW_BYTES)
  return [...mixed, random, randomBytes(3_000_000), Buffer.alloc(2_000_000)].filter(
    ({ length }) => length > 0,
  )
}

async function packed(bytes: Buffer): Promise<Buffer> {
  const chunk = chunkToPack(bytes.length)
  bytes.copy(chunk.raw)
  const { codec, stored, crc } = await chunk.pack()
  expect(crc).toBe(crc32(stored))
  const raw = codec === Codec.Zstd ? zstdDecompressSync(stored) : Buffer.from(stored)
  chunk.release()
  return raw
}

test('chunks come back whole, more at once than there are slots, on the pool and in the thread', async () => {
  // The first round is below what starts the thread, which the later ones use.
  for (let round = 0; round < 4; round++) {
    const all = inputs()
    const raws = await Promise.all(all.map(packed))
    expect(raws.every((raw, index) => raw.equals(all[index] as Buffer))).toBe(true)
  }
})

test('a kept context makes one frame for each chunk, however well it compresses', () => {
  const target = Buffer.alloc(SLOT_RAW_BYTES + 1024)
  for (const raw of inputs().filter(({ length }) => length <= SLOT_RAW_BYTES)) {
    const length = compressZstd(raw, target)
    expect(zstdDecompressSync(target.subarray(0, length)).equals(raw)).toBe(true)
  }
})

test('where there is no room the frame is not cut short', () => {
  const raw = Buffer.alloc(50_000, 'x')
  const whole = Buffer.alloc(60_000)
  const length = compressZstd(raw, whole)
  const exact = Buffer.alloc(length)
  expect(compressZstd(raw, exact)).toBe(length)
  expect(zstdDecompressSync(exact).equals(raw)).toBe(true)
  expect(() => compressZstd(randomBytes(9000), exact)).toThrow(/room/)
})
