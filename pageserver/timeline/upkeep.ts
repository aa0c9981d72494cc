/**
 * When the open layer is frozen and written: once it is large, long, old, or the WAL pauses. A pause
 * is used to make reads cheap, too.
 */
import { MAX_KEYS } from '../layers/key-table.ts'
import type { TimelineCompaction } from '../compaction/timeline-compaction.ts'
import type { LayerStore } from './layer-store.ts'
import type { StorageContext } from './storage-context.ts'
import type { Tip } from './tip.ts'

export interface UpkeepOptions {
  store: LayerStore
  tip: Tip
  compaction: TimelineCompaction
  limits: StorageContext['limits']
  /** Background work failed; it will be tried again. */
  onFailed: (error: unknown, what: string) => void
}

/** With less WAL than this from one tick to the next a timeline counts as idle. */
const IDLE_WAL_BYTES = 256 * 1024
/** Leaves room for the puts of one batch before the hard limit. */
const ROLL_KEYS = MAX_KEYS * 0.75

export class Upkeep {
  readonly #options: UpkeepOptions
  /** When the open layer was first seen to hold data; 0 = it is empty. */
  #openSinceMs = 0
  #lastTickLsn = 0
  #stopped = false

  constructor(options: UpkeepOptions) {
    this.#options = options
  }

  /** Freezes what is published. */
  freeze(): void {
    const { store, tip } = this.#options
    this.openIsNew()
    store.freeze(tip.recordLsn, tip.recordStartLsn)
  }

  /** Freezes, and writes it in the background. */
  roll(): void {
    this.freeze()
    this.#options.store.startFlush()
  }

  /** Called after each publish. */
  rollWhenFull(): void {
    const { store, tip, limits } = this.#options
    const { open } = store
    if (
      open.sizeBytes >= limits.rollSizeBytes ||
      tip.recordLsn - open.startLsn >= limits.rollDistanceBytes ||
      open.keyCount >= ROLL_KEYS
    ) {
      this.roll()
    }
  }

  /** The open layer was replaced by an empty one. */
  openIsNew(): void {
    this.#openSinceMs = 0
  }

  /** As `Timeline.tick`. */
  tick(nowMs: number): void {
    const { store, tip, limits } = this.#options
    const { open } = store
    const isIdle = tip.recordLsn - this.#lastTickLsn < IDLE_WAL_BYTES
    this.#lastTickLsn = tip.recordLsn
    if (isIdle && open.sizeBytes >= limits.idleBytes) this.roll()
    else if (isIdle && store.layers.aboveImages.replayBytes >= limits.idleBytes) this.#makeImages()
    if (open.versionCount === 0) this.#openSinceMs = 0
    else if (this.#openSinceMs === 0) this.#openSinceMs = nowMs
    else if (nowMs - this.#openSinceMs >= limits.rollAgeMs) this.roll()
    store.startFlush()
    void store.confirm()
  }

  /** The timeline closes: nothing new is begun. */
  stop(): void {
    this.#stopped = true
  }

  #makeImages(): void {
    const { store, compaction, onFailed } = this.#options
    if (this.#stopped || compaction.lock.isHeld || !store.mayWrite || store.isDraft) return
    compaction.makeImages().catch((error: unknown) => onFailed(error, 'image creation'))
  }
}
