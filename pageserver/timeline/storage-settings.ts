/** The `[storage]` table of pageserver.toml: sizes and times that shape layers. See docs/storage/layers.md. */
import { type Static, Type } from 'typebox'
import type { StorageLimits } from './storage-context.ts'

const Count = Type.Optional(Type.Integer({ minimum: 1 }))

export const StorageSettings = Type.Object(
  {
    /** The open layer is written out at this size, WAL distance or age. */
    roll_size_bytes: Count,
    roll_distance_bytes: Count,
    roll_age_ms: Count,
    /** So many L0 layers are merged. */
    l0_compact_count: Count,
    /** From so many on flushes are delayed. */
    l0_delay_count: Count,
    /** Layers that compaction writes are cut at about this size. */
    layer_bytes: Count,
    /** Images are made when deltas of a column weigh so much. */
    image_delta_bytes: Count,
    /** While little WAL comes, so much in memory is written out. */
    idle_bytes: Count,
    /** History below the cutoff is rewritten where so much can be gained. */
    bottom_gain_bytes: Count,
    /** Memory of all open layers, and of chunks read lately. */
    open_bytes: Count,
    chunk_cache_bytes: Count,
  },
  { additionalProperties: false },
)
export type StorageSettings = Static<typeof StorageSettings>

/** Which limit each setting is. */
const LIMITS: Record<keyof StorageSettings, readonly (keyof StorageLimits)[]> = {
  roll_size_bytes: ['rollSizeBytes'],
  roll_distance_bytes: ['rollDistanceBytes'],
  roll_age_ms: ['rollAgeMs'],
  l0_compact_count: ['l0CompactCount', 'l0CompactMax'],
  l0_delay_count: ['l0DelayCount'],
  layer_bytes: ['l1LayerBytes', 'imageLayerBytes'],
  image_delta_bytes: ['imageDeltaBytes'],
  idle_bytes: ['idleBytes'],
  bottom_gain_bytes: ['bottomGainBytes'],
  open_bytes: ['openBytes'],
  chunk_cache_bytes: ['chunkCacheBytes'],
}

/** What differs from the defaults. */
export function limitsOf(settings: StorageSettings): Partial<StorageLimits> {
  const limits: Partial<Record<keyof StorageLimits, number>> = {}
  for (const [name, value] of Object.entries(settings)) {
    for (const limit of LIMITS[name as keyof StorageSettings]) limits[limit] = value
  }
  return limits as Partial<StorageLimits>
}
