/** Where a tenant is: the pageservers that serve it, one for each of its shards. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { assert, ZenithError } from '#libs/errors.ts'
import type { TenantId } from '#libs/ids.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { servingNode, takesWrites } from './moves/placement-changes.ts'
import { servingParents, splitTakesWrites } from './moves/split-changes.ts'
import type { PlacementRecord, TenantRecord } from './records.ts'
import { addressOf, type Registry } from './registry.ts'

/** A pageserver that has a tenant, or one shard of it. It is reached as any node. */
export interface Place extends NodeInfo {
  shard: number
  /** 0 = the tenant is not sharded. */
  shardCount: number
  stripeBlocks: number
  generation: number
}

/** A tenant that moves takes nothing new for a moment; whoever brings something waits so long. */
const WRITABLE_WAIT_MS = 30_000
const WRITABLE_POLL_MS = 50

/**
 * The pageservers that have the tenant, in the order of its shards. Each is the newest holder: what
 * it is told is durable under the highest generation. Read it anew for each operation. Waits while
 * the tenant is just being handed over; throws `unavailable` when that takes long.
 */
export async function placesOf(registry: Registry, tenantId: string): Promise<Place[]> {
  const deadline = Date.now() + WRITABLE_WAIT_MS
  for (;;) {
    const tenant = await registry.tenant(tenantId)
    if (splitTakesWrites(tenant) && tenant.placements.every(takesWrites)) {
      return placesAt(registry, tenant, ({ pageserverId }) => pageserverId)
    }
    if (Date.now() > deadline) {
      throw new ZenithError('unavailable', `Tenant ${tenantId} is being moved or split.`, {
        hint: 'Try again in a moment; zenith pageserver list shows how far that is.',
      })
    }
    await sleep(WRITABLE_POLL_MS)
  }
}

/** Where computes read: as `placesOf`, but while a new holder gets ready still the old one. */
export function servingPlacesIn(registry: Registry, tenant: TenantRecord): Promise<Place[]> {
  const { split } = tenant
  if (split?.phase !== 'attach') return placesAt(registry, tenant, servingNode)
  const parents = { ...tenant, shardCount: split.parentCount, placements: split.parents }
  return placesAt(registry, parents, ({ pageserverId }) => pageserverId)
}

/** All that take in its WAL: the newest holders, and those that it is just leaving. */
export async function holdersOf(registry: Registry, tenantId: string): Promise<Place[]> {
  const tenant = await registry.tenant(tenantId)
  const leaving = tenant.placements.filter(
    ({ pageserverId, move }) => move !== undefined && !move.lost && move.from !== pageserverId,
  )
  const lists = await Promise.all([
    placesAt(registry, tenant, ({ pageserverId }) => pageserverId),
    placesAt(registry, { ...tenant, placements: leaving }, ({ pageserverId, move }) =>
      move === undefined ? pageserverId : move.from,
    ),
  ])
  const { split } = tenant
  if (split === undefined) return lists.flat()
  const parents = {
    ...tenant,
    shardCount: split.parentCount,
    placements: servingParents(tenant),
  }
  return [
    ...lists.flat(),
    ...(await placesAt(registry, parents, ({ pageserverId }) => pageserverId)),
  ]
}

function placesAt(
  registry: Registry,
  tenant: TenantRecord,
  nodeOf: (placement: PlacementRecord) => number,
): Promise<Place[]> {
  const { shardCount, stripeBlocks, placements } = tenant
  return Promise.all(
    placements.map(async (placement) => ({
      ...addressOf(await registry.node('pageserver', nodeOf(placement))),
      shard: placement.shard,
      shardCount,
      stripeBlocks,
      generation: placement.generation,
    })),
  )
}

/** The name of what a place has: the tenant, or one shard of it. */
export function shardAt(
  tenantId: string,
  { shard, shardCount }: Pick<Place, 'shard' | 'shardCount'>,
): TenantId {
  return tenantShardId(tenantId, shard, shardCount)
}

/** The place that knows what is not spread over shards: exact sizes, transaction status. */
export async function firstPlaceOf(registry: Registry, tenantId: string): Promise<Place> {
  const [first] = await servingPlacesIn(registry, await registry.tenant(tenantId))
  assert(first !== undefined, 'a tenant has a placement')
  return first
}

/**
 * Asks all of them at once and waits for all, so that nothing is under way when it throws, which it
 * does when one fails. The answers are in the order of the places.
 */
export async function onEach<T, P extends NodeInfo>(
  places: readonly P[],
  ask: (place: P) => Promise<T>,
): Promise<T[]> {
  const results = await Promise.allSettled(places.map(ask))
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}
