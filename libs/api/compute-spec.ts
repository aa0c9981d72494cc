/** What a compute process is started with. */
import { MAX_SHARD_COUNT } from '#libs/sharding.ts'
import { type Static, Type } from 'typebox'
import { EndpointMode, Settings } from './endpoint-info.ts'
import { NodeInfo } from './node-info.ts'
import { IdText, LsnText, Nullable, Port, StripeBlocks } from './schemas.ts'

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

/**
 * All that a compute process needs; written to `spec.json` beside its data folder. For a primary it
 * names no LSN: where it starts is decided by the election among the safekeepers.
 */
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
