/**
 * Routes of the control plane about tenants that are split by themselves; see
 * docs/storage/sharding.md.
 */
import { routes } from '#libs/http/route.ts'
import { MAX_SHARD_COUNT } from '#libs/sharding.ts'
import { type Static, Type } from 'typebox'
import { autosplitPaths } from './autosplit-paths.ts'
import { Nullable, TenantParams, Time } from './schemas.ts'

const MiB = 1024 * 1024

export const SplitPolicyChange = Type.Object({
  /** A shard with more of the largest branch is split by itself; null = never. */
  shardBytes: Type.Optional(Nullable(Type.Integer({ minimum: MiB }))),
  /** How many it may get by itself; null = as many as there are pageservers. */
  maxShards: Type.Optional(Nullable(Type.Integer({ minimum: 1, maximum: MAX_SHARD_COUNT }))),
})
export type SplitPolicyChange = Static<typeof SplitPolicyChange>

export const SplitPolicyInfo = Type.Object({
  shardBytes: Nullable(Type.Integer()),
  maxShards: Nullable(Type.Integer()),
  /** How many it has; 1 = it is not sharded. */
  shards: Type.Integer(),
  /** In the order of the shards. */
  pageserverIds: Type.Array(Type.Integer()),
  /** All relations of its largest branch, over all shards; null before it is known. */
  largestBytes: Nullable(Type.Integer()),
  /** What `maxShards` comes to with the pageservers that answer. */
  mostShards: Type.Integer(),
  /** How many it will get by itself, with this size. */
  wantedShards: Type.Integer(),
  lastSplit: Nullable(
    Type.Object({
      from: Type.Integer(),
      to: Type.Integer(),
      bySize: Type.Boolean(),
      startedAt: Time,
    }),
  ),
})
export type SplitPolicyInfo = Static<typeof SplitPolicyInfo>

export const autosplitRoutes = routes({
  getSplitPolicy: {
    ...autosplitPaths.getSplitPolicy,
    summary: 'When a tenant is split by itself, how large it is, and when it was split last',
    params: TenantParams,
    response: SplitPolicyInfo,
  },
  setSplitPolicy: {
    ...autosplitPaths.setSplitPolicy,
    summary: 'Set when a tenant is split by itself',
    params: TenantParams,
    body: SplitPolicyChange,
    response: SplitPolicyInfo,
  },
})
