/**
 * The control plane's HTTP API: one table of routes with their schemas, used by the server to
 * register them, by the OpenAPI page, and by every client through `#libs/api/control-client.ts`.
 *
 * Names (branches, endpoints) are unique within a tenant. LSNs are strings (`0/1609610`). Creates
 * are idempotent where the caller names the id; what exists already with other contents is a 409.
 */
import { routes } from '#libs/http/route.ts'
import { MAX_SHARD_COUNT, MAX_STRIPE_BLOCKS } from '#libs/sharding.ts'
import { type Static, Type } from 'typebox'
import { AttachMode } from './attach-mode.ts'
import { BranchInfo, WalLag } from './branch-info.ts'
import { controlPaths } from './control-paths.ts'
import { fleetRoutes } from './fleet.ts'
import { splitRoutes } from './split.ts'
import { autosplitRoutes } from './autosplit.ts'
import { historyRoutes } from './history.ts'
import { lifecycleRoutes } from './lifecycle.ts'
import { generationRoutes } from './generations.ts'
import { sizeLimitRoutes } from './size-limit.ts'
import { FollowInfo, SslMode, transferRoutes } from './transfer.ts'
import {
  IdText,
  LsnText,
  NameParams,
  None,
  Nullable,
  Port,
  TenantParams,
  TenantShardText,
  Time,
  TimelineParams,
} from './schemas.ts'

/** Branch and endpoint names: a lower-case letter or digit first, then also `.`, `_`, `-`. */
export const NAME_PATTERN = '^[a-z0-9][a-z0-9._-]{0,62}$'

/** Blocks of a relation that stay together in one shard. */
export const StripeBlocks = Type.Integer({ minimum: 1, maximum: MAX_STRIPE_BLOCKS })

/** A pageserver or safekeeper, as computes and other services reach it. */
export const NodeInfo = Type.Object({
  id: Type.Integer({ minimum: 1 }),
  host: Type.String({ minLength: 1 }),
  pgPort: Port,
  httpPort: Port,
})
export type NodeInfo = Static<typeof NodeInfo>

/** A stock Postgres whose WAL a timeline follows, for imports. */
export const PostgresSource = Type.Object({
  kind: Type.Literal('postgres'),
  /** Any number that no other source of the timeline has. */
  id: Type.Integer({ minimum: 1 }),
  host: Type.String({ minLength: 1 }),
  pgPort: Port,
  /** Default: `zenith_admin`. It needs the REPLICATION attribute. */
  user: Type.Optional(Type.String({ minLength: 1 })),
  password: Type.Optional(Type.String()),
  /** Default: `disable`. */
  sslMode: Type.Optional(SslMode),
  sslRootCert: Type.Optional(Type.String()),
  /** Physical replication slot that keeps WAL for us; it must exist. */
  slot: Type.Optional(Type.String({ pattern: '^[a-z0-9_]{1,63}$' })),
})
export type PostgresSource = Static<typeof PostgresSource>

/** Where a pageserver gets a timeline's WAL from. */
export const WalSource = Type.Union([NodeInfo, PostgresSource])
export type WalSource = Static<typeof WalSource>

export const NodeAddress = Type.Object({
  host: Type.String({ minLength: 1 }),
  pgPort: Port,
  httpPort: Port,
})

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

export const EndpointStatus = Type.Union([
  Type.Literal('stopped'),
  Type.Literal('starting'),
  Type.Literal('running'),
  Type.Literal('stopping'),
  Type.Literal('crashed'),
  Type.Literal('fenced'),
])
export type EndpointStatus = Static<typeof EndpointStatus>

/** Settings by name, values as text without quotes: `{ work_mem: '64MB' }`. */
export const Settings = Type.Record(Type.String(), Type.String())
export type Settings = Static<typeof Settings>

/**
 * What a compute does with its branch: `primary` writes to it, `static` shows it as of one LSN,
 * `replica` follows it as a hot standby.
 */
export const EndpointMode = Type.Union([
  Type.Literal('primary'),
  Type.Literal('static'),
  Type.Literal('replica'),
])
export type EndpointMode = Static<typeof EndpointMode>

