/** What a tenant becomes when a split of its shards begins and goes on; and who holds what. Pure. */
import { ZenithError } from '#libs/errors.ts'
import type { TenantId } from '#libs/ids.ts'
import {
  DEFAULT_STRIPE_BLOCKS,
  MAX_SHARD_COUNT,
  shardNumberOf,
  tenantShardId,
} from '#libs/sharding.ts'
import type { PlacementRecord, SplitPhase, TenantRecord } from '../records.ts'
import { type Holding, holdingOf } from './placement-changes.ts'

/** All of a tenant that a split changes. */
export type SplitState = Pick<
  TenantRecord,
  'shardCount' | 'stripeBlocks' | 'placements' | 'split' | 'formerCounts' | 'spread' | 'lastSplit'
>

export interface SplitRequest {
  shards: number
  stripeBlocks?: number | undefined
  /**
   * Whether the shards are spread over the pageservers afterwards; absent: yes, but those of a tenant
   * that has so many already stay where they are.
   */
  spread?: boolean | undefined
  /** It is the tenant's size that asks. */
  bySize?: boolean
}

/**
 * The split begins; a tenant that has so many shards already, or is on its way there, stays as it
 * is, but for being spread. Throws `invalid_argument` for a number that is not a multiple, `conflict` while something else
 * is under way.
 */
export function beginSplit(tenant: TenantRecord, request: SplitRequest, now: Date): TenantRecord {
  const { split, shardCount, placements } = tenant
  const count = Math.max(shardCount, 1)
  if (split?.shardCount === request.shards) return tenant
  if (split !== undefined) {
    throw new ZenithError('conflict', `It is just being split into ${split.shardCount} shards.`, {
      hint: 'zenith tenant split goes on with that when it is given the same number.',
    })
  }
  checkCount(count, request.shards)
  const stripeBlocks = stripesOf(tenant, request)
  if (request.shards === count) {
    return request.spread === true && count > 1 ? { ...tenant, spread: true } : tenant
  }
  if (tenant.state !== 'active') {
    throw new ZenithError('conflict', `Tenant ${tenant.tenantId} is still being created.`, {
      hint: 'Try again in a moment.',
    })
  }
  if (placements.some(({ move }) => move !== undefined)) {
    throw new ZenithError('conflict', 'The tenant is just being moved.', {
      hint: 'Try again when that has ended; zenith pageserver list shows it.',
    })
  }
  return {
    ...withoutSpread(tenant),
    split: {
      phase: 'hold',
      shardCount: request.shards,
      stripeBlocks,
      parents: [],
      parentCount: shardCount,
      lost: [],
      ...(request.spread === false ? {} : { spread: true }),
      ...(request.bySize === true ? { bySize: true } : {}),
      startedAt: now.toISOString(),
    },
  }
}

/** Its shards stay where they are from now on. */
export function withoutSpread(tenant: TenantRecord): TenantRecord {
  const { spread, ...rest } = tenant
  return spread === undefined ? tenant : rest
}

function checkCount(count: number, shards: number): void {
  if (shards >= count && shards % count === 0 && shards <= MAX_SHARD_COUNT) return
  const has = count === 1 ? 'It is in one piece' : `It has ${count} shards`
  throw new ZenithError('invalid_argument', `The tenant cannot be split into ${shards} shards.`, {
    hint: `${has}; there can be 2, 3 or more times as many, up to ${MAX_SHARD_COUNT}.`,
  })
}

/**
 * Computes of a tenant in one piece ask for runs of blocks that do not reach over stripes of the
 * default size, so whatever is asked while the map changes fits stripes that are multiples of it.
 */
function stripesOf({ shardCount, stripeBlocks }: TenantRecord, request: SplitRequest): number {
  const wanted = request.stripeBlocks
  if (shardCount > 0) {
    if (wanted === undefined || wanted === stripeBlocks) return stripeBlocks
    throw new ZenithError('invalid_argument', `Its stripes have ${stripeBlocks} blocks for good.`, {
      hint: 'Leave --stripe-size out.',
    })
  }
  if (wanted === undefined) {
    return stripeBlocks % DEFAULT_STRIPE_BLOCKS === 0 ? stripeBlocks : DEFAULT_STRIPE_BLOCKS
  }
  if (wanted % DEFAULT_STRIPE_BLOCKS === 0) return wanted
  throw new ZenithError(
    'invalid_argument',
    `Stripes of a tenant that is in use are multiples of ${DEFAULT_STRIPE_BLOCKS} blocks (16 MB).`,
    { hint: 'Leave --stripe-size out, or take 16MB, 32MB, ...' },
  )
}

