import { expect, it } from 'vitest'
import { registerNode } from '../nodes.ts'
import { type PlacementRecord, recordKey, type TenantRecord } from '../records.ts'
import { Registry } from '../registry.ts'
import { MemoryStore } from '../store/memory-store.ts'
import type { PageserverHealth } from './pageserver-health.ts'
import { Pageservers } from './pageservers.ts'
import { splitStateOf } from './split.ts'
import { beginSplit, finishSplit, handOverSplit, withSplitState } from './split-changes.ts'

const TENANT = 'a'.repeat(32)
const health = { answers: () => true, silentMs: () => 0 } as unknown as PageserverHealth

async function withTenant(placements: PlacementRecord[]): Promise<Registry> {
  const registry = new Registry(new MemoryStore())
  for (const id of [1, 2]) {
    const node = { id, host: '127.0.0.1', pgPort: 1, httpPort: 1 }
    await registerNode(registry, 'pageserver', node)
  }
  const tenant: TenantRecord = {
    tenantId: TENANT,
    state: 'active',
    shardCount: 0,
    stripeBlocks: 2048,
    placements,
    mainTimelineId: 'b'.repeat(32),
    createdAt: '2026-01-01T00:00:00Z',
  }
  await registry.swap([{ key: recordKey.tenant(TENANT), expectedVersion: 0, value: tenant }])
  return registry
}

it('a pageserver that serves something is not removed', async () => {
  const registry = await withTenant([{ shard: 0, pageserverId: 2, generation: 1, secondary: 1 }])
  const pageservers = new Pageservers(registry, health)
  await expect(pageservers.setState(2, 'removed', false)).rejects.toThrow('still serves a tenant')
})

it('nobody expects a warm copy at one that was removed, also after a split that was under way', async () => {
  const registry = await withTenant([{ shard: 0, pageserverId: 1, generation: 1, secondary: 2 }])
  await registry.changeTenant(TENANT, (tenant) => {
    const begun = beginSplit(tenant, { shards: 2 }, new Date(0))
    return withSplitState(begun, handOverSplit(splitStateOf(begun), []))
  })
  await new Pageservers(registry, health).setState(2, 'removed', false)
  const ended = finishSplit(splitStateOf(await registry.tenant(TENANT)))
  expect(ended.placements.map(({ secondary }) => secondary)).toEqual([null, null])
})
