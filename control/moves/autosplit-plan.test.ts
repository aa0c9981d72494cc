import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MAX_SHARD_COUNT } from '#libs/sharding.ts'
import {
  type Fleet,
  planSplit,
  type SplitCandidate,
  shardLimit,
  wantedShards,
} from './autosplit-plan.ts'

const GB = 1024 ** 3
const FLEET: Fleet = { nowMs: 1_000_000, pageservers: 4, isSplitting: false, coolDownMs: 600_000 }

const tenant = (tenantId: string, change: Partial<SplitCandidate> = {}): SplitCandidate => ({
  tenantId,
  shards: 1,
  largestBytes: 10 * GB,
  policy: { shardBytes: 64 * GB, maxShards: null },
  isBusy: false,
  lastSplitMs: null,
  ...change,
})
const large = (tenantId: string, gigabytes: number, change: Partial<SplitCandidate> = {}) =>
  tenant(tenantId, { largestBytes: gigabytes * GB, ...change })

describe('a tenant', () => {
  it('gets as many shards as its size asks for, by doubling, at once', () => {
    const wanted = (gigabytes: number, shards = 1, pageservers = 16) =>
      wantedShards(large('a', gigabytes, { shards }), pageservers)
    expect([64, 65, 128, 129, 300].map((size) => wanted(size))).toEqual([1, 2, 2, 4, 8])
    expect(wanted(300, 2)).toBe(8)
    expect(wanted(200, 3)).toBe(6)
    expect(wanted(10, 8)).toBe(8)
    expect(wanted(1e6)).toBe(16)
  })

  it('gets no more than there are pageservers, unless it is told so', () => {
    const wanted = (pageservers: number, maxShards: number | null, shards = 1) => {
      const policy = { shardBytes: GB, maxShards }
      return wantedShards(large('a', 1_000, { policy, shards }), pageservers)
    }
    expect([1, 2, 3, 4, 100].map((count) => wanted(count, null))).toEqual([1, 2, 2, 4, 16])
    expect(wanted(1, 4)).toBe(4)
    expect(wanted(8, 1)).toBe(1)
    expect(wanted(2, null, 4)).toBe(4)
    expect(shardLimit({ shardBytes: null, maxShards: 1_000 }, 1)).toBe(MAX_SHARD_COUNT)
  })

  it('is left alone when its size is not known, and when it is not to be split', () => {
    const off = { shardBytes: null, maxShards: null }
    const alone = [large('a', 500, { policy: off }), tenant('b', { largestBytes: null })]
    expect(planSplit(alone, FLEET)).toBeNull()
  })
})

describe('a round', () => {
  it('splits the tenant with the largest shards, and only one', () => {
    const tenants = [large('a', 100), large('b', 300, { shards: 4 }), large('c', 90)]
    expect(planSplit(tenants, FLEET)).toEqual({ tenantId: 'a', shards: 2 })
    const more = [...tenants, large('d', 900, { shards: 4 })]
    // It has as many as it may, so it keeps nobody else from being split.
    expect(planSplit(more, FLEET)).toEqual({ tenantId: 'a', shards: 2 })
    expect(planSplit(more, { ...FLEET, pageservers: 8 })).toEqual({ tenantId: 'd', shards: 8 })
  })

  it('waits while one is split, and leaves those that are busy or were just split', () => {
    const both = (change: Partial<SplitCandidate>) => [large('a', 200, change), large('b', 100)]
    expect(planSplit(both({}), { ...FLEET, isSplitting: true })).toBeNull()
    expect(planSplit(both({}), FLEET)?.tenantId).toBe('a')
    expect(planSplit(both({ isBusy: true }), FLEET)?.tenantId).toBe('b')
    expect(planSplit(both({ lastSplitMs: FLEET.nowMs - 1 }), FLEET)?.tenantId).toBe('b')
    expect(planSplit(both({ lastSplitMs: FLEET.nowMs - 600_000 }), FLEET)?.tenantId).toBe('a')
  })
})

const nullable = (max: number) => fc.option(fc.integer({ min: 1, max }), { nil: null })
const candidate = fc.record({
  tenantId: fc.uuid(),
  shards: fc.constantFrom(1, 2, 3, 4, 8, 16, 64),
  largestBytes: nullable(1e13),
  policy: fc.record({ shardBytes: nullable(1e12), maxShards: nullable(MAX_SHARD_COUNT) }),
  isBusy: fc.boolean(),
  lastSplitMs: nullable(1_000_000),
})
const candidates = fc.uniqueArray(candidate, { selector: ({ tenantId }) => tenantId, maxLength: 8 })
const pageserverCount = fc.integer({ min: 0, max: 40 })

it('keeps to the policy, makes multiples only, and comes to an end', () => {
  fc.assert(
    fc.property(candidates, pageserverCount, (tenants, pageservers) => {
      const fleet = { ...FLEET, pageservers }
      let now: readonly SplitCandidate[] = tenants
      const sizeOf = ({ largestBytes, shards }: SplitCandidate) => (largestBytes ?? 0) / shards
      for (let rounds = 0; ; rounds++) {
        // Each is split once, into as many as it needs.
        expect(rounds).toBeLessThanOrEqual(tenants.length)
        const planned = planSplit(now, fleet)
        if (planned === null) break
        const before = now.find(({ tenantId }) => tenantId === planned.tenantId) as SplitCandidate
        const { policy, shards, isBusy, lastSplitMs } = before
        expect(isBusy).toBe(false)
        expect(FLEET.nowMs - (lastSplitMs ?? -Infinity)).toBeGreaterThanOrEqual(FLEET.coolDownMs)
        expect(planned.shards % shards).toBe(0)
        expect(planned.shards).toBeGreaterThan(shards)
        expect(planned.shards).toBeLessThanOrEqual(shardLimit(policy, pageservers))
        const shardBytes = policy.shardBytes as number
        expect(sizeOf(before)).toBeGreaterThan(shardBytes)
        // Not more often than its size asks for.
        expect((before.largestBytes as number) / (planned.shards / 2)).toBeGreaterThan(shardBytes)
        now = now.map((one) => (one === before ? { ...one, shards: planned.shards } : one))
      }
      // Nobody is left who could be split and should be.
      for (const one of now) {
        const { policy, isBusy, lastSplitMs, shards } = one
        const rests = lastSplitMs !== null && FLEET.nowMs - lastSplitMs < FLEET.coolDownMs
        if (isBusy || rests || policy.shardBytes === null) continue
        const isFull = shards * 2 > shardLimit(policy, pageservers)
        expect(isFull || sizeOf(one) <= policy.shardBytes).toBe(true)
      }
    }),
    { numRuns: 500 },
  )
})
