/** Where a tenant is: the pageservers that serve it, one for each of its shards. */
import type { NodeInfo } from '#libs/api/control.ts'
import { assert } from '#libs/errors.ts'
import type { TenantRecord } from './records.ts'
import { addressOf, type Registry } from './registry.ts'

/** A pageserver that has a tenant, or one shard of it. It is reached as any node. */
export interface Place extends NodeInfo {
  shard: number
  /** 0 = the tenant is not sharded. */
  shardCount: number
  stripeBlocks: number
  generation: number
}

/**
 * The pageservers that have the tenant, in the order of its shards. Each is the newest holder: what
 * it is told is durable under the highest generation. Read it anew for each operation.
 */
export async function placesOf(registry: Registry, tenantId: string): Promise<Place[]> {
  return placesIn(registry, await registry.tenant(tenantId))
}

/** As `placesOf`, for a record at hand. */
export function placesIn(registry: Registry, tenant: TenantRecord): Promise<Place[]> {
  const { shardCount, stripeBlocks, placements } = tenant
  return Promise.all(
    placements.map(async ({ shard, generation, pageserverId }) => ({
      ...addressOf(await registry.node('pageserver', pageserverId)),
      shard,
      shardCount,
      stripeBlocks,
      generation,
    })),
  )
}

/** The place that knows what is not spread over shards: exact sizes, transaction status. */
export async function firstPlaceOf(registry: Registry, tenantId: string): Promise<Place> {
  const [first] = await placesOf(registry, tenantId)
  assert(first !== undefined, 'a tenant has a placement')
  return first
}

/**
 * Asks all of them at once and waits for all, so that nothing is under way when it throws, which it
 * does when one fails. The answers are in the order of the places.
 */
export async function onEach<T>(
  places: readonly Place[],
  ask: (place: Place) => Promise<T>,
): Promise<T[]> {
  const results = await Promise.allSettled(places.map(ask))
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}
