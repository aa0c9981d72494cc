/**
 * Whether a pageserver holds the newest generation of its tenants. It asks before it deletes
 * objects and before it lets safekeepers forget WAL: neither may follow from a view of the data
 * that a newer attachment does not share.
 */
import type { TenantGeneration } from '#libs/api/generations.ts'
import { parseTenantShardId, shardNumberOf, wholeTenant } from '#libs/sharding.ts'
import type { TenantRecord } from './records.ts'
import type { Registry } from './registry.ts'

/** Those of `asked` that are newest and held by this pageserver, as stored at this moment. */
export async function validateGenerations(
  registry: Registry,
  pageserverId: number,
  asked: readonly TenantGeneration[],
): Promise<{ valid: TenantGeneration[] }> {
  const holders = await Promise.all(
    asked.map(async ({ tenantId }) => {
      const whole = wholeTenant(parseTenantShardId(tenantId))
      return (await registry.findTenant(whole))?.value ?? null
    }),
  )
  const valid = asked.filter((one, index) => {
    const tenant = holders[index]
    return tenant ? isNewest(tenant, pageserverId, one) : false
  })
  return { valid }
}

function isNewest(
  { shardCount, placements }: TenantRecord,
  pageserverId: number,
  { tenantId, generation }: TenantGeneration,
): boolean {
  const shard = shardNumberOf(parseTenantShardId(tenantId))
  // What was held before a tenant was split is not held any more.
  if ((shard?.count ?? 0) !== shardCount) return false
  return placements.some(
    (one) =>
      one.shard === (shard?.number ?? 0) &&
      one.pageserverId === pageserverId &&
      one.generation === generation,
  )
}
