import { randomBytes } from 'node:crypto'
import { zstdDecompressSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { packZstd } from './zstd-packer.ts'

test('each chunk becomes one frame of its own, many at once', async () => {
  const chunks = Array.from({ length: 60 }, (_, index) => {
    const random = randomBytes(index * 700)
    return Buffer.concat([random, Buffer.alloc(index * 1000, `chunk ${index} `)])
  })
  chunks.push(randomBytes(3_000_000), Buffer.alloc(2_000_000))
  const frames = await Promise.all(chunks.map((chunk) => packZstd(chunk)))
  for (const [index, chunk] of chunks.entries()) {
    if (chunk.length === 0) continue
    expect(zstdDecompressSync(frames[index] as Buffer).equals(chunk)).toBe(true)
  }
})
