import { describe, expect, it } from 'vitest'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import {
  alignBranchLsn,
  checkBranchLsn,
  type ComputeFact,
  decideTip,
  type SafekeeperFact,
} from './branch-point.ts'

const safekeeper = (id: number, flushLsn: number, commitLsn: number, term = 1): SafekeeperFact => ({
  id,
  term,
  flushLsn,
  commitLsn,
})
const answered = (commitLsn: number | null, term: number | null = 1): ComputeFact => ({
  kind: 'answered',
  commitLsn,
  term,
})
const gone: ComputeFact = { kind: 'gone', commitLsn: null, term: null }
const silent: ComputeFact = { kind: 'silent', commitLsn: null, term: null }

describe('the end of a branch', () => {
  it('is what its compute has committed', () => {
    const safekeepers = [safekeeper(1, 900, 700)]
    const facts = { compute: answered(800), safekeepers, memberCount: 1 }
    expect(decideTip(facts)).toEqual({ kind: 'at', lsn: 800 })
  })

  it('needs no safekeeper while a compute answers', () => {
    const facts = { compute: answered(800), safekeepers: [], memberCount: 3 }
    expect(decideTip(facts)).toEqual({ kind: 'at', lsn: 800 })
  })

  it('is not taken from a compute that was deposed', () => {
    const safekeepers = [safekeeper(1, 900, 900, 2)]
    const facts = { compute: answered(800, 1), safekeepers, memberCount: 1 }
    expect(decideTip(facts)).toEqual({ kind: 'at', lsn: 900 })
    const busy = { ...facts, safekeepers: [safekeeper(1, 950, 900, 2)] }
    expect(decideTip(busy).kind).toBe('wait')
  })

  it('without a compute is the committed end of a majority', () => {
    const safekeepers = [safekeeper(1, 800, 800), safekeeper(2, 800, 640)]
    expect(decideTip({ compute: null, safekeepers, memberCount: 3 })).toEqual({
      kind: 'at',
      lsn: 800,
    })
    expect(decideTip({ compute: gone, safekeepers, memberCount: 3 }).kind).toBe('at')
  })

  it('is found by a sync when a tail is in doubt, and never while a compute may write', () => {
    const safekeepers = [safekeeper(1, 808, 800), safekeeper(2, 800, 800)]
    const facts = (compute: ComputeFact | null) => ({ compute, safekeepers, memberCount: 3 })
    expect(decideTip(facts(null)).kind).toBe('sync')
    expect(decideTip(facts(gone)).kind).toBe('sync')
    expect(decideTip(facts(silent)).kind).toBe('wait')
    expect(decideTip(facts(answered(null, null))).kind).toBe('wait')
  })

  it('waits for a majority', () => {
    const decision = decideTip({
      compute: null,
      safekeepers: [safekeeper(1, 800, 800)],
      memberCount: 3,
    })
    expect(decision).toMatchObject({ kind: 'wait' })
  })
})

describe('branch LSN', () => {
  it('is rounded down to where a record may start', () => {
    expect(alignBranchLsn(0x1609613)).toBe(0x1609610)
    const page = 0x1608000
    expect(alignBranchLsn(page)).toBe(page)
    expect(alignBranchLsn(page + 8)).toBe(page)
    expect(alignBranchLsn(page + 23)).toBe(page)
    expect(alignBranchLsn(page + 24)).toBe(page + 24)
    const segment = 3 * WAL_SEGMENT_SIZE
    expect(alignBranchLsn(segment + 32)).toBe(segment)
    expect(alignBranchLsn(segment + 40)).toBe(segment + 40)
  })

  it('outside the parent names the range', () => {
    const range = { parent: 'main', startLsn: 0x1000000, tipLsn: 0x2000000 }
    expect(() => checkBranchLsn({ ...range, lsn: 0x2000008 })).toThrow(
      'Branch "main" has no LSN 0/2000008: it reaches from 0/1000000 to 0/2000000.',
    )
    expect(() => checkBranchLsn({ ...range, lsn: 0xfffff8 })).toThrow('0/FFFFF8')
    expect(() => checkBranchLsn({ ...range, lsn: 0x1000000 })).not.toThrow()
    expect(() => checkBranchLsn({ ...range, lsn: 0x2000000 })).not.toThrow()
  })
})
