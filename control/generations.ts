/**
 * Whether a pageserver holds the newest generation of its tenants. It asks before it deletes
 * objects and before it lets safekeepers forget WAL: neither may follow from a view of the data
 * that a newer attachment does not share.
 */
import type { TenantGeneration } from '#libs/api/generations.ts'
import type { TenantRecord } from './records.ts'
import type { Registry } from './registry.ts'

/** Those of `asked` that are newest and held by this pageserver, as stored at this moment. */
export async function validateGenerations(
  registry: Registry,
  pageserverId: number,
  asked: readonly TenantGeneration[],
): Promise<{ valid: TenantGeneration[] }> {
  const holders = await Promise.all(
    asked.map(async ({ tenantId }) => (await registry.findTenant(tenantId))?.value ?? null),
  )
  const valid = asked.filter(({ generation }, index) => {
    const tenant = holders[index]
    return tenant ? isNewest(tenant, pageserverId, generation) : false
  })
  return { valid }
}

function isNewest(tenant: TenantRecord, pageserverId: number, generation: number): boolean {
  return tenant.placements.some(
    (one) => one.pageserverId === pageserverId && one.generation === generation,
  )
}
