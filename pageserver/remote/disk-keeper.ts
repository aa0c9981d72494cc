/**
 * Keeps the disk from filling: when it is used beyond a watermark, local files of layers that are
 * in object storage go, the least useful first. Reads of them go on, from object storage.
 *
 * Some room is made beyond the watermark, so that files which are used again can come back; what is
 * used least makes way for them.
 */
import { stat, statfs } from 'node:fs/promises'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Layer } from '../layers/layer.ts'
import type { LayerMap } from '../layers/layer-map.ts'
import { LayerKind } from '../layers/layer-name.ts'
import type { AccessTimes } from './access-times.ts'
import { coveredLayers, type EvictionCandidate, planEviction } from './eviction-plan.ts'

const MIB = 1024 * 1024

export const DEFAULT_DISK = {
  /** Of the file system, by whomever it is used. */
  maxUsagePercent: 90,
  minFreeBytes: 1024 * MIB,
  /** All layer files of the page server together; null: no bound of their own. */
  maxBytes: null as number | null,
  /** So much of what each tenant used last stays. */
  tenantFloorBytes: 64 * MIB,
  /** Room made beyond a watermark, as a part of the disk or of `maxBytes`. */
  headroom: 0.05,
}
export type DiskSettings = typeof DEFAULT_DISK

/** A timeline's layers as the keeper sees them. */
export interface KeptTimeline {
  tenantId: string
  timelineId: string
  layers: LayerMap
  retainedPoints: readonly Lsn[]
}

export interface DiskStats {
  residentBytes: number
  evictedFiles: number
  evictedBytes: number
  /** Bytes above the watermark that nothing could be found to evict for. */
  shortBytes: number
}

export interface DiskKeeperOptions {
  folder: string
  settings: DiskSettings
  timelines: () => Iterable<KeptTimeline>
  accesses: AccessTimes | null
  log: Logger
}

interface Candidate extends EvictionCandidate {
  timelineId: string
  layer: Layer
}

export class DiskKeeper {
  readonly #options: DiskKeeperOptions
  #roomBytes = Number.POSITIVE_INFINITY
  /** A file could not be fetched since there was no room for it. */
  #isWanted = false
  #running: Promise<void> | null = null
  #residentBytes = 0
  #evictedFiles = 0
  #evictedBytes = 0
  #shortBytes = 0

  constructor(options: DiskKeeperOptions) {
    this.#options = options
  }

  get stats(): DiskStats {
    return {
      residentBytes: this.#residentBytes,
      evictedFiles: this.#evictedFiles,
      evictedBytes: this.#evictedBytes,
      shortBytes: this.#shortBytes,
    }
  }

