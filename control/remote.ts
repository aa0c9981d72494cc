/** What the control plane asks of the services, each with a time limit. */
import {
  type ComputePageservers,
  type ComputeSettingsAnswer,
  type ComputeSettingsChange,
  type ComputeStatus,
  computePaths,
} from '#libs/api/compute.ts'
import type { NodeInfo, WalSource } from '#libs/api/node-info.ts'
import type { ImportJob, ImportSource, StockServer } from '#libs/api/transfer.ts'
import {
  callPageserver,
  type CommitWindow,
  type CreatePageserverTimeline,
  type ListedTenant,
  type PageserverRoutes,
  type PageserverTimeline,
} from '#libs/api/pageserver.ts'
import type { LocationInfo, LocationRequest } from '#libs/api/pageserver-location.ts'
import type {
  BranchPlaceText,
  DetachedTimeline,
  TimelineSizes,
} from '#libs/api/pageserver-lifecycle.ts'
import {
  callSafekeeper,
  type CreateSafekeeperTimeline,
  type MembersBody,
  type MemberState,
  type PullAnswer,
  type PullRequest,
  type SafekeeperTimeline,
} from '#libs/api/safekeeper.ts'
import { requestJson, requestText } from '#libs/http/client.ts'
import type { RouteCallOptions } from '#libs/http/route.ts'
import { tenantShardId } from '#libs/sharding.ts'
import type { Place } from './places.ts'

/** Tenant creation runs initdb and imports its result. */
const BOOTSTRAP_TIMEOUT_MS = 120_000
/** The pageserver waits until it has the WAL up to the branch LSN. */
const BRANCH_TIMEOUT_MS = 90_000
const STATUS_TIMEOUT_MS = 2_000
/** Archiving takes in the last WAL and flushes; detaching flushes ancestors. */
const LIFECYCLE_TIMEOUT_MS = 120_000
const WAIT_LSN_MS = 30_000
/** A compute reloads its settings and asks its Postgres what that did. */
const SETTINGS_TIMEOUT_MS = 20_000

const urlOf = (node: { host: string; httpPort: number }) => `http://${node.host}:${node.httpPort}`

/** A pageserver that is asked for how it is answers at once, or is not well. */
const HEALTH_TIMEOUT_MS = 2_000
/** Attaching a tenant reads its manifests. */
const LOCATION_TIMEOUT_MS = 60_000

/** A pageserver, and which shard of a tenant is meant where it has some of a sharded one. */
export type MaybeShard = NodeInfo & Partial<Pick<Place, 'shard' | 'shardCount'>>

/** As `callPageserver`; the tenant becomes the shard that the place has of it, if it has just one. */
export function askPageserver<N extends keyof PageserverRoutes>(
  node: MaybeShard,
  name: N,
  options: RouteCallOptions<PageserverRoutes[N]>,
): ReturnType<typeof callPageserver<N>> {
  const given = options.params as { tenantId?: string } | undefined
  if (!given?.tenantId || !node.shardCount) return callPageserver(urlOf(node), name, options)
  const tenantId = tenantShardId(given.tenantId, node.shard ?? 0, node.shardCount)
  const params = { ...given, tenantId } as typeof options.params
  return callPageserver(urlOf(node), name, { ...options, ...(params && { params }) })
}

