/**
 * What the offloaders of all timelines of a process share: the object store, WAL read back from it,
 * a bound on transfers at the same time, settings, the clock tick.
 */
import { type Static, Type } from 'typebox'
import type { Logger } from '#libs/log.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { ControlState } from '../control-state.ts'
import type { SafekeeperMetrics } from '../metrics.ts'
import type { OffloadSettings } from './offload-plan.ts'
import type { UploaderCandidate } from './uploader-choice.ts'
import { WalArchive } from './wal-archive.ts'
import { tailObject, type WalOwner, walFolder } from './wal-objects.ts'

/** For all timelines together; each may hold a buffer of a segment's size. */
const MAX_TRANSFERS = 4
const PARALLEL_SEGMENTS = 5
const TICK_MS = 1_000
const MIN_TICK_MS = 20

const Seconds = (fallback: number) => Type.Number({ minimum: 0, default: fallback })

/** Table `[offload]` of safekeeper.toml. Times are seconds. */
export const OffloadConfig = Type.Object(
  {
    /** A log that has not changed for so long has its tail copied. */
    tail_after_s: Type.Optional(Seconds(900)),
    /** A timeline that nobody has used for so long leaves the disk; 0: never. */
    evict_after_s: Type.Optional(Seconds(3600)),
    /** After so long without progress another member uploads. */
    takeover_s: Type.Optional(Seconds(30)),
  },
  { additionalProperties: false },
)
export type OffloadConfig = Static<typeof OffloadConfig>

interface Ticking {
  kick(): void
}

export class OffloadService {
  readonly store: ObjectStore
  readonly archive: WalArchive
  readonly settings: OffloadSettings
  readonly metrics: SafekeeperMetrics
  readonly log: Logger
  readonly #offloaders = new Set<Ticking>()
  readonly #timer: NodeJS.Timeout
  readonly #waiting: (() => void)[] = []
  #transfers = 0
  /** Members of a timeline that were heard of lately. */
  peersOf: (timeline: WalOwner) => readonly UploaderCandidate[] = () => []

  constructor(
    store: ObjectStore,
    config: OffloadConfig,
    options: { metrics: SafekeeperMetrics; log: Logger },
  ) {
    this.store = store
    this.metrics = options.metrics
    this.log = options.log
    this.archive = new WalArchive(store, (bytes) => this.metrics.archiveReadBytes.inc(bytes))
    const evictAfterMs = (config.evict_after_s ?? 3600) * 1000
    this.settings = {
      parallel: PARALLEL_SEGMENTS,
      tailAfterMs: (config.tail_after_s ?? 900) * 1000,
      evictAfterMs: evictAfterMs === 0 ? null : evictAfterMs,
      takeoverMs: Math.max(1, (config.takeover_s ?? 30) * 1000),
    }
    const shortest = Math.min(this.settings.tailAfterMs, evictAfterMs || TICK_MS) / 4
    const tickMs = Math.max(MIN_TICK_MS, Math.min(TICK_MS, shortest))
    this.#timer = setInterval(() => {
      for (const offloader of this.#offloaders) offloader.kick()
    }, tickMs)
    this.#timer.unref()
  }

  add(offloader: Ticking): void {
    this.#offloaders.add(offloader)
  }

  remove(offloader: Ticking): void {
    this.#offloaders.delete(offloader)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  /** Runs `transfer` when fewer than the most are running. */
  async limited<T>(transfer: () => Promise<T>): Promise<T> {
    if (this.#transfers >= MAX_TRANSFERS) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    } else this.#transfers += 1
    try {
      return await transfer()
    } finally {
      // The place goes to whoever waits longest.
      const next = this.#waiting.shift()
      if (next) next()
      else this.#transfers -= 1
    }
  }

  /** Deletes the tails of a timeline that goes from here: no other member knows of them. */
  async deleteTails(timeline: WalOwner & Pick<ControlState, 'partialBackups'>): Promise<void> {
    for (const { name } of timeline.partialBackups) {
      try {
        await this.limited(() => this.store.delete(tailObject(timeline, name)))
      } catch (error) {
        // It takes space and means nothing: whoever deletes all objects finds it too.
        this.log.warn({ err: error, name }, 'the tail of a deleted timeline stays behind')
      }
    }
  }

  /**
   * Deletes everything that a timeline has in object storage, for all its members. Only for a
   * timeline that nobody will ask for again. Returns the number of objects.
   */
  async deleteObjects(owner: WalOwner): Promise<number> {
    const { objects } = await this.store.list(walFolder(owner))
    for (const { name } of objects) await this.limited(() => this.store.delete(name))
    return objects.length
  }
}
