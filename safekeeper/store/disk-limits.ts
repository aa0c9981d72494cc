/**
 * How much WAL may lie here. An append that needs another segment is refused beyond a limit, and with
 * it the connection of the proposer ends with the reason; everything else (heartbeats, votes, readers,
 * removal) goes on, and so does the proposer's next try once removal has made room.
 */
import { statfs } from 'node:fs/promises'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import type { SpareSegments } from './spare-segments.ts'

export interface DiskLimitSettings {
  /** Segments of one timeline, in bytes; null for no limit. */
  maxTimelineWalBytes: number | null
  /** Segments of all timelines. */
  maxWalBytes: number | null
  /** The disk keeps so much free, for whatever else is on it. */
  minFreeBytes: number
}

export interface DiskUse {
  timelineBytes: number
  totalBytes: number
  /** Null while unknown. */
  freeBytes: number | null
  /** The disk was full when a segment was last made ahead, and none is left. */
  full: boolean
}

/** Why another `segments` segments cannot be had; null when they can. */
export function limitRefusal(
  settings: DiskLimitSettings,
  use: DiskUse,
  segments: number,
): string | null {
  const { maxTimelineWalBytes, maxWalBytes, minFreeBytes } = settings
  const added = segments * WAL_SEGMENT_SIZE
  const later = 'it goes on when WAL was removed here'
  if (maxTimelineWalBytes !== null && use.timelineBytes + added > maxTimelineWalBytes) {
    const has = `this timeline has ${mebibytes(use.timelineBytes)} of WAL on this safekeeper`
    return `${has}, as much as max_timeline_wal_bytes allows; ${later}`
  }
  if (maxWalBytes !== null && use.totalBytes + added > maxWalBytes) {
    const has = `this safekeeper has ${mebibytes(use.totalBytes)} of WAL`
    return `${has}, as much as max_wal_bytes allows; ${later}`
  }
  if (use.freeBytes !== null && use.freeBytes < minFreeBytes) {
    const has = `the disk of this safekeeper has ${mebibytes(use.freeBytes)} free`
    return `${has}, less than min_free_bytes; it goes on when there is more`
  }
  return use.full ? 'the disk of this safekeeper is full; it goes on when there is space' : null
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 1048576)} MiB`
}

export class DiskLimits {
  readonly settings: DiskLimitSettings
  readonly #directory: string
  readonly #spares: SpareSegments
  #freeBytes: number | null = null

  constructor(settings: DiskLimitSettings, directory: string, spares: SpareSegments) {
    this.settings = settings
    this.#directory = directory
    this.#spares = spares
  }

  get freeBytes(): number | null {
    return this.#freeBytes
  }

  async refresh(): Promise<void> {
    const { bavail, bsize } = await statfs(this.#directory)
    this.#freeBytes = bavail * bsize
  }

  /** Why a timeline cannot have another `segments` segments; null when it can. */
  refusal(timelineBytes: number, totalBytes: number, segments: number): string | null {
    const { full } = this.#spares
    const use = { timelineBytes, totalBytes, freeBytes: this.#freeBytes, full }
    return limitRefusal(this.settings, use, segments)
  }
}
