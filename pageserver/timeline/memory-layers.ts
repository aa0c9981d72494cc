/**
 * The layers of a timeline that are in memory: one that takes in versions, and those that are frozen
 * until their files are written.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { LayerMemory } from '../layers/layer-memory.ts'
import { OpenLayer } from '../layers/open-layer.ts'

export interface FrozenLayer {
  memory: OpenLayer
  endLsn: Lsn
  prevRecordLsn: Lsn | null
}

export class MemoryLayers {
  #open: OpenLayer
  /** Oldest first. */
  #frozen: FrozenLayer[] = []
  #all: readonly OpenLayer[]
  readonly #memory: LayerMemory

  /** `memory` is where theirs comes from, and goes to when they are written. */
  constructor(startLsn: Lsn, memory: LayerMemory) {
    this.#memory = memory
    this.#open = new OpenLayer(startLsn, this.#memory)
    this.#all = [this.#open]
  }

  get open(): OpenLayer {
    return this.#open
  }

  /** Open layer, then frozen ones, newest first; another array after each change. */
  get all(): readonly OpenLayer[] {
    return this.#all
  }

  get frozenCount(): number {
    return this.#frozen.length
  }

  /** The one to be written next. */
  get oldestFrozen(): FrozenLayer | null {
    return this.#frozen[0] ?? null
  }

  /** Starts a new open layer; what lies above `lastRecordLsn` moves to it. */
  freeze(lastRecordLsn: Lsn, prevRecordLsn: Lsn | null): void {
    if (lastRecordLsn < this.#open.startLsn) return
    const memory = this.#open
    const open = new OpenLayer(lastRecordLsn + 1, this.#memory)
    memory.moveUnpublished(lastRecordLsn, open)
    this.#frozen.push({ memory, endLsn: lastRecordLsn + 1, prevRecordLsn })
    this.#setOpen(open)
  }

  /** As `freeze`, but what lies above `lastRecordLsn` is forgotten. */
  dropUnpublished(lastRecordLsn: Lsn, prevRecordLsn: Lsn | null): void {
    this.freeze(lastRecordLsn, prevRecordLsn)
    this.#setOpen(new OpenLayer(this.#open.startLsn, this.#memory))
  }

  /** The oldest frozen layer is in the layer map now; nobody writes it any more. */
  dropWritten(frozen: FrozenLayer): void {
    assert(this.#frozen[0] === frozen, 'frozen layers are flushed in order')
    this.#frozen.shift()
    this.#setOpen(this.#open)
    frozen.memory.release()
  }

  #setOpen(open: OpenLayer): void {
    this.#open = open
    this.#all = [open, ...this.#frozen.map(({ memory }) => memory).reverse()]
  }
}
