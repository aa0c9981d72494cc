import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BoundedSink } from './bounded-sink.ts'

test('a bounded sink takes in all bytes up to its end and none after', async () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 20 })
  await fc.assert(
    fc.asyncProperty(lengths, fc.integer({ min: 0, max: 300 }), async (chunks, room) => {
      const taken: number[] = []
      const inner = {
        nextLsn: 1000,
        async ingest(chunk: Buffer, startLsn: number) {
          expect(startLsn).toBe(inner.nextLsn)
          taken.push(...chunk)
          inner.nextLsn += chunk.length
        },
      }
      const sink = new BoundedSink(inner, 1000 + room)
      const all: number[] = []
      for (const length of chunks) {
        const chunk = Buffer.from(Array.from({ length }, (_, at) => (all.length + at) % 251))
        const startLsn = sink.nextLsn
        expect(startLsn).toBe(1000 + all.length)
        await sink.ingest(chunk, startLsn)
        all.push(...chunk)
      }
      expect(taken).toEqual(all.slice(0, room))
    }),
  )
})
