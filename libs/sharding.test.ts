import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { newTenantId } from './ids.ts'
import {
  MAX_SHARD_COUNT,
  parseTenantShardId,
  relationHash,
  shardIdentity,
  shardNumberOf,
  shardOfBlock,
  shardOfStripe,
  tenantShardId,
  wholeTenant,
} from './sharding.ts'

type Vector = [rel: number, stripe: number, count: number, shard: number]
const { vectors } = JSON.parse(
  readFileSync(new URL('sharding-vectors.json', import.meta.url), 'utf8'),
) as { vectors: Vector[] }

describe('the shard of a block', () => {
  it('is what the table says that computes are held to, too', () => {
    expect(vectors.length).toBeGreaterThan(100)
    for (const [rel, stripe, count, shard] of vectors) {
      expect(shardOfStripe(relationHash(rel), stripe, count)).toBe(shard)
      expect(shardOfBlock(rel, stripe * 2048 + 2047, { count, stripeBlocks: 2048 })).toBe(shard)
    }
  })

  it('gives every shard about as much, also of one relation', () => {
    for (const rel of [1259, 16_384, 16_385]) {
      const blocks = [0, 0, 0, 0]
      for (let stripe = 0; stripe < 4000; stripe++) {
        const shard = shardOfBlock(rel, stripe * 128, { count: 4, stripeBlocks: 128 })
        blocks[shard] = (blocks[shard] as number) + 1
      }
      for (const count of blocks) expect(Math.abs(count - 1000)).toBeLessThan(120)
    }
    const relations = [0, 0, 0, 0]
    for (let rel = 16_384; rel < 20_384; rel++) {
      const shard = shardOfBlock(rel, 0, { count: 4, stripeBlocks: 2048 })
      relations[shard] = (relations[shard] as number) + 1
    }
    for (const count of relations) expect(Math.abs(count - 1000)).toBeLessThan(120)
  })
})

describe('the name of a shard', () => {
  it('is read back as it was written', () => {
    const tenantId = newTenantId()
    const count = fc.integer({ min: 2, max: MAX_SHARD_COUNT })
    const shard = count.chain((n) => fc.tuple(fc.integer({ min: 0, max: n - 1 }), fc.constant(n)))
    fc.assert(
      fc.property(shard, ([number, of]) => {
        const name = tenantShardId(tenantId, number, of)
        expect(parseTenantShardId(name)).toBe(name)
        expect(wholeTenant(name)).toBe(tenantId)
        expect(shardNumberOf(name)).toEqual({ number, count: of })
        expect(shardIdentity(name, 128)).toEqual({ number, count: of, stripeBlocks: 128 })
      }),
    )
    expect(tenantShardId(tenantId, 1, 4)).toBe(`${tenantId}-0104`)
  })

  it('is the tenant itself when there is one part only', () => {
    const tenantId = newTenantId()
    expect(tenantShardId(tenantId, 0, 0)).toBe(tenantId)
    expect(tenantShardId(tenantId, 0, 1)).toBe(tenantId)
    expect(shardIdentity(tenantId)).toBeNull()
    expect(parseTenantShardId(tenantId)).toBe(tenantId)
  })

  it('must name a shard that there is', () => {
    const tenantId = newTenantId()
    for (const suffix of ['-0404', '-0001', '-0000', '-00ff', '-04', '-00 4', '/../x', '-0004x']) {
      expect(() => parseTenantShardId(tenantId + suffix)).toThrow(/names shard|not the id/)
    }
    expect(() => shardIdentity(tenantShardId(tenantId, 0, 4))).toThrow(/stripe/)
  })
})
