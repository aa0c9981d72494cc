/** Schemas that requests and responses of every service are made of. */
import { MAX_STRIPE_BLOCKS } from '#libs/sharding.ts'
import { type TSchema, Type } from 'typebox'

/** What JSON has as null while there is nothing to tell. */
export const Nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()])

export const IdText = Type.String({ pattern: '^[0-9a-f]{32}$', description: '32 hex digits' })

/** What a page server knows a tenant by: its id, or that of one of its shards. */
export const TenantShardText = Type.String({
  pattern: '^[0-9a-f]{32}(-[0-9a-f]{4})?$',
  description: '32 hex digits; of a shard also "-", its number and the count, in hex: ...-0104',
})

export const LsnText = Type.String({
  pattern: '^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$',
  description: 'WAL position, as Postgres prints it: 0/1609610',
})

export const Port = Type.Integer({ minimum: 1, maximum: 65535 })
export const Time = Type.String({ description: 'ISO 8601, UTC' })

/** The bodies and answers that tell nothing. */
export const None = Type.Object({})

/** What the paths of the control plane and of safekeepers name. */
export const TenantParams = Type.Object({ tenantId: IdText })
export const TimelineParams = Type.Object({ tenantId: IdText, timelineId: IdText })
/** A branch, endpoint or import of a tenant. */
export const NameParams = Type.Object({ tenantId: IdText, name: Type.String() })

/** A pageserver or safekeeper. */
export const NodeParams = Type.Object({ id: Type.Integer({ minimum: 1 }) })

/** The same in the pageserver's API, which knows shards as tenants. */
export const TenantShardParams = Type.Object({ tenantId: TenantShardText })
export const TimelineShardParams = Type.Object({ tenantId: TenantShardText, timelineId: IdText })

export const TIMELINE_PATH = '/v1/tenant/:tenantId/timeline/:timelineId'

/** Branch and endpoint names: a lower-case letter or digit first, then also `.`, `_`, `-`. */
export const NAME_PATTERN = '^[a-z0-9][a-z0-9._-]{0,62}$'

/** Blocks of a relation that stay together in one shard. */
export const StripeBlocks = Type.Integer({ minimum: 1, maximum: MAX_STRIPE_BLOCKS })