  /** Whether a file of this size may be fetched; if not, room is made by and by. */
  hasRoom(bytes: number): boolean {
    if (bytes <= this.#roomBytes) return true
    this.#isWanted = true
    return false
  }

  /** So many bytes more are on disk since the last look. */
  took(bytes: number): void {
    this.#roomBytes -= bytes
  }

  /** Looks at the disk, and makes room when there is too little. Called every some seconds. */
  run(): Promise<void> {
    return this.#exclusively(async () => {
      this.#saveAccesses()
      await this.#makeRoom(0, this.#options.settings.tenantFloorBytes)
    })
  }

  /** A write found the disk full: makes room for so many bytes, whatever it was used for last. */
  relieve(bytes: number): Promise<void> {
    return this.#exclusively(() => this.#makeRoom(bytes, 0))
  }

  async #exclusively(work: () => Promise<void>): Promise<void> {
    while (this.#running) await this.#running
    this.#running = work()
      .catch((error: unknown) => {
        this.#options.log.error(`no room could be made on disk: ${errorMessage(error)}`)
      })
      .finally(() => {
        this.#running = null
      })
    await this.#running
  }

  async #makeRoom(neededBytes: number, floorBytes: number): Promise<void> {
    this.#residentBytes = this.#sumResident()
    const { roomBytes, headroomBytes, isFileSystem } = await this.#look()
    this.#roomBytes = roomBytes
    const wanted = this.#isWanted ? headroomBytes : 0
    this.#isWanted = false
    if (neededBytes === 0 && roomBytes >= wanted) {
      this.#shortBytes = 0
      return
    }
    const bytesToFree = Math.max(neededBytes, headroomBytes - roomBytes)
    const candidates = this.#candidates()
    // Files that object storage shares with us take no room of their own.
    const frees = isFileSystem || neededBytes > 0 ? await ofTheirOwn(candidates) : candidates
    const freed = await this.#evict(planEviction(frees, { bytesToFree, floorBytes }))
    this.#roomBytes = roomBytes + freed
    this.#shortBytes = Math.max(0, -this.#roomBytes)
  }

  #sumResident(): number {
    let sum = 0
    for (const { layers } of this.#options.timelines()) {
      sum += layers.residentBytes
    }
    return sum
  }

  /** Room below the tightest watermark; negative above it. */
  async #look(): Promise<{ roomBytes: number; headroomBytes: number; isFileSystem: boolean }> {
    const { folder, settings } = this.#options
    const { bsize, blocks, bfree, bavail } = await statfs(folder)
    const totalBytes = blocks * bsize
    const usedBytes = (blocks - bfree) * bsize
    const fileSystemRoom = Math.min(
      (totalBytes * settings.maxUsagePercent) / 100 - usedBytes,
      bavail * bsize - settings.minFreeBytes,
    )
    const ownRoom =
      settings.maxBytes === null
        ? Number.POSITIVE_INFINITY
        : settings.maxBytes - this.#residentBytes
    const isFileSystem = fileSystemRoom < ownRoom
    const bound = isFileSystem ? totalBytes : (settings.maxBytes ?? totalBytes)
    return {
      roomBytes: Math.min(fileSystemRoom, ownRoom),
      headroomBytes: bound * settings.headroom,
      isFileSystem,
    }
  }

  #candidates(): Candidate[] {
    const candidates: Candidate[] = []
    for (const { tenantId, timelineId, layers, retainedPoints } of this.#options.timelines()) {
      const { shapes } = layers
      const covered = coveredLayers(
        shapes.map(({ id }) => ({ ...id, isImage: id.kind === LayerKind.Image })),
        retainedPoints,
      )
      const isCoveredRow = new Set<number>()
      for (const [index, { row }] of shapes.entries()) if (covered[index]) isCoveredRow.add(row)
      for (const layer of layers.resident()) {
        if (layer.isOnlyCopy) continue
        const { sizeBytes, lastAccessMs, endLsn } = layer
        const isCovered = isCoveredRow.has(layer.row)
        candidates.push({ tenantId, timelineId, layer, sizeBytes, lastAccessMs, endLsn, isCovered })
      }
    }
    return candidates
  }

  async #evict(chosen: readonly Candidate[]): Promise<number> {
    const { accesses, log } = this.#options
    let freed = 0
    for (const { layer, sizeBytes, tenantId, timelineId } of chosen) {
      await layer.evict()
      accesses?.forget(`${tenantId}/${timelineId}`, layer)
      freed += sizeBytes
      this.#evictedFiles++
    }
    this.#evictedBytes += freed
    this.#residentBytes -= freed
    if (chosen.length > 0) log.info({ files: chosen.length, bytes: freed }, 'evicted layer files')
    return freed
  }

  #saveAccesses(): void {
    const { accesses, timelines } = this.#options
    if (!accesses) return
    for (const { tenantId, timelineId, layers } of timelines()) {
      const used = layers.takeAccessed().filter((layer) => layer.isResident)
      accesses.save(`${tenantId}/${timelineId}`, used)
    }
  }
}

/** Those whose files no other name shares. */
async function ofTheirOwn(candidates: readonly Candidate[]): Promise<Candidate[]> {
  const links = await Promise.all(
    candidates.map(({ layer }) =>
      stat(layer.path).then(
        ({ nlink }) => nlink,
        () => 0,
      ),
    ),
  )
  return candidates.filter((_, index) => links[index] === 1)
}
