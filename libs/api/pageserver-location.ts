/**
 * How a pageserver holds a tenant, and the routes by which the control plane says so. See
 * docs/storage/fleet.md.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { AttachMode } from './attach-mode.ts'
import { NodeAddress, WalSource } from './node-info.ts'
import {
  IdText,
  LsnText,
  Nullable,
  StripeBlocks,
  TenantShardParams,
  TenantShardText,
} from './schemas.ts'

/** `secondary` keeps a copy of the primary's layer files and serves nothing. */
export const LocationMode = Type.Union([
  ...AttachMode.anyOf,
  Type.Literal('secondary'),
  Type.Literal('detached'),
])
export type LocationMode = Static<typeof LocationMode>

export const TimelineSources = Type.Object({
  timelineId: IdText,
  safekeepers: Type.Array(WalSource),
})
export type TimelineSources = Static<typeof TimelineSources>

export const LocationRequest = Type.Object({
  mode: LocationMode,
  /** For the modes that attach. */
  generation: Type.Optional(Type.Integer({ minimum: 1 })),
  /** Of a shard, for the modes that attach. */
  stripeBlocks: Type.Optional(StripeBlocks),
  /** Where to get WAL from, for the modes that attach; timelines left out are not received. */
  timelines: Type.Optional(Type.Array(TimelineSources)),
  /** The shard that this one begins as a part of: it takes over the timelines of that first. */
  splitFrom: Type.Optional(
    Type.Object({ tenantId: TenantShardText, generation: Type.Integer({ minimum: 1 }) }),
  ),
  /** Whose layer files to copy, for `secondary`. */
  primary: Type.Optional(NodeAddress),
})
export type LocationRequest = Static<typeof LocationRequest>

/** How warm a secondary is. */
export const SecondaryInfo = Type.Object({
  /** Layer files of the primary, as far as it was asked; null before the first answer. */
  layers: Nullable(Type.Integer()),
  bytes: Nullable(Type.Integer()),
  missingLayers: Nullable(Type.Integer()),
  missingBytes: Nullable(Type.Integer()),
  lastError: Nullable(Type.String()),
})
export type SecondaryInfo = Static<typeof SecondaryInfo>

export const LocationInfo = Type.Object({
  tenantId: TenantShardText,
  mode: LocationMode,
  generation: Nullable(Type.Integer()),
  timelines: Type.Array(Type.Object({ timelineId: IdText, lastRecordLsn: LsnText })),
  secondary: Nullable(SecondaryInfo),
  /** Timelines that are in storage and cannot be opened. */
  broken: Type.Array(IdText),
})
export type LocationInfo = Static<typeof LocationInfo>

/** Layer files that a pageserver has on its disk, for those who keep a copy. */
export const Heatmap = Type.Object({
  timelines: Type.Array(
    Type.Object({
      timelineId: IdText,
      layers: Type.Array(
        Type.Object({
          /** Name of the local file, and of the object that it is a copy of. */
          file: Type.String({ pattern: '^[0-9A-Za-z_.-]+$' }),
          object: Type.String(),
          sizeBytes: Type.Integer(),
          /** CRC of the footer. */
          crc: Type.Integer(),
        }),
      ),
    }),
  ),
})
export type Heatmap = Static<typeof Heatmap>

export const locationRoutes = routes({
  setLocation: {
    method: 'PUT',
    path: '/v1/tenant/:tenantId/location',
    summary: 'Hold a tenant in another way; the same request again changes nothing',
    params: TenantShardParams,
    body: LocationRequest,
    response: LocationInfo,
  },
  getLocation: {
    method: 'GET',
    path: '/v1/tenant/:tenantId/location',
    summary: 'How a tenant is held, and how warm a secondary is',
    params: TenantShardParams,
    response: LocationInfo,
  },
  heatmap: {
    method: 'GET',
    path: '/v1/tenant/:tenantId/heatmap',
    summary: 'Layer files on the disk of this pageserver, for secondaries',
    params: TenantShardParams,
    response: Heatmap,
  },
  flushTenant: {
    method: 'POST',
    path: '/v1/tenant/:tenantId/flush',
    summary: 'Flush and upload every timeline of a tenant now',
    params: TenantShardParams,
    response: LocationInfo,
  },
})
