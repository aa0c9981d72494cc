/**
 * The pageserver's HTTP API: one table of routes with their schemas, used by the server to register
 * them, by the OpenAPI page, and by clients through `callPageserver`.
 *
 * Creates are idempotent: the same request twice gives the same answer, a different one for an id
 * that exists is a 409. LSNs are strings (`0/1609610`), the system identifier a decimal string.
 */
import { callRoute, type RouteCallOptions, routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { MAX_BUNDLE_BYTES } from '../pg/statistics-bundle.ts'
import { WalSource } from './node-info.ts'
import {
  IdText,
  LsnText,
  None,
  Nullable,
  StripeBlocks,
  TenantShardParams,
  TenantShardText,
  TIMELINE_PATH,
  TimelineShardParams,
} from './schemas.ts'
import { locationRoutes } from './pageserver-location.ts'
import { pageserverLifecycleRoutes } from './pageserver-lifecycle.ts'
import { pageserverSplitRoutes } from './pageserver-split.ts'
import { pageserverRetentionRoutes } from './pageserver-retention.ts'
import { pageserverPaths } from './pageserver-paths.ts'
import { importJobRoutes } from './transfer.ts'

export const PageserverStatus = Type.Object({ id: Type.Integer(), tenants: Type.Integer() })
export type PageserverStatus = Static<typeof PageserverStatus>

export const AttachRequest = Type.Object({
  generation: Type.Integer({ minimum: 1 }),
  /** Of a shard: the blocks of a relation that stay together, as the tenant was created with. */
  stripeBlocks: Type.Optional(StripeBlocks),
})
export type AttachRequest = Static<typeof AttachRequest>

export const AttachedTenant = Type.Object({ tenantId: TenantShardText, generation: Type.Integer() })
export type AttachedTenant = Static<typeof AttachedTenant>

export const ListedTenant = Type.Object({
  ...AttachedTenant.properties,
  /**
   * Bytes of all relations of its largest timeline, those of other shards included; null before any
   * is known. They are counted as WAL comes in, so asking costs nothing.
   */
  largestBytes: Nullable(Type.Integer()),
})
export type ListedTenant = Static<typeof ListedTenant>

/**
 * `bootstrap` makes a new cluster with initdb; `branch` starts as the ancestor was at an LSN;
 * `import` takes the data folder of a stock Postgres 17 that was stopped cleanly.
 */
export const TimelineMode = Type.Union([
  Type.Object({ kind: Type.Literal('bootstrap') }),
  Type.Object({
    kind: Type.Literal('branch'),
    ancestorTimelineId: IdText,
    ancestorLsn: LsnText,
  }),
  Type.Object({
    kind: Type.Literal('import'),
    /** Absolute path that the pageserver can read. */
    dataDir: Type.String({ pattern: '^/' }),
  }),
])
export type TimelineMode = Static<typeof TimelineMode>

export const CreatePageserverTimeline = Type.Object({
  mode: TimelineMode,
  /** May be empty: then no WAL is received until `PUT .../safekeepers` names some. */
  safekeepers: Type.Array(WalSource),
})
export type CreatePageserverTimeline = Static<typeof CreatePageserverTimeline>

export const WalReceiverState = Type.Union([
  Type.Literal('connecting'),
  Type.Literal('streaming'),
  Type.Literal('waiting'),
  Type.Literal('broken'),
  Type.Literal('stopped'),
])
export type WalReceiverState = Static<typeof WalReceiverState>

export const WalReceiverInfo = Type.Object({
  state: WalReceiverState,
  /** Id of the safekeeper (or other source) that WAL comes from, null while there is none. */
  safekeeperId: Nullable(Type.Integer()),
  /** Commit LSN that it last told. */
  commitLsn: Nullable(LsnText),
  /** End of the bytes received; may be inside a record, so beyond lastRecordLsn. */
  receivedLsn: LsnText,
  /** Committed WAL that is not in lastRecordLsn yet, and how old the oldest of it is; null: not known. */
  lagBytes: Nullable(Type.Integer()),
  lagMs: Nullable(Type.Integer()),
  reconnects: Type.Integer(),
  lastError: Nullable(Type.String()),
})
export type WalReceiverInfo = Static<typeof WalReceiverInfo>

export const PageserverTimeline = Type.Object({
  timelineId: IdText,
  ancestorTimelineId: Type.Optional(IdText),
  ancestorLsn: Type.Optional(LsnText),
  state: Type.Union([Type.Literal('active'), Type.Literal('broken')]),
  /**
   * Why the timeline is broken: WAL behind lastRecordLsn could not be taken in. Reads up to there are
   * served; the same WAL is tried again now and then, and the timeline is active again once it went in.
   */
  brokenReason: Nullable(Type.String()),
  /** The oldest LSN of this timeline; its WAL starts here. */
  startLsn: LsnText,
  lastRecordLsn: LsnText,
  diskConsistentLsn: LsnText,
  remoteConsistentLsn: LsnText,
  systemId: Type.String({ description: 'system identifier, decimal' }),
  pgVersion: Type.Integer({ description: 'as server_version_num: 170011' }),
  /** Sum of all relation forks at lastRecordLsn; only when asked for with ?size=true. */
  logicalSizeBytes: Type.Optional(Type.Integer()),
  walReceiver: Nullable(WalReceiverInfo),
})
export type PageserverTimeline = Static<typeof PageserverTimeline>

export const WaitLsnRequest = Type.Object({
  lsn: LsnText,
  timeoutMs: Type.Integer({ minimum: 0, maximum: 600_000 }),
})
export type WaitLsnRequest = Static<typeof WaitLsnRequest>

const Positions = Type.Object({
  lastRecordLsn: LsnText,
  diskConsistentLsn: LsnText,
  remoteConsistentLsn: LsnText,
})

/** See `pageserver/read/commit-window.ts`. */
export const CommitWindow = Type.Union([
  Type.Object({
    kind: Type.Literal('before'),
    oldestLsn: LsnText,
    oldestTimeUs: Type.Integer(),
    /** True when older history was there once. */
    isCutOff: Type.Boolean(),
  }),
  Type.Object({ kind: Type.Literal('within'), fromLsn: LsnText, toLsn: LsnText }),
  Type.Object({ kind: Type.Literal('after'), lsn: LsnText }),
])
export type CommitWindow = Static<typeof CommitWindow>

export const pageserverRoutes = routes({
  ...locationRoutes,
  status: {
    method: 'GET',
    path: '/v1/status',
    summary: 'Which pageserver this is',
    params: None,
    response: PageserverStatus,
  },
  attachTenant: {
    method: 'PUT',
    path: '/v1/tenant/:tenantId',
    summary: 'Attach a tenant: load its timelines from object storage under this generation',
    params: TenantShardParams,
    body: AttachRequest,
    response: AttachedTenant,
  },
  listTenants: {
    method: 'GET',
    path: '/v1/tenant',
    summary: 'Attached tenants with their sizes',
    params: None,
    response: Type.Array(ListedTenant),
  },
  createTimeline: {
    method: 'PUT',
    path: TIMELINE_PATH,
    summary: 'Create a timeline with initdb or as a branch; answers when it is durable',
    params: TimelineShardParams,
    body: CreatePageserverTimeline,
    response: PageserverTimeline,
  },
  listTimelines: {
    method: 'GET',
    path: '/v1/tenant/:tenantId/timeline',
    summary: 'Timelines of a tenant',
    params: TenantShardParams,
    response: Type.Array(PageserverTimeline),
  },
  getTimeline: {
    method: 'GET',
    path: TIMELINE_PATH,
    summary: 'One timeline',
    params: TimelineShardParams,
    querystring: Type.Object({ size: Type.Optional(Type.Boolean()) }),
    response: PageserverTimeline,
  },
  waitLsn: {
    method: 'POST',
    path: `${TIMELINE_PATH}/wait_lsn`,
    summary: 'Wait until WAL up to an LSN has been taken in',
    params: TimelineShardParams,
    body: WaitLsnRequest,
    response: Positions,
  },
  checkpoint: {
    method: 'POST',
    path: `${TIMELINE_PATH}/checkpoint`,
    summary: 'Freeze the open layer, write it out and upload it now',
    params: TimelineShardParams,
    response: Positions,
  },
  compact: {
    method: 'POST',
    path: `${TIMELINE_PATH}/compact`,
    summary:
      'Make image layers now, and rewrite history below the cutoff where that gains anything',
    params: TimelineShardParams,
    response: Positions,
  },
  commitWindow: {
    method: 'GET',
    path: `${TIMELINE_PATH}/commit_window`,
    summary: 'Which part of the WAL holds the first commit after a moment',
    params: TimelineShardParams,
    querystring: Type.Object({
      timeUs: Type.Integer({ description: 'microseconds since 2000-01-01 UTC' }),
    }),
    response: CommitWindow,
  },
  putStatistics: {
    ...pageserverPaths.putStatistics,
    summary: 'Keep the statistics of a compute that has ended cleanly at an LSN',
    params: TimelineShardParams,
    body: Type.Object({
      lsn: LsnText,
      bundle: Type.String({ description: 'libs/pg/statistics-bundle.ts, in base64' }),
    }),
    bodyLimitBytes: 2 * MAX_BUNDLE_BYTES,
    response: None,
  },
  setSafekeepers: {
    method: 'PUT',
    path: `${TIMELINE_PATH}/safekeepers`,
    summary: 'Replace the list of safekeepers, or of stock servers, that WAL is received from',
    params: TimelineShardParams,
    body: Type.Object({ safekeepers: Type.Array(WalSource) }),
    response: PageserverTimeline,
  },
  ...pageserverLifecycleRoutes,
  ...pageserverSplitRoutes,
  ...pageserverRetentionRoutes,
  ...importJobRoutes,
})

export type PageserverRoutes = typeof pageserverRoutes
export type PageserverRouteName = keyof PageserverRoutes

/** Calls one route; a problem answer becomes the ZenithError it stands for. */
export function callPageserver<N extends PageserverRouteName>(
  baseUrl: string,
  name: N,
  options: RouteCallOptions<PageserverRoutes[N]> = {},
): Promise<Static<PageserverRoutes[N]['response']>> {
  return callRoute<PageserverRoutes[N]>(pageserverRoutes[name], baseUrl, options)
}
