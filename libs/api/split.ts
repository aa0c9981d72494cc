/** Routes of the control plane for splitting the shards of a tenant; see docs/storage/sharding.md. */
import { routes } from '#libs/http/route.ts'
import { MAX_SHARD_COUNT, MAX_STRIPE_BLOCKS } from '#libs/sharding.ts'
import { type Static, Type } from 'typebox'
import { IdText, Nullable, TenantParams } from './schemas.ts'
import { splitPaths } from './split-paths.ts'

export const SplitInfo = Type.Object({
  tenantId: IdText,
  /** 0 = it is not sharded. */
  shardCount: Type.Integer(),
  stripeBlocks: Type.Integer(),
  /** Null unless a split is under way. */
  split: Nullable(
    Type.Object({
      /** See docs/storage/sharding.md. */
      phase: Type.String(),
      /** How many shards there are to be. */
      shards: Type.Integer(),
      /** Shards that are left and do not answer. */
      lost: Type.Array(Type.Integer()),
      /** What it waits for, while something keeps it from going on. */
      problem: Nullable(Type.String()),
    }),
  ),
  /** Null unless its shards are being moved, so that they are spread over the pageservers. */
  spread: Nullable(
    Type.Object({
      /** What keeps it from going on, while something does. */
      problem: Nullable(Type.String()),
    }),
  ),
  /** Numbers of shards before splits, of which objects are still in storage. */
  formerCounts: Type.Array(Type.Integer()),
})
export type SplitInfo = Static<typeof SplitInfo>

export const splitRoutes = routes({
  getSplit: {
    ...splitPaths.getSplit,
    summary: 'How many shards a tenant has, and how far a split of them is',
    params: TenantParams,
    response: SplitInfo,
  },
  splitTenant: {
    ...splitPaths.splitTenant,
    summary: 'Begin to split the shards of a tenant into more; it goes on by itself',
    params: TenantParams,
    body: Type.Object({
      shards: Type.Integer({ minimum: 1, maximum: MAX_SHARD_COUNT }),
      stripeBlocks: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_STRIPE_BLOCKS })),
      /**
       * Whether the shards are spread over the pageservers afterwards; true also spreads those of a
       * tenant that has so many already. Default: those that are made now.
       */
      spread: Type.Optional(Type.Boolean()),
    }),
    response: SplitInfo,
  },
})
