import { expect, it } from 'vitest'
import { firstPlaceOf, onEach, placesOf } from './places.ts'
import { recordKey } from './records.ts'
import { Registry } from './registry.ts'
import { MemoryStore } from './store/memory-store.ts'
import { readTenant, withPlacement } from './tenant-record.ts'

const TENANT = 'a'.repeat(32)
const OLD = {
  tenantId: TENANT,
  state: 'active' as const,
  generation: 7,
  pageserverId: 3,
  mainTimelineId: 'b'.repeat(32),
  createdAt: '2026-01-01T00:00:00.000Z',
}
const NODE = { id: 3, host: '127.0.0.1', pgPort: 6400, httpPort: 9898 }

async function withOldRecord(): Promise<{ store: MemoryStore; registry: Registry }> {
  const store = new MemoryStore()
  await store.compareAndSwap([
    { key: recordKey.tenant(TENANT), expectedVersion: 0, value: OLD },
    { key: recordKey.node('pageserver', 3), expectedVersion: 0, value: NODE },
  ])
  return { store, registry: new Registry(store) }
}

it('reads a record of one pageserver as one placement, wherever it is read', async () => {
  const { registry } = await withOldRecord()
  const placements = [{ shard: 0, pageserverId: 3, generation: 7, secondary: null }]
  expect(await registry.tenant(TENANT)).toMatchObject({ shardCount: 0, placements })
  expect(await registry.tenants()).toMatchObject([{ shardCount: 0, placements }])
  expect(await placesOf(registry, TENANT)).toEqual([
    { ...NODE, shard: 0, shardCount: 0, stripeBlocks: 2048, generation: 7 },
  ])
  expect((await firstPlaceOf(registry, TENANT)).id).toBe(3)
})

it('stores it in the present form with its next change, and loses nothing of it', async () => {
  const { store, registry } = await withOldRecord()
  await registry.changeTenant(TENANT, (tenant) =>
    withPlacement(tenant, 0, (one) => ({ ...one, generation: one.generation + 1 })),
  )
  const stored = (await store.get<Record<string, unknown>>(recordKey.tenant(TENANT)))?.value
  expect(stored).toEqual({
    tenantId: TENANT,
    state: 'active',
    shardCount: 0,
    stripeBlocks: 2048,
    placements: [{ shard: 0, pageserverId: 3, generation: 8, secondary: null }],
    mainTimelineId: OLD.mainTimelineId,
    createdAt: OLD.createdAt,
  })
  expect(readTenant(await registry.tenant(TENANT))).toEqual(stored)
})

it('leaves a record alone that a change does not change', () => {
  const tenant = readTenant(OLD)
  expect(withPlacement(tenant, 0, (one) => one)).toBe(tenant)
  expect(withPlacement(tenant, 1, (one) => ({ ...one, generation: 9 }))).toBe(tenant)
})

it('asks every place, and fails when one does, but only after all have ended', async () => {
  const place = { ...NODE, shardCount: 2, stripeBlocks: 2048, generation: 1 }
  const ended: number[] = []
  const ask = async ({ shard }: { shard: number }): Promise<number> => {
    if (shard === 0) throw new Error('shard 0 is away')
    await new Promise((resolve) => setTimeout(resolve, 10))
    ended.push(shard)
    return shard
  }
  const both = [
    { ...place, shard: 0 },
    { ...place, shard: 1 },
  ]
  await expect(onEach(both, ask)).rejects.toThrow('shard 0 is away')
  expect(ended).toEqual([1])
  expect(await onEach(both.slice(1), ask)).toEqual([1])
})
