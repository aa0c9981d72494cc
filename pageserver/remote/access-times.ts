/**
 * When layers were last read, kept over restarts: in minutes, and written now and then, since only
 * the choice of what to evict depends on it.
 */
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import type { LocalState } from './local-state.ts'

const MINUTE_MS = 60_000
/** Sorts after every file name. */
const AFTER = '~'

export interface AccessedLayer {
  readonly fileName: string
  readonly lastAccessMs: number
}

export interface AccessedFiles {
  /** False when there is no such file. */
  noteAccess(fileName: string, timeMs: number): boolean
}

export class AccessTimes {
  readonly #table: LocalState['accesses']
  readonly #log: Logger
  readonly #stored = new WeakMap<AccessedLayer, number>()

  constructor(state: LocalState, log: Logger) {
    this.#table = state.accesses
    this.#log = log
  }

  /** Gives the layers of a folder their times; those of files that are not there are forgotten. */
  load(folder: string, layers: AccessedFiles): void {
    const start = `${folder}/`
    for (const { key, value } of this.#table.getRange({ start, end: start + AFTER })) {
      const isThere = layers.noteAccess(key.slice(start.length), value * MINUTE_MS)
      if (!isThere) this.#ignoring(this.#table.remove(key))
    }
  }

  /** Stores what changed by a minute or more. */
  save(folder: string, layers: Iterable<AccessedLayer>): void {
    for (const layer of layers) {
      const minute = Math.floor(layer.lastAccessMs / MINUTE_MS)
      if (minute <= (this.#stored.get(layer) ?? 0)) continue
      this.#stored.set(layer, minute)
      this.#ignoring(this.#table.put(`${folder}/${layer.fileName}`, minute))
    }
  }

  /** The layer's local file is gone. */
  forget(folder: string, layer: AccessedLayer): void {
    this.#stored.delete(layer)
    this.#ignoring(this.#table.remove(`${folder}/${layer.fileName}`))
  }

  /** Nothing of a timeline, or of a whole tenant, is on local disk any more. */
  forgetAll(folder: string): void {
    const start = `${folder}/`
    for (const key of this.#table.getKeys({ start, end: start + AFTER })) {
      this.#ignoring(this.#table.remove(key))
    }
  }

  #ignoring(write: Promise<boolean>): void {
    write.catch((error: unknown) => {
      this.#log.warn(`times of use cannot be stored: ${errorMessage(error)}`)
    })
  }
}
