import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { expect, test } from 'vitest'
import { SlotTable } from './slot-table.ts'

const COUNT = 50_000

test('prefixes have one slot each, in order of first use', () => {
  const slots = new SlotTable()
  expect(slots.find(0, 1663, 5, 16384, 0)).toBe(-1)
  for (let rel = 0; rel < 5000; rel++) expect(slots.intern(4, 1663, 5, rel, rel % 4)).toBe(rel)
  for (let rel = 0; rel < 5000; rel++) expect(slots.find(4, 1663, 5, rel, rel % 4)).toBe(rel)
  expect(slots.find(5, 1663, 5, 7, 3)).toBe(-1)
  expect(slots.key(4999, 8)).toEqual({ cls: 4, spc: 1663, db: 5, rel: 4999, fork: 3, blk: 8 })
  expect(slots.compare(10, 11)).toBeLessThan(0)
})

test('two threads that make slots at the same time agree on all of them', async () => {
  const slots = new SlotTable()
  const worker = new Worker(new URL('./testing/slot-maker.ts', import.meta.url), {
    workerData: { description: slots.describe(), count: COUNT },
  })
  try {
    await once(worker, 'message')
    const answer = once(worker, 'message')
    worker.postMessage('go')
    const mine = new Uint32Array(COUNT)
    // From both ends, so that each makes a part.
    for (let rel = COUNT - 1; rel >= 0; rel--) mine[rel] = slots.intern(0, 1, 2, rel, 0)
    const [theirs] = await answer
    expect(theirs).toEqual(mine)
    expect(new Set(mine).size).toBe(COUNT)
    expect(slots.count).toBe(COUNT)
    for (let rel = 0; rel < COUNT; rel += 97) {
      expect(slots.rel(mine[rel] as number)).toBe(rel)
      expect(slots.find(0, 1, 2, rel, 0)).toBe(mine[rel])
    }
  } finally {
    await worker.terminate()
  }
})
