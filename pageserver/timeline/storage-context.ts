/** What all timelines of a page server share, and the limits that shape their storage. */
import type { Logger } from '#libs/log.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { Compactor } from '../compaction/compactor.ts'
import type { ChunkCache } from '../layers/chunk-cache.ts'
import type { Residency } from '../layers/residency.ts'
import type { ReadStats } from '../read/read-stats.ts'
import type { Appliers } from '../read/reconstruct.ts'
import type { AccessTimes } from '../remote/access-times.ts'
import type { Deletions } from '../remote/deletions.ts'
import type { DiskKeeper } from '../remote/disk-keeper.ts'
import type { Downloads } from '../remote/downloads.ts'
import type { Generations } from '../remote/generations.ts'
import type { UploadQueue } from '../remote/upload-queue.ts'
import type { LayerMemory } from '../layers/layer-memory.ts'
import type { DeltaFiles } from './delta-writer.ts'

const MIB = 1024 * 1024

export const DEFAULT_LIMITS = {
  /** The open layer is frozen at this size, WAL distance or age. */
  rollSizeBytes: 128 * MIB,
  rollDistanceBytes: 256 * MIB,
  rollAgeMs: 600_000,
  /** Ingest waits while more frozen layers than this are unwritten. */
  maxFrozen: 1,
  /** So many L0 layers are merged into L1 layers, and at most so many at once. */
  l0CompactCount: 4,
  l0CompactMax: 10,
  /** From so many L0 layers on flushes are delayed, each layer more by so much more. */
  l0DelayCount: 20,
  l0DelayMs: 500,
  l0MaxDelayMs: 30_000,
  /** A layer that compaction writes is cut at about this size. */
  l1LayerBytes: 128 * MIB,
  /** Images of a column are made when its deltas weigh so much, and half of the images there; */
  imageDeltaBytes: 32 * MIB,
  /** or when reads of what changes visit so many of them on average, or when there are so many. */
  imageDepth: 2.5,
  imageAfterDeltas: 20,
  /** While little WAL comes, so much in memory is flushed, and so much in deltas gets images. */
  idleBytes: 16 * MIB,
  /** History below the cutoff is rewritten where so much can be gained, and as much as is left. */
  bottomGainBytes: 8 * MIB,
  /** So many partial image sets, then one that stands for all of them. */
  maxImageSets: 8,
  /** An image layer is cut at about this size. */
  imageLayerBytes: 128 * MIB,
  /** All open layers of the process together. */
  openBytes: 1024 * MIB,
  /** Indexes of layers at hand, and open layer files, of the process together. */
  indexBytes: 256 * MIB,
  openFiles: 800,
  chunkCacheBytes: 64 * MIB,
  /** A lease lasts so long; its holder renews it in time. */
  leaseMs: 600_000,
  /** Ingest waits while more bytes than this are on local disk only. */
  maxPendingUploadBytes: 8192 * MIB,
  /** At shutdown, waiting for object storage ends after this. */
  shutdownFlushMs: 20_000,
}

export type StorageLimits = typeof DEFAULT_LIMITS

/** Points where a crash is interesting; tests stop there. */
export type StorageStep =
  | 'split-timeline'
  | 'delta-written'
  | 'delta-renamed'
  | 'layer-uploaded'
  | 'manifest-written'
  | 'layers-uploaded'
  | 'change-written'
  | 'archive-written'
  | 'unarchive-written'
  | 'delete-closed'
  | 'delete-written'
  | 'delete-local-gone'
  | 'sibling-moved'
  | 'siblings-moved'

export interface StorageContext {
  /** Folder of all tenants' local files. */
  folder: string
  store: ObjectStore
  cache: ChunkCache
  residency: Residency
  readStats: ReadStats
  appliers: Appliers
  /** Where memory of open layers comes from; one for all timelines. */
  layerMemory: LayerMemory
  /** Writes frozen layers. */
  deltaFiles: DeltaFiles
  deletions: Deletions
  compactor: Compactor
  generations: Generations
  uploads: UploadQueue
  downloads: Downloads
  disk: DiskKeeper
  accesses: AccessTimes | null
  log: Logger
  limits: StorageLimits
  onStep?: (step: StorageStep) => void
}
