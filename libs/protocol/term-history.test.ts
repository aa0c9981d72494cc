import { describe, expect, it } from 'vitest'
import { commonPoint, cutHistory, isTermHistory, lastLogTerm } from './term-history.ts'

const entries = (...pairs: [number, number][]) =>
  pairs.map(([term, startLsn]) => ({ term, startLsn }))

describe('term histories', () => {
  it('count a leader that has written nothing yet', () => {
    const history = entries([0, 100], [3, 150])
    expect(lastLogTerm(history, 150)).toBe(3)
    expect(lastLogTerm(history, 149)).toBe(0)
    expect(cutHistory(history, 150)).toHaveLength(2)
    expect(lastLogTerm([], 150)).toBe(0)
  })

  it('rise in term and never fall in position', () => {
    expect(isTermHistory(entries([0, 100], [2, 100], [3, 150]))).toBe(true)
    expect(isTermHistory(entries([0, 100], [0, 150]))).toBe(false)
    expect(isTermHistory(entries([0, 100], [1, 90]))).toBe(false)
  })

  it('part where either log went on to another term', () => {
    // Term 2 was won at 100, its leader reached one safekeeper only; term 3 was won at 150 without it.
    const a = entries([1, 0], [2, 100])
    const b = entries([1, 0], [3, 150])
    const c = entries([1, 0])
    const leader = entries([1, 0], [3, 150], [4, 160])
    expect(commonPoint(leader, a, 180)).toBe(100)
    expect(commonPoint(leader, b, 160)).toBe(160)
    expect(commonPoint(leader, c, 150)).toBe(150)
    expect(commonPoint(leader, c, 130)).toBe(130)
    expect(commonPoint(leader, leader, 170)).toBe(170)
  })

  it('begin at the start of the leader when nothing is common', () => {
    expect(commonPoint(entries([5, 100]), entries([1, 100]), 120)).toBe(100)
  })

  it('never disagree about where a term starts', () => {
    expect(() => commonPoint(entries([1, 100]), entries([1, 108]), 120)).toThrow('term 1')
  })
})
