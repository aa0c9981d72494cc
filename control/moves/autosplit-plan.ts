/**
 * Which tenant is split by its size, and into how many shards. Pure: no clock, store or network.
 *
 * What counts is the logical size of the tenant's largest branch: it is what reads, images and base
 * backups have to do with, and unlike layers it does not grow with history and branches that share
 * it. Blocks are spread by a hash, so each shard has the same part of it.
 */
import { MAX_SHARD_COUNT } from '#libs/sharding.ts'

/** More are of use to nobody by themselves: each shard decodes all WAL. */
export const MOST_SHARDS = 16

export interface SplitPolicy {
  /** A shard with more of the largest branch is split; null = never. */
  shardBytes: number | null
  /** How many shards the tenant may get by itself; null = as many as there are pageservers. */
  maxShards: number | null
}

export interface SplitCandidate {
  tenantId: string
  /** At least 1. */
  shards: number
  /** All relations of its largest branch, over all shards; null = not known. */
  largestBytes: number | null
  policy: SplitPolicy
  /** It is being made, deleted, moved or spread, or was refused a moment ago. */
  isBusy: boolean
  /** When it was split last; null = never. */
  lastSplitMs: number | null
}

export interface Fleet {
  nowMs: number
  /** Pageservers that answer and take tenants. */
  pageservers: number
  /** Some tenant is just being split. */
  isSplitting: boolean
  /** A tenant that was split is left alone for so long. */
  coolDownMs: number
}

export interface PlannedSplit {
  tenantId: string
  shards: number
}

/** How many shards the policy allows, as things are. */
export function shardLimit({ maxShards }: SplitPolicy, pageservers: number): number {
  return maxShards === null
    ? Math.min(pageservers, MOST_SHARDS)
    : Math.min(maxShards, MAX_SHARD_COUNT)
}

/**
 * How many shards a tenant should have: twice as many as long as each has more than the policy says,
 * within its limit. Never fewer than there are.
 */
export function wantedShards(
  { shards, largestBytes, policy }: Pick<SplitCandidate, 'shards' | 'largestBytes' | 'policy'>,
  pageservers: number,
): number {
  const { shardBytes } = policy
  if (shardBytes === null || largestBytes === null) return shards
  const limit = shardLimit(policy, pageservers)
  let wanted = shards
  while (largestBytes / wanted > shardBytes && wanted * 2 <= limit) wanted *= 2
  return wanted
}

/** At most one split: of the tenant with the largest shards of those that want one. */
export function planSplit(
  candidates: readonly SplitCandidate[],
  { nowMs, pageservers, isSplitting, coolDownMs }: Fleet,
): PlannedSplit | null {
  if (isSplitting) return null
  let best: (PlannedSplit & { shardBytes: number }) | null = null
  for (const candidate of candidates) {
    const { tenantId, shards, largestBytes, isBusy, lastSplitMs } = candidate
    if (isBusy || largestBytes === null) continue
    if (lastSplitMs !== null && nowMs - lastSplitMs < coolDownMs) continue
    const wanted = wantedShards(candidate, pageservers)
    if (wanted === shards) continue
    const shardBytes = largestBytes / shards
    if (best === null || shardBytes > best.shardBytes)
      best = { tenantId, shards: wanted, shardBytes }
  }
  return best === null ? null : { tenantId: best.tenantId, shards: best.shards }
}
