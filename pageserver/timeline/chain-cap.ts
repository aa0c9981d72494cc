/**
 * Bounds the work of a read: when a key's chain of records passes the cap, its page is built in the
 * background at the published tip and kept in the open layer beside the records.
 *
 * Failure costs only speed. A key comes back each time its chain grows by another cap, so a lost
 * image is made good later.
 */
import type { Logger } from '#libs/log.ts'
import { errorMessage } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { OpenLayer } from '../layers/open-layer.ts'

/** Keys built together; the redo pool works on them at once. */
const BATCH_KEYS = 32

export interface ChainCapOptions {
  /** The page of each key at an LSN; null where there is none. */
  build: (keys: { slot: number; blk: number }[], lsn: Lsn) => Promise<(Buffer | null)[]>
  currentLayer: () => OpenLayer
  lastRecordLsn: () => Lsn
  log: Logger
}

export class ChainCap {
  readonly #options: ChainCapOptions
  #layer: OpenLayer | null = null
  #keys = new Set<number>()
  #running: Promise<void> | null = null
  #stopped = false

  constructor(options: ChainCapOptions) {
    this.#options = options
  }

  /** A key of the open layer has passed the cap. */
  note(layer: OpenLayer, key: number): void {
    if (layer !== this.#layer) {
      this.#layer = layer
      this.#keys = new Set()
    }
    this.#keys.add(key)
  }

  /** Called after a publish; starts work when there is some. */
  kick(): void {
    if (this.#keys.size === 0 || this.#running || this.#stopped) return
    this.#running = this.#run().finally(() => {
      this.#running = null
    })
  }

  /** Resolves when what was noted has been built; for tests and for shutdown. */
  async idle(): Promise<void> {
    await this.#running
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
  }

  async #run(): Promise<void> {
    while (this.#keys.size > 0 && !this.#stopped) {
      // Let the publisher finish its turn: several records of a hot page often come together.
      await new Promise<void>((resolve) => setImmediate(resolve))
      const layer = this.#options.currentLayer()
      const lsn = this.#options.lastRecordLsn()
      const keys = [...this.#keys].slice(0, BATCH_KEYS)
      for (const key of keys) this.#keys.delete(key)
      if (layer !== this.#layer || lsn < layer.startLsn) continue
      await this.#build(layer, keys, lsn)
    }
  }

  async #build(layer: OpenLayer, keys: number[], lsn: Lsn): Promise<void> {
    const refs = keys.map((key) => ({ slot: layer.keySlot(key), blk: layer.keyBlk(key) }))
    try {
      const pages = await this.#options.build(refs, lsn)
      if (this.#options.currentLayer() !== layer) return
      for (const [index, page] of pages.entries()) {
        const ref = refs[index]
        if (page && ref) layer.putOwnImage(ref.slot, ref.blk, lsn, page)
      }
    } catch (error) {
      this.#options.log.warn({ error: errorMessage(error) }, 'a page image could not be built')
    }
  }
}
