/** What the timelines of a safekeeper share. */
import type { Logger } from '#libs/log.ts'
import type { SafekeeperMetrics } from './metrics.ts'
import type { OffloadService } from './offload/offload-service.ts'
import type { DiskLimits } from './store/disk-limits.ts'
import type { DiskReserve } from './store/disk-reserve.ts'
import type { SpareSegments } from './store/spare-segments.ts'
import type { WriteSlots } from './store/write-slots.ts'

export interface TimelineContext {
  nodeId: number
  incarnation: string
  spares: SpareSegments
  reserve: DiskReserve
  slots: WriteSlots
  limits: DiskLimits
  /** What the segments of all timelines take on disk. */
  totalDiskBytes: () => number
  metrics: SafekeeperMetrics
  /** Null without an object store: then all WAL stays on this disk. */
  offload: OffloadService | null
  log: Logger
}