export const EndpointInfo = Type.Object({
  name: Type.String(),
  branch: Type.String(),
  timelineId: IdText,
  mode: EndpointMode,
  /** What a static endpoint shows; null for others. */
  readLsn: Nullable(LsnText),
  status: EndpointStatus,
  host: Type.String(),
  /** Postgres port: the one in use, or the one last used; null before the first start. */
  port: Nullable(Port),
  /** The port its owner asked for; then it is never replaced by another. */
  requestedPort: Nullable(Port),
  /** Port of the compute supervisor's own HTTP API while it runs. */
  httpPort: Nullable(Port),
  pid: Nullable(Type.Integer()),
  /** Commit LSN, or what a replica has replayed: live while running, else as last reported. */
  lsn: Nullable(LsnText),
  /** Bytes of WAL that a running replica has still to replay; null for others. */
  lagBytes: Nullable(Type.Integer()),
  /** Counts starts; status reports of an earlier start are ignored. */
  attempt: Type.Integer(),
  /** Why it crashed or was fenced. */
  error: Nullable(Type.String()),
  /** What its owner chose for postgresql.conf. */
  settings: Settings,
  /** What ALTER SYSTEM has set; it wins over `settings`, as postgresql.auto.conf does. */
  systemSettings: Settings,
  createdAt: Time,
  startedAt: Nullable(Time),
})
export type EndpointInfo = Static<typeof EndpointInfo>

/**
 * All that a compute process needs; written to `spec.json` beside its data folder. For a primary it
 * names no LSN: where it starts is decided by the election among the safekeepers.
 */
/** A token to show to safekeepers, and how long it is valid from when it was given out. */
export const IssuedToken = Type.Object({
  token: Type.String({ maxLength: 4096 }),
  expiresInMs: Type.Integer({ minimum: 0 }),
})

/** How a compute reaches its safekeepers: each part is left out where it is not needed. */
export const SafekeeperAccess = Type.Object({
  token: Type.Optional(Type.String()),
  expiresInMs: Type.Optional(Type.Integer({ minimum: 0 })),
  /** Authorities (PEM) of the safekeepers' certificates; with it connections are encrypted. */
  ca: Type.Optional(Type.String()),
})
export type SafekeeperAccess = Static<typeof SafekeeperAccess>

/** Where the shards of a tenant are, in their order; absent for a tenant that is not sharded. */
export const ShardMap = Type.Object({
  stripeBlocks: StripeBlocks,
  pageservers: Type.Array(NodeInfo, { minItems: 2, maxItems: MAX_SHARD_COUNT }),
})
export type ShardMap = Static<typeof ShardMap>

export const ComputeSpec = Type.Object({
  tenantId: IdText,
  timelineId: IdText,
  branch: Type.String(),
  endpoint: Type.String(),
  mode: EndpointMode,
  /** Static computes only: what to show. */
  readLsn: Type.Optional(LsnText),
  attempt: Type.Integer(),
  host: Type.String(),
  port: Port,
  controlPlaneUrl: Type.String(),
  /** Of a sharded tenant that of shard 0, which has all but blocks of relations. */
  pageserver: NodeInfo,
  shards: Type.Optional(ShardMap),
  safekeepers: Type.Array(NodeInfo, { minItems: 1 }),
  /** Set while the members change: those that come after, of whom a majority must agree too. */
  newSafekeepers: Type.Optional(Type.Array(NodeInfo, { minItems: 1 })),
  membershipGeneration: Type.Integer(),
  safekeeperAccess: Type.Optional(SafekeeperAccess),
  pgVersion: Type.Integer(),
  systemId: Type.String({ description: 'system identifier, decimal' }),
  /** Postgres install prefix; filled by whoever starts the process when it knows better. */
  postgresPrefix: Type.Optional(Type.String()),
  /** Extra postgresql.conf settings, applied last but before the ones that safety needs. */
  settings: Type.Optional(Settings),
  /** Contents of postgresql.auto.conf. */
  systemSettings: Type.Optional(Settings),
  /** What all databases of the branch together may have; absent or null: any number of bytes. */
  sizeLimitBytes: Type.Optional(Nullable(Type.Integer({ minimum: 0 }))),
  /** Drop all subscriptions to publications first; reported with `subscriptionsDropped`. */
  dropSubscriptions: Type.Optional(Type.Boolean()),
})
export type ComputeSpec = Static<typeof ComputeSpec>

