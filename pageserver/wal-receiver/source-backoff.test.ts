import { expect, test } from 'vitest'
import { SourceBackoff } from './source-backoff.ts'

const candidates = [
  { id: 1, commitLsn: 100 },
  { id: 2, commitLsn: 90 },
  { id: 3, commitLsn: null },
]
const ids = (list: readonly { id: number }[]) => list.map(({ id }) => id)

test('who failed is left out for a while, longer each time, until it works', () => {
  const backoff = new SourceBackoff()
  const waits: number[] = []
  let nowMs = 0
  for (let round = 0; round < 7; round += 1) {
    backoff.failed(1, nowMs)
    const from = nowMs
    while (!ids(backoff.eligible(candidates, nowMs)).includes(1)) nowMs += 100
    waits.push(nowMs - from)
  }
  expect(waits).toEqual([500, 1000, 2000, 4000, 8000, 15_000, 15_000])
  backoff.worked(1)
  backoff.failed(1, nowMs)
  expect(ids(backoff.eligible(candidates, nowMs + 499))).toEqual([2])
  expect(ids(backoff.eligible(candidates, nowMs + 500))).toEqual([1, 2])
})

test('when all failed, all are tried: one of them may be back', () => {
  const backoff = new SourceBackoff()
  for (const { id } of candidates) backoff.failed(id, 0)
  expect(ids(backoff.eligible(candidates, 0))).toEqual([1, 2, 3])
})
