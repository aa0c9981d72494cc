/** Reading tenant records, also those of versions that knew one pageserver per tenant. */
import { DEFAULT_STRIPE_BLOCKS } from '#libs/sharding.ts'
import type { PlacementRecord, TenantRecord } from './records.ts'

/** As it was stored before a tenant could have several placements. */
interface SinglePlacementRecord {
  tenantId: string
  state: 'creating' | 'active'
  generation: number
  pageserverId: number
  mainTimelineId: string
  createdAt: string
}

/** The record in its present form; one that has it already is returned as it is. */
export function readTenant(stored: TenantRecord | SinglePlacementRecord): TenantRecord {
  if ('placements' in stored) return stored
  const { generation, pageserverId, ...rest } = stored
  const placement: PlacementRecord = { shard: 0, pageserverId, generation, secondary: null }
  return {
    ...rest,
    shardCount: 0,
    stripeBlocks: DEFAULT_STRIPE_BLOCKS,
    placements: [placement],
  }
}

/** The record with one placement replaced; the same record when `decide` returns the same one. */
export function withPlacement(
  tenant: TenantRecord,
  shard: number,
  decide: (current: PlacementRecord) => PlacementRecord,
): TenantRecord {
  const placements = tenant.placements.map((one) => (one.shard === shard ? decide(one) : one))
  const isSame = placements.every((one, index) => one === tenant.placements[index])
  return isSame ? tenant : { ...tenant, placements }
}
