/** What the control plane stores, and under which key. Each record changes by compare-and-swap. */
import type { ImportInfo, ImportSource, StockServer } from '#libs/api/transfer.ts'
import type { EndpointMode, EndpointStatus, Settings } from '#libs/api/endpoint-info.ts'
import type { NodeInfo } from '#libs/api/node-info.ts'

export type NodeKind = 'pageserver' | 'safekeeper'
export interface NodeRecord extends NodeInfo {
  /**
   * Safekeepers only. Absent: it takes new timelines. Draining: none any more. Removed: it is not
   * there any more, and its id is not given to another.
   */
  state?: 'draining' | 'removed'
}

export interface TenantRecord {
  tenantId: string
  /** `deleting` is an intent: whoever finds it goes on (lifecycle/tenant-deletion.ts). */
  state: 'creating' | 'active' | 'deleting'
  /** Shards that the blocks of its relations are spread over; 0 = it is not sharded. */
  shardCount: number
  /** Neighbouring blocks that stay together in one shard; of no meaning while not sharded. */
  stripeBlocks: number
  /** One per shard, in the order of the shards; just one when it is not sharded. */
  placements: PlacementRecord[]
  mainTimelineId: string
  /** Absent unless its shards are being split (moves/split.ts). */
  split?: SplitRecord
  /**
   * Numbers of shards that it had before splits (0 = it was not sharded), as long as objects of those
   * may be there.
   */
  formerCounts?: number[]
  /** Absent unless its shards are being spread over the pageservers (moves/spread-plan.ts). */
  spread?: true
  /** The split that ended last. */
  lastSplit?: LastSplitRecord
  /** When it is split by itself; what is absent follows the control plane's settings. */
  autosplit?: { shardBytes?: number | null; maxShards?: number | null }
  /** How much history it keeps; absent: the default. */
  history?: { pitrIntervalMs: number; pitrBytes: number | null }
  /** What all databases of one branch together may have; absent or null: any number of bytes. */
  maxBytes?: number | null
  createdAt: string
}

/**
 * A tenant that was deleted; kept for good. Its id is not used again: a pageserver that was away may
 * still hold it under a generation that is higher than those of a new tenant.
 */
export interface DeletedTenantRecord {
  tenantId: string
  shardCount: number
  deletedAt: string
  /** Pageservers that may still have local files of it, and have yet to be told. */
  untold: number[]
}

/** Which pageserver has a tenant, or one shard of it. */
export interface PlacementRecord {
  /** From 0; 0 when the tenant is not sharded. */
  shard: number
  pageserverId: number
  /** Raised and durable before a pageserver may use it; never lowered, never given out twice. */
  generation: number
  /** The pageserver that keeps a warm copy of the layer files. */
  secondary: number | null
  /** Absent unless it is being moved (moves/move.ts). */
  move?: MoveRecord
  /** The pageserver that it was taken from when that was lost; it goes back when that is well again. */
  home?: number
}

export type SplitPhase = 'hold' | 'attach' | 'tell' | 'clean-up'

/** A split of the shards of a tenant into more, as far as it must survive a crash. */
export interface SplitRecord {
  phase: SplitPhase
  /** How many there are to be; from `attach` on that is the tenant's own count. */
  shardCount: number
  stripeBlocks: number
  /** The placements that are left, in the order of their shards; empty up to `hold`. */
  parents: PlacementRecord[]
  /** 0 = it was not sharded. */
  parentCount: number
  /** Parents that do not answer: nobody waits for them. */
  lost: number[]
  /** Its shards are spread over the pageservers when it has ended. */
  spread?: true
  /** It was begun because of the tenant's size. */
  bySize?: true
  startedAt: string
}

export interface LastSplitRecord {
  /** Numbers of shards; 1 = it was not sharded. */
  from: number
  to: number
  bySize: boolean
  startedAt: string
}

/** In this order; `undo` instead of what follows when a move is given up in time. */
export type MovePhase = 'warm-up' | 'hold' | 'attach' | 'tell' | 'clean-up' | 'undo'

/** A move of a placement from one pageserver to another, as far as it must survive a crash. */
export interface MoveRecord {
  from: number
  to: number
  phase: MovePhase
  /** Of the holder that is left: what it goes on serving with, from `attach` on. */
  fromGeneration: number | null
  /** The holder that is left does not answer, so nobody waits for it. */
  lost: boolean
  startedAt: string
}

