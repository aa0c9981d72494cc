/** The part of pageserver.toml that bounds the use of the local disk. */
import { type Static, Type } from 'typebox'
import type { StorageLimits } from '../timeline/storage-context.ts'
import type { DiskSettings } from './disk-keeper.ts'

export const DiskConfig = Type.Object(
  {
    /** Layer files go when the file system is used beyond this; default 90. */
    max_usage_percent: Type.Optional(Type.Number({ minimum: 1, maximum: 100 })),
    /** Or when less is free; default 1 GiB. */
    min_free_bytes: Type.Optional(Type.Integer({ minimum: 0 })),
    /** Or when they take more together; default: no such bound. */
    max_bytes: Type.Optional(Type.Integer({ minimum: 0 })),
    /** So much of each tenant stays; default 64 MiB. */
    tenant_floor_bytes: Type.Optional(Type.Integer({ minimum: 0 })),
    /** While object storage fails, WAL is taken in until so much waits for it; default 8 GiB. */
    max_unuploaded_bytes: Type.Optional(Type.Integer({ minimum: 0 })),
  },
  { additionalProperties: false },
)
export type DiskConfig = Static<typeof DiskConfig>

/** The bounds of the local disk that are set. */
export function diskSettings(config: DiskConfig = {}): Partial<DiskSettings> {
  const { max_usage_percent, min_free_bytes, max_bytes, tenant_floor_bytes } = config
  return {
    ...(max_usage_percent === undefined ? {} : { maxUsagePercent: max_usage_percent }),
    ...(min_free_bytes === undefined ? {} : { minFreeBytes: min_free_bytes }),
    ...(max_bytes === undefined ? {} : { maxBytes: max_bytes }),
    ...(tenant_floor_bytes === undefined ? {} : { tenantFloorBytes: tenant_floor_bytes }),
  }
}

/** The limits of timelines that are set. */
export function storageLimits(config: DiskConfig = {}): Partial<StorageLimits> {
  const { max_unuploaded_bytes } = config
  return max_unuploaded_bytes === undefined ? {} : { maxPendingUploadBytes: max_unuploaded_bytes }
}