/** What a compute reports about itself; `attempt` must be that of its spec. */
export const EndpointReport = Type.Object({
  attempt: Type.Integer(),
  status: EndpointStatus,
  pid: Type.Optional(Type.Integer()),
  httpPort: Type.Optional(Port),
  lsn: Type.Optional(LsnText),
  error: Type.Optional(Type.String()),
  /** What the spec's `dropSubscriptions` asked for is done, durably. */
  subscriptionsDropped: Type.Optional(Type.Boolean()),
})
export type EndpointReport = Static<typeof EndpointReport>

export const SettingsChange = Type.Object({
  set: Type.Optional(Settings),
  /** Names that go back to their defaults, whoever set them. */
  reset: Type.Optional(Type.Array(Type.String())),
  /** Everything goes back to its default. */
  resetAll: Type.Optional(Type.Boolean()),
})
export type SettingsChange = Static<typeof SettingsChange>

export const SettingsAnswer = Type.Object({
  endpoint: EndpointInfo,
  /** True if a compute runs and has read the new settings. */
  applied: Type.Boolean(),
  /** Settings that the running compute takes only when it is started again. */
  restartNeeded: Type.Array(Type.String()),
})
export type SettingsAnswer = Static<typeof SettingsAnswer>

export const ReAttachResponse = Type.Object({
  tenants: Type.Array(
    Type.Object({
      tenantId: TenantShardText,
      generation: Type.Integer(),
      /** Absent: `attached`. */
      mode: Type.Optional(AttachMode),
      /** Of shards only. */
      stripeBlocks: Type.Optional(StripeBlocks),
      timelines: Type.Array(
        Type.Object({ timelineId: IdText, safekeepers: Type.Array(WalSource) }),
      ),
    }),
  ),
  /** Tenants of which it keeps a warm copy, with the pageserver that serves them. */
  secondaries: Type.Optional(
    Type.Array(Type.Object({ tenantId: TenantShardText, primary: NodeAddress })),
  ),
})
export type ReAttachResponse = Static<typeof ReAttachResponse>

/** A safekeeper as the control plane knows it. */
export const SafekeeperNode = Type.Object({
  id: Type.Integer({ minimum: 1 }),
  host: Type.String(),
  pgPort: Port,
  httpPort: Port,
  /** `draining` takes no new timelines; `removed` is out for good. */
  state: Type.Union([Type.Literal('active'), Type.Literal('draining'), Type.Literal('removed')]),
  /** How many timelines it keeps, or is about to keep. */
  timelines: Type.Integer(),
  /** How many copies it has yet to delete. */
  deletions: Type.Integer(),
})
export type SafekeeperNode = Static<typeof SafekeeperNode>

/** What a safekeeper says when it is asked. */
export const SafekeeperLook = Type.Object({
  id: Type.Integer(),
  answers: Type.Boolean(),
  /** Bytes that it is behind the newest commit of its timelines; null while it does not answer. */
  lagBytes: Nullable(Type.Integer()),
  /** Timelines that it should keep and has no copy of: its disk was lost, or cannot be read. */
  lost: Type.Array(IdText),
})
export type SafekeeperLook = Static<typeof SafekeeperLook>

/** Who keeps a timeline, and how far a change of that is. */
export const MembershipInfo = Type.Object({
  tenantId: IdText,
  timelineId: IdText,
  branch: Type.String(),
  generation: Type.Integer(),
  safekeepers: Type.Array(Type.Integer()),
  /** Those who take over; null unless a change is under way. */
  newSafekeepers: Nullable(Type.Array(Type.Integer())),
  /** Members without a copy. */
  lacking: Type.Array(Type.Integer()),
  /** Safekeepers that have yet to delete their copy. */
  deletions: Type.Array(Type.Integer()),
  /** `done`, or the step of the change: see docs/wal-service/membership.md. */
  phase: Type.String(),
  /** While a change is driven: what is known of each member. */
  nodes: Type.Array(
    Type.Object({
      id: Type.Integer(),
      ready: Type.Boolean(),
      flushLsn: Nullable(LsnText),
      copiedBytes: Nullable(Type.Integer()),
      totalBytes: Nullable(Type.Integer()),
      problem: Nullable(Type.String()),
    }),
  ),
})
export type MembershipInfo = Static<typeof MembershipInfo>

