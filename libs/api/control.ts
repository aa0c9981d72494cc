/**
 * The control plane's HTTP API: one table of routes with their schemas, used by the server to
 * register them, by the OpenAPI page, and by every client through `#libs/api/control-client.ts`.
 *
 * Names (branches, endpoints) are unique within a tenant. LSNs are strings (`0/1609610`). Creates
 * are idempotent where the caller names the id; what exists already with other contents is a 409.
 */
import { routes } from '#libs/http/route.ts'
import { MAX_SHARD_COUNT } from '#libs/sharding.ts'
import { type Static, Type } from 'typebox'
import { autosplitRoutes } from './autosplit.ts'
import { WalLag } from './branch-info.ts'
import { branchRoutes } from './branches.ts'
import { controlPaths } from './control-paths.ts'
import { endpointRoutes } from './endpoints.ts'
import { fleetRoutes } from './fleet.ts'
import { generationRoutes } from './generations.ts'
import { historyRoutes } from './history.ts'
import { lifecycleRoutes } from './lifecycle.ts'
import { memberRoutes } from './members.ts'
import { nodeRoutes } from './nodes.ts'
import { IdText, LsnText, None, Nullable, StripeBlocks, TenantParams, Time } from './schemas.ts'
import { sizeLimitRoutes } from './size-limit.ts'
import { splitRoutes } from './split.ts'
import { FollowInfo, transferRoutes } from './transfer.ts'

/** Which pageserver has a tenant, or one shard of it. */
export const PlacementInfo = Type.Object({
  /** From 0; 0 when the tenant is not sharded. */
  shard: Type.Integer(),
  pageserverId: Type.Integer(),
  generation: Type.Integer(),
  /** The pageserver that keeps a warm copy of the layer files. */
  secondary: Nullable(Type.Integer()),
})
export type PlacementInfo = Static<typeof PlacementInfo>

export const TenantInfo = Type.Object({
  tenantId: IdText,
  state: Type.Union([Type.Literal('creating'), Type.Literal('active'), Type.Literal('deleting')]),
  /** Raised and stored durably each time a pageserver (re-)attaches it; the highest of its shards. */
  generation: Type.Integer(),
  /** Timeline of branch `main`. */
  mainTimelineId: IdText,
  /** 0 = it is not sharded. */
  shardCount: Type.Integer(),
  placements: Type.Array(PlacementInfo),
  createdAt: Time,
})
export type TenantInfo = Static<typeof TenantInfo>

export const TimelineInfo = Type.Object({
  timelineId: IdText,
  branch: Type.String(),
  ancestorTimelineId: Nullable(IdText),
  ancestorLsn: Nullable(LsnText),
  startLsn: Nullable(LsnText),
  /** The four LSNs below come from the pageserver; null while it cannot be reached. */
  lastRecordLsn: Nullable(LsnText),
  diskConsistentLsn: Nullable(LsnText),
  remoteConsistentLsn: Nullable(LsnText),
  /** Largest commit LSN among the safekeepers that answered; null when none did. */
  commitLsn: Nullable(LsnText),
  /** How far the pageserver is behind commitLsn; null when either is not known. */
  lag: Nullable(WalLag),
  safekeepers: Type.Array(Type.Integer()),
  membershipGeneration: Type.Integer(),
  /** Set on a branch that follows a stock primary. */
  following: Nullable(FollowInfo),
})
export type TimelineInfo = Static<typeof TimelineInfo>

export const controlRoutes = routes({
  ...nodeRoutes,
  ...memberRoutes,
  ...fleetRoutes,
  ...splitRoutes,
  ...autosplitRoutes,
  ...generationRoutes,
  listTenants: {
    ...controlPaths.listTenants,
    summary: 'Tenants, oldest first',
    params: None,
    response: Type.Array(TenantInfo),
  },
  createTenant: {
    ...controlPaths.createTenant,
    summary: 'Create a tenant with its first timeline, branch main',
    params: None,
    body: Type.Object({
      tenantId: Type.Optional(IdText),
      /** Over how many pageservers the blocks of its relations are spread; absent or 1: they are not. */
      shards: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_SHARD_COUNT })),
      stripeBlocks: Type.Optional(StripeBlocks),
    }),
    response: TenantInfo,
  },
  getTenant: {
    ...controlPaths.getTenant,
    summary: 'One tenant',
    params: TenantParams,
    response: TenantInfo,
  },
  listTimelines: {
    ...controlPaths.listTimelines,
    summary: 'Timelines with their positions on pageserver and safekeepers',
    params: TenantParams,
    response: Type.Array(TimelineInfo),
  },
  ...branchRoutes,
  ...endpointRoutes,
  ...historyRoutes,
  ...sizeLimitRoutes,
  ...lifecycleRoutes,
  ...transferRoutes,
})

export type ControlRoutes = typeof controlRoutes
export type ControlRouteName = keyof ControlRoutes
