import { describe, expect, it } from 'vitest'
import { FIRST_WAIT_MS, Tenure } from './tenure.ts'

describe('tenure', () => {
  it('begins with the first term won, and owns those won since', () => {
    const tenure = new Tenure()
    expect(tenure.hasBegun).toBe(false)
    tenure.won(4)
    tenure.won(7)
    expect([3, 4, 5, 7].map((term) => tenure.owns(term))).toEqual([false, true, false, true])
  })

  it('waits once to twice as long, longer each time up to a limit, and forgets after a calm', () => {
    const tenure = new Tenure()
    let nowMs = 0
    const waits: number[] = []
    for (const random of [0, 0, 0, 0.999, 0, 0]) {
      tenure.deposed(nowMs, random)
      waits.push(tenure.waitMs(nowMs) / FIRST_WAIT_MS)
      nowMs += tenure.waitMs(nowMs)
      expect(tenure.waitMs(nowMs)).toBe(0)
      tenure.leads(nowMs + 10_000)
    }
    expect(waits.map(Math.round)).toEqual([1, 2, 4, 16, 8, 8])
    tenure.leads(nowMs + 30_000)
    tenure.deposed(nowMs, 0)
    expect(tenure.waitMs(nowMs)).toBe(FIRST_WAIT_MS)
  })
})