export const pageserverApi = {
  /** `busy`: it answers, and is not ready yet. Never throws. */
  health: (node: NodeInfo): Promise<'ready' | 'busy' | 'silent'> =>
    requestText('GET', `${urlOf(node)}/healthz`, undefined, { timeoutMs: HEALTH_TIMEOUT_MS }).then(
      ({ status }) => (status === 200 ? 'ready' : 'busy'),
      () => 'silent',
    ),

  tenants: (node: NodeInfo): Promise<ListedTenant[]> =>
    callPageserver(urlOf(node), 'listTenants', { timeoutMs: STATUS_TIMEOUT_MS }),

  setLocation: (node: NodeInfo, tenantId: string, body: LocationRequest): Promise<LocationInfo> =>
    callPageserver(urlOf(node), 'setLocation', {
      params: { tenantId },
      body,
      timeoutMs: LOCATION_TIMEOUT_MS,
    }),

  getLocation: (node: NodeInfo, tenantId: string): Promise<LocationInfo> =>
    callPageserver(urlOf(node), 'getLocation', {
      params: { tenantId },
      timeoutMs: STATUS_TIMEOUT_MS,
    }),

  flushTenant: (node: NodeInfo, tenantId: string): Promise<LocationInfo> =>
    callPageserver(urlOf(node), 'flushTenant', {
      params: { tenantId },
      timeoutMs: LOCATION_TIMEOUT_MS,
    }),

  attach: (place: Place, tenantId: string): Promise<unknown> => {
    const { generation, shardCount, stripeBlocks } = place
    const body = { generation, ...(shardCount === 0 ? {} : { stripeBlocks }) }
    return askPageserver(place, 'attachTenant', { params: { tenantId }, body })
  },

  createTimeline: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    body: CreatePageserverTimeline,
  ): Promise<PageserverTimeline> =>
    askPageserver(node, 'createTimeline', {
      params,
      body,
      timeoutMs: body.mode.kind === 'bootstrap' ? BOOTSTRAP_TIMEOUT_MS : BRANCH_TIMEOUT_MS,
    }),

  setSafekeepers: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    safekeepers: NodeInfo[],
  ): Promise<unknown> => askPageserver(node, 'setSafekeepers', { params, body: { safekeepers } }),

  /** Returns once the pageserver has taken in WAL up to `lsn`. */
  waitLsn: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    lsn: string,
    waitMs = WAIT_LSN_MS,
  ): Promise<unknown> =>
    askPageserver(node, 'waitLsn', {
      params,
      body: { lsn, timeoutMs: waitMs },
      timeoutMs: 2 * WAIT_LSN_MS,
    }),

  timeline: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
  ): Promise<PageserverTimeline> =>
    askPageserver(node, 'getTimeline', { params, timeoutMs: STATUS_TIMEOUT_MS }),

  /** As `setSafekeepers`, for a branch that follows a stock server. */
  setSources: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    safekeepers: WalSource[],
  ): Promise<unknown> => askPageserver(node, 'setSafekeepers', { params, body: { safekeepers } }),

  /** Bytes of all relations at the end of the timeline. */
  logicalSize: async (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
  ): Promise<number> => {
    const info = await askPageserver(node, 'getTimeline', {
      params,
      query: { size: 'true' },
    })
    return info.logicalSizeBytes ?? 0
  },

  commitWindow: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    timeUs: number,
  ): Promise<CommitWindow> =>
    askPageserver(node, 'commitWindow', { params, query: { timeUs: String(timeUs) } }),

  deleteTimeline: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
  ): Promise<unknown> =>
    askPageserver(node, 'deleteTimeline', { params, timeoutMs: LIFECYCLE_TIMEOUT_MS }),

  /** Objects of former shards that a shard refers to, and the generation under which that is said. */
  borrowed: (
    node: MaybeShard,
    tenantId: string,
  ): Promise<{ generation: number; objects: string[] }> =>
    askPageserver(node, 'borrowed', { params: { tenantId }, timeoutMs: LIFECYCLE_TIMEOUT_MS }),

  /** Deletes what is left of a former shard, but for some objects; tells how many these are. */
  sweepFormer: (
    node: MaybeShard,
    tenantId: string,
    body: { former: string; keep: string[] },
  ): Promise<{ left: number }> =>
    askPageserver(node, 'sweepFormer', {
      params: { tenantId },
      body,
      timeoutMs: LIFECYCLE_TIMEOUT_MS,
    }),

  /** All timelines of the tenant; tells how many objects have yet to leave storage. */
  deleteTenant: (node: MaybeShard, tenantId: string): Promise<{ objects: number }> =>
    askPageserver(node, 'deleteTenant', {
      params: { tenantId },
      timeoutMs: LIFECYCLE_TIMEOUT_MS,
    }),

  archiveTimeline: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    lsn: string,
  ): Promise<unknown> =>
    askPageserver(node, 'archiveTimeline', {
      params,
      body: { lsn },
      timeoutMs: LIFECYCLE_TIMEOUT_MS,
    }),

  unarchiveTimeline: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
  ): Promise<unknown> =>
    askPageserver(node, 'unarchiveTimeline', { params, timeoutMs: LIFECYCLE_TIMEOUT_MS }),

  detachTimeline: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    from: BranchPlaceText,
  ): Promise<DetachedTimeline> =>
    askPageserver(node, 'detachTimeline', {
      params,
      body: from,
      timeoutMs: LIFECYCLE_TIMEOUT_MS,
    }),

  timelineSizes: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
  ): Promise<TimelineSizes> =>
    askPageserver(node, 'getTimelineSizes', { params, timeoutMs: STATUS_TIMEOUT_MS }),

  timelines: (node: MaybeShard, tenantId: string): Promise<PageserverTimeline[]> =>
    askPageserver(node, 'listTimelines', {
      params: { tenantId },
      timeoutMs: STATUS_TIMEOUT_MS,
    }),
}