/**
 * From here on the children are the placements, under generations above that of their parent, on the
 * pageservers of their parents. `lost` are parents that did not answer.
 */
export function handOverSplit(state: SplitState, lost: readonly number[]): SplitState {
  const { split, placements } = state
  if (split === undefined) return state
  const { shardCount, stripeBlocks } = split
  const children = Array.from({ length: shardCount }, (_, shard): PlacementRecord => {
    const parent = placements[shard % placements.length] as PlacementRecord
    const { pageserverId, generation, home } = parent
    const child = { shard, pageserverId, generation: generation + 1, secondary: null }
    return home === undefined ? child : { ...child, home }
  })
  return {
    ...state,
    shardCount,
    stripeBlocks,
    placements: children,
    split: { ...split, phase: 'attach', parents: placements, lost: [...lost] },
  }
}

export function inSplitPhase(state: SplitState, phase: SplitPhase): SplitState {
  return state.split === undefined ? state : { ...state, split: { ...state.split, phase } }
}

/** More parents that nobody waits for. */
export function withLost(state: SplitState, lost: readonly number[]): SplitState {
  const { split } = state
  if (split === undefined) return state
  return { ...state, split: { ...split, lost: [...new Set([...split.lost, ...lost])] } }
}

/**
 * The split is over; objects of the parents are still there. Who kept a warm copy of a parent keeps
 * one of each of its children from now on.
 */
export function finishSplit(state: SplitState): SplitState {
  const { split, ...rest } = state
  if (split === undefined) return state
  const { parents, parentCount, shardCount, startedAt, bySize = false, spread } = split
  const placements = state.placements.map((child) => {
    const warm = parents[child.shard % parents.length]?.secondary ?? null
    return warm === null || warm === child.pageserverId ? child : { ...child, secondary: warm }
  })
  return {
    ...rest,
    placements,
    formerCounts: [...(state.formerCounts ?? []), parentCount],
    lastSplit: { from: Math.max(parentCount, 1), to: shardCount, bySize, startedAt },
    ...(spread === undefined ? {} : { spread }),
  }
}

/** The record with these parts. */
export function withSplitState(tenant: TenantRecord, state: SplitState): TenantRecord {
  const { split: _, ...rest } = tenant
  return { ...rest, ...state }
}

/** False while nobody takes new timelines. */
export function splitTakesWrites({ split }: Pick<TenantRecord, 'split'>): boolean {
  return split === undefined || split.phase === 'tell' || split.phase === 'clean-up'
}

/** Parents that still take in WAL, and serve who has not been told yet. */
export function servingParents({ split }: Pick<TenantRecord, 'split'>): PlacementRecord[] {
  if (split === undefined || (split.phase !== 'attach' && split.phase !== 'tell')) return []
  return split.parents.filter(({ shard }) => !split.lost.includes(shard))
}

/** The parent of a child that takes over just now, by the name that pageservers know it by. */
export function parentOf(
  tenant: Pick<TenantRecord, 'tenantId' | 'split'>,
  shard: number,
): { tenantId: TenantId; generation: number } | null {
  const { split } = tenant
  if (split?.phase !== 'attach') return null
  const parent = split.parents[shard % split.parents.length] as PlacementRecord
  const tenantId = tenantShardId(tenant.tenantId, parent.shard, split.parentCount)
  return { tenantId, generation: parent.generation }
}

/**
 * What pageservers may hold of a tenant: its shards, and while they are split those that are left.
 * Shards that take over just now are attached by the split, which knows from whom.
 */
export function shardsOf({ tenantId, shardCount, stripeBlocks, placements, split }: TenantRecord) {
  const named = (of: readonly PlacementRecord[], count: number) =>
    of.map(({ shard }) => ({
      id: tenantShardId(tenantId, shard, count),
      stripes: count === 0 ? {} : { stripeBlocks },
    }))
  return [
    ...(split?.phase === 'attach' ? [] : named(placements, shardCount)),
    ...(split === undefined ? [] : named(split.parents, split.parentCount)),
  ]
}

/** What a pageserver holds of the tenant under the id of a shard; null when nothing. */
export function holdingUnder(tenant: TenantRecord, id: TenantId, node: number): Holding | null {
  const { number, count } = shardNumberOf(id) ?? { number: 0, count: 0 }
  if (count === tenant.shardCount) {
    const placement = tenant.placements.find(({ shard }) => shard === number)
    return placement === undefined ? null : holdingOf(placement, node)
  }
  if (count !== tenant.split?.parentCount) return null
  const parent = servingParents(tenant).find(({ shard }) => shard === number)
  if (parent?.pageserverId !== node) return null
  return { kind: 'attach', mode: 'stale', generation: parent.generation }
}