const NodeParams = Type.Object({ id: Type.Integer({ minimum: 1 }) })

export const controlRoutes = routes({
  ...fleetRoutes,
  ...splitRoutes,
  ...autosplitRoutes,
  ...generationRoutes,
  listNodes: {
    ...controlPaths.listNodes,
    summary: 'Registered pageservers and safekeepers',
    params: None,
    response: Type.Object({
      pageservers: Type.Array(NodeInfo),
      safekeepers: Type.Array(NodeInfo),
    }),
  },
  registerPageserver: {
    ...controlPaths.registerPageserver,
    summary: 'Register a pageserver, or give it a new address',
    params: NodeParams,
    body: NodeAddress,
    response: NodeInfo,
  },
  registerSafekeeper: {
    ...controlPaths.registerSafekeeper,
    summary: 'Register a safekeeper, or give it a new address',
    params: NodeParams,
    body: NodeAddress,
    response: NodeInfo,
  },
  listSafekeepers: {
    ...controlPaths.listSafekeepers,
    summary: 'Safekeepers with what they are for and how much they hold; the next free id',
    params: None,
    response: Type.Object({
      safekeepers: Type.Array(SafekeeperNode),
      nextId: Type.Integer(),
    }),
  },
  inspectSafekeepers: {
    ...controlPaths.inspectSafekeepers,
    summary: 'Asks each safekeeper what it has: how far behind, and what it lost',
    params: None,
    response: Type.Array(SafekeeperLook),
  },
  setSafekeeperState: {
    ...controlPaths.setSafekeeperState,
    summary: 'Let a safekeeper take new timelines or none; take an empty one out for good',
    params: NodeParams,
    body: Type.Object({
      state: SafekeeperNode.properties.state,
      /** Remove it although it has yet to delete copies. */
      force: Type.Optional(Type.Boolean()),
    }),
    response: SafekeeperNode,
  },
  listMembers: {
    ...controlPaths.listMembers,
    summary: 'Who keeps each timeline, and how far changes of that are',
    params: None,
    response: Type.Array(MembershipInfo),
  },
  getMembers: {
    ...controlPaths.getMembers,
    summary: 'Who keeps a timeline, and how far a change of that is',
    params: TimelineParams,
    response: MembershipInfo,
  },
  changeMembers: {
    ...controlPaths.changeMembers,
    summary: 'Begin to change who keeps a timeline; it goes on by itself',
    params: TimelineParams,
    body: Type.Object({
      safekeepers: Type.Array(Type.Integer({ minimum: 1 }), { minItems: 1, maxItems: 9 }),
      /** Members that lost their copy and are to be given another. */
      rebuild: Type.Optional(Type.Array(Type.Integer({ minimum: 1 }), { maxItems: 9 })),
    }),
    response: MembershipInfo,
  },
  abortMembers: {
    ...controlPaths.abortMembers,
    summary: 'Undo a change of the members that has not come into force',
    params: TimelineParams,
    body: None,
    response: MembershipInfo,
  },
  reAttach: {
    ...controlPaths.reAttach,
    summary: 'A pageserver started: raises the generation of each of its tenants, durably',
    params: None,
    body: Type.Object({ pageserverId: Type.Integer({ minimum: 1 }) }),
    response: ReAttachResponse,
  },
  issueNodeToken: {
    ...controlPaths.issueNodeToken,
    summary: 'A pageserver or safekeeper gets its token for its secret',
    params: None,
    body: Type.Object({
      kind: Type.Union([Type.Literal('pageserver'), Type.Literal('safekeeper')]),
      id: Type.Integer({ minimum: 1 }),
      secret: Type.String({ maxLength: 200 }),
    }),
    response: IssuedToken,
  },
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
  listBranches: {
    ...controlPaths.listBranches,
    summary: 'Branches, each with its parent, parents before children',
    params: TenantParams,
    response: Type.Array(BranchInfo),
  },
  createBranch: {
    ...controlPaths.createBranch,
    summary: 'Branch from another branch (default main), at its end, at an LSN or at a moment',
    params: TenantParams,
    body: Type.Object({
      name: Type.String(),
      from: Type.Optional(Type.String()),
      lsn: Type.Optional(LsnText),
      /** Instead of an LSN: a moment, as ISO 8601 or psql write it. */
      at: Type.Optional(Type.String()),
      /** The first compute of the branch drops its subscriptions before anybody gets in. */
      dropSubscriptions: Type.Optional(Type.Boolean()),
    }),
    response: BranchInfo,
  },
  listEndpoints: {
    ...controlPaths.listEndpoints,
    summary: 'Endpoints with status, address and LSN; the state is checked with each compute',
    params: TenantParams,
    response: Type.Array(EndpointInfo),
  },
  createEndpoint: {
    ...controlPaths.createEndpoint,
    summary: 'Create an endpoint on a branch; its name defaults to the branch name',
    params: TenantParams,
    body: Type.Object({
      name: Type.Optional(Type.String()),
      branch: Type.String(),
      /** Default: `static` when an LSN is given, else `primary`. */
      mode: Type.Optional(EndpointMode),
      /** What a static endpoint shows; default: the end of the branch as it is now. */
      lsn: Type.Optional(LsnText),
      /** Instead of an LSN: the moment that a static endpoint shows, as ISO 8601 or psql write it. */
      at: Type.Optional(Type.String()),
      port: Type.Optional(Port),
      settings: Type.Optional(Settings),
    }),
    response: EndpointInfo,
  },
  getEndpoint: {
    ...controlPaths.getEndpoint,
    summary: 'One endpoint, its state checked with its compute',
    params: NameParams,
    response: EndpointInfo,
  },
  startEndpoint: {
    ...controlPaths.startEndpoint,
    summary: 'Mark an endpoint starting and return the spec to start its compute process with',
    params: NameParams,
    body: Type.Object({ port: Type.Optional(Port) }),
    response: ComputeSpec,
  },
  reportEndpoint: {
    ...controlPaths.reportEndpoint,
    summary: 'A compute tells its state',
    params: NameParams,
    body: EndpointReport,
    response: EndpointInfo,
  },
  renewToken: {
    ...controlPaths.renewToken,
    summary: 'A compute exchanges its token for one that lives longer, while it is the current one',
    params: NameParams,
    body: Type.Object({
      attempt: Type.Integer(),
      token: Type.String({ maxLength: 4096 }),
    }),
    response: IssuedToken,
  },
  promoteEndpoint: {
    ...controlPaths.promoteEndpoint,
    summary:
      'Make a stopped replica the primary of its branch, or one that never ran a replica again',
    params: NameParams,
    body: Type.Object({ undo: Type.Optional(Type.Boolean()) }),
    response: EndpointInfo,
  },
  stopEndpoint: {
    ...controlPaths.stopEndpoint,
    summary: 'Stop the compute cleanly and wait for it; no error when it is stopped already',
    params: NameParams,
    body: None,
    response: EndpointInfo,
  },
  changeSettings: {
    ...controlPaths.changeSettings,
    summary: 'Change settings of an endpoint; a running compute reads them at once',
    params: NameParams,
    body: SettingsChange,
    response: SettingsAnswer,
  },
  storeSystemSettings: {
    ...controlPaths.storeSystemSettings,
    summary: 'A compute tells what ALTER SYSTEM has set; durable when this answers',
    params: NameParams,
    body: Type.Object({ attempt: Type.Integer(), settings: Settings }),
    response: EndpointInfo,
  },
  deleteEndpoint: {
    ...controlPaths.deleteEndpoint,
    summary: 'Forget a stopped endpoint; its branch and data stay',
    params: NameParams,
    response: EndpointInfo,
  },
  ...historyRoutes,
  ...sizeLimitRoutes,
  ...lifecycleRoutes,
  ...transferRoutes,
})

export type ControlRoutes = typeof controlRoutes
export type ControlRouteName = keyof ControlRoutes