/** What the pageserver does for imports. */
export const importApi = {
  start: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    body: { source: ImportSource; slot: string; endLsn?: string },
  ): Promise<ImportJob> => askPageserver(node, 'startImportJob', { params, body }),

  get: (node: MaybeShard, params: { tenantId: string; timelineId: string }): Promise<ImportJob> =>
    askPageserver(node, 'getImportJob', { params }),

  /** Nothing is left of it there, even if it was done. */
  abort: (node: MaybeShard, params: { tenantId: string; timelineId: string }): Promise<unknown> =>
    askPageserver(node, 'abortImportJob', {
      params,
      body: { remove: true },
      timeoutMs: LIFECYCLE_TIMEOUT_MS,
    }),

  dropSlot: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    body: { server: StockServer; slot: string },
  ): Promise<unknown> => askPageserver(node, 'dropSourceSlot', { params, body }),

  /** Takes in no more WAL, or just that of the server up to the LSN. */
  catchUp: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
    body: { server: StockServer; endLsn?: string },
  ): Promise<{ endLsn: string }> =>
    askPageserver(node, 'catchUpFollowing', { params, body, timeoutMs: LIFECYCLE_TIMEOUT_MS }),

  /** The branch goes on without its source from `endLsn`. */
  finish: (
    node: MaybeShard,
    params: { tenantId: string; timelineId: string },
  ): Promise<{ endLsn: string }> => askPageserver(node, 'finishFollowing', { params, body: {} }),
}

export const safekeeperApi = {
  createTimeline: (
    node: NodeInfo,
    params: { tenantId: string; timelineId: string },
    body: CreateSafekeeperTimeline,
  ): Promise<unknown> =>
    callSafekeeper(urlOf(node), 'createTimeline', { params, body, timeoutMs: 10_000 }),

  deleteTimeline: (
    node: NodeInfo,
    params: { tenantId: string; timelineId: string },
    generation: number,
    /** With what its members have in object storage: nobody will ask for the timeline again. */
    objects = false,
  ): Promise<unknown> =>
    callSafekeeper(urlOf(node), 'deleteTimeline', {
      params,
      query: { generation: String(generation), objects: objects ? 'true' : 'false' },
      timeoutMs: 10_000,
    }),

  timelines: (node: NodeInfo): Promise<SafekeeperTimeline[]> =>
    callSafekeeper(urlOf(node), 'listTimelines', { timeoutMs: STATUS_TIMEOUT_MS }),

  memberState: (
    node: NodeInfo,
    params: { tenantId: string; timelineId: string },
  ): Promise<MemberState> =>
    callSafekeeper(urlOf(node), 'memberState', { params, timeoutMs: STATUS_TIMEOUT_MS }),

  configure: (
    node: NodeInfo,
    params: { tenantId: string; timelineId: string },
    body: MembersBody,
  ): Promise<MemberState> =>
    callSafekeeper(urlOf(node), 'configure', { params, body, timeoutMs: 10_000 }),

  bumpTerm: (
    node: NodeInfo,
    params: { tenantId: string; timelineId: string },
    term: number,
  ): Promise<MemberState> =>
    callSafekeeper(urlOf(node), 'bumpTerm', { params, body: { term }, timeoutMs: 10_000 }),

  /** Answers within moments with how far the copy is; ask again until it is done. */
  pull: (
    node: NodeInfo,
    params: { tenantId: string; timelineId: string },
    body: PullRequest,
  ): Promise<PullAnswer> =>
    callSafekeeper(urlOf(node), 'pull', { params, body, timeoutMs: 20_000 }),

  timeline: (
    node: NodeInfo,
    params: { tenantId: string; timelineId: string },
  ): Promise<SafekeeperTimeline> =>
    callSafekeeper(urlOf(node), 'getTimeline', { params, timeoutMs: STATUS_TIMEOUT_MS }),
}

export const computeApi = {
  status: (host: string, httpPort: number): Promise<ComputeStatus> =>
    requestJson('GET', urlOf({ host, httpPort }) + computePaths.status.path, undefined, {
      timeoutMs: STATUS_TIMEOUT_MS,
    }),

  changeSettings: (
    host: string,
    httpPort: number,
    change: ComputeSettingsChange,
  ): Promise<ComputeSettingsAnswer> =>
    requestJson('POST', urlOf({ host, httpPort }) + computePaths.changeSettings.path, change, {
      timeoutMs: SETTINGS_TIMEOUT_MS,
    }),

  setSafekeepers: (host: string, httpPort: number, safekeepers: NodeInfo[]): Promise<unknown> =>
    requestJson(
      'POST',
      urlOf({ host, httpPort }) + computePaths.setSafekeepers.path,
      { safekeepers },
      { timeoutMs: STATUS_TIMEOUT_MS },
    ),

  setPageservers: (host: string, httpPort: number, map: ComputePageservers): Promise<unknown> =>
    requestJson('POST', urlOf({ host, httpPort }) + computePaths.setPageservers.path, map, {
      timeoutMs: SETTINGS_TIMEOUT_MS,
    }),

  setSizeLimit: (host: string, httpPort: number, bytes: number | null): Promise<unknown> =>
    requestJson(
      'POST',
      urlOf({ host, httpPort }) + computePaths.setSizeLimit.path,
      { bytes },
      { timeoutMs: STATUS_TIMEOUT_MS },
    ),

  stop: (host: string, httpPort: number): Promise<ComputeStatus> =>
    requestJson(
      'POST',
      urlOf({ host, httpPort }) + computePaths.stop.path,
      {},
      {
        timeoutMs: 5_000,
      },
    ),
}