/** `archiving`, `unarchiving` and `deleting` are intents: whoever finds them goes on. */
export type TimelineRecordState =
  | 'creating'
  | 'active'
  | 'archiving'
  | 'archived'
  | 'unarchiving'
  | 'deleting'

export interface TimelineRecord {
  tenantId: string
  timelineId: string
  branch: string
  state: TimelineRecordState
  ancestorTimelineId: string | null
  ancestorLsn: string | null
  /** Known once the pageserver has made the timeline. */
  startLsn: string | null
  /** While the timeline is being imported: from where. */
  importing?: ImportSource
  importState?: {
    /** Where all shards end, once that is agreed on. */
    endLsn?: string
    /** It failed or was given up: what is there of it goes, then the record does. */
    ended?: { state: 'failed' | 'stopped'; error: ImportInfo['error'] }
  }
  /** A stock primary whose WAL the pageserver takes in; then there are no safekeepers. */
  follows?: {
    server: StockServer
    slot: string
    /** The server is gone, and the shards are at different LSNs: nothing more comes. */
    lost?: true
  }
  systemId: string | null
  pgVersion: number | null
  /** Members of the quorum, by id. */
  safekeepers: number[]
  /** Members on which the timeline has not been made yet, since they were down. */
  pendingSafekeepers: number[]
  membershipGeneration: number
  /** Members that take over; absent unless a change is under way (see membership/membership.ts). */
  newSafekeepers?: number[]
  /** Members that lost their disk, while a change copies them anew. */
  rebuildSafekeepers?: number[]
  /** A majority of the members, or the pageserver, has yet to be told of this configuration. */
  unannounced?: true
  /** Copies on safekeepers that are out, which have yet to be deleted. */
  deletions?: { node: number; generation: number }[]
  /** It is being detached from this place of its ancestor; see lifecycle/. */
  detaching?: { ancestorTimelineId: string; ancestorLsn: string }
  /** It is to take the name of another timeline, and its computes; see lifecycle/replacing.ts. */
  replaces?: Replacement
  /** Beside `deleting`: what to go back to if that is taken back. */
  wasArchived?: true
  /** Of one that was detached or imported: the oldest LSN of its history, before its own WAL. */
  historyStartLsn?: string
  createdAt: string
}

export interface Replacement {
  timelineId: string
  /** The name that the old one keeps; null: it is deleted. */
  keepAs: string | null
  /** Detach the new one from the old one afterwards. */
  detach: boolean
}

export interface BranchRecord {
  name: string
  timelineId: string
  parent: string | null
  branchLsn: string | null
  /** There until a compute has dropped the subscriptions that the branch has from its parent. */
  dropSubscriptions?: true
  /** Not to be deleted, reset or restored. */
  protected?: true
  createdAt: string
}

export interface EndpointRecord {
  name: string
  tenantId: string
  timelineId: string
  branch: string
  /** Absent in records made when all were primaries. */
  mode?: EndpointMode
  /** Static endpoints only. */
  readLsn?: string
  status: EndpointStatus
  host: string
  port: number | null
  requestedPort: number | null
  httpPort: number | null
  pid: number | null
  lsn: string | null
  attempt: number
  error: string | null
  createdAt: string
  startedAt: string | null
  /** Absent in records of earlier versions. */
  settings?: Settings
  systemSettings?: Settings
}

export const recordKey = {
  node: (kind: NodeKind, id: number) => `node/${kind}/${String(id).padStart(10, '0')}`,
  nodes: (kind: NodeKind) => `node/${kind}/`,
  tenant: (tenantId: string) => `tenant/${tenantId}`,
  tenants: () => 'tenant/',
  deletedTenant: (tenantId: string) => `deleted-tenant/${tenantId}`,
  deletedTenants: () => 'deleted-tenant/',
  timeline: (tenantId: string, timelineId: string) => `timeline/${tenantId}/${timelineId}`,
  timelines: (tenantId?: string) => (tenantId ? `timeline/${tenantId}/` : 'timeline/'),
  branch: (tenantId: string, name: string) => `branch/${tenantId}/${name}`,
  branches: (tenantId: string) => `branch/${tenantId}/`,
  endpoint: (tenantId: string, name: string) => `endpoint/${tenantId}/${name}`,
  endpoints: (tenantId?: string) => (tenantId ? `endpoint/${tenantId}/` : 'endpoint/'),
} as const
