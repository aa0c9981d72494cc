/**
 * Has frozen layers written in a thread of its own, so that sorting, compression and writing cost
 * the event loop nothing.
 *
 * The thread is started at the first layer and kept. When it dies its layers fail, which are still in
 * memory; the next attempt starts a new thread.
 */
import { Worker } from 'node:worker_threads'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { LayerEntry } from '../layers/layer.ts'
import type { OpenLayer } from '../layers/open-layer.ts'
import type { DeltaFile, DeltaFiles } from '../timeline/delta-writer.ts'
import type { FlushAnswer, FlushRequest } from './flush-message.ts'
import { SYNC_FAILED } from './sync-failed.ts'
import { unpackError } from './thread-error.ts'

const WORKER_SCRIPT = new URL('./flush-worker.ts', import.meta.url)

interface Waiting {
  /** What the thread reads: its memory must not go to another layer meanwhile. */
  memory: OpenLayer
  resolve: (entry: LayerEntry | null) => void
  reject: (error: unknown) => void
}

export class FlushThread implements DeltaFiles {
  readonly #script: URL
  #worker: Worker | null = null
  #lastId = 0
  readonly #waiting = new Map<number, Waiting>()

  /** `script` is what the thread runs. */
  constructor(script = WORKER_SCRIPT) {
    this.#script = script
  }

  write(memory: OpenLayer, file: DeltaFile): Promise<LayerEntry | null> {
    const { slots, ...rest } = file
    const worker = (this.#worker ??= this.#start())
    const id = ++this.#lastId
    const request: FlushRequest = {
      id,
      ...rest,
      layer: memory.describe(),
      slots: slots.describe(),
    }
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { memory, resolve, reject })
      worker.postMessage(request)
    })
  }

  /** Layers under way fail. */
  async close(): Promise<void> {
    await this.#worker?.terminate()
  }

  #start(): Worker {
    const worker = new Worker(this.#script)
    // The page server ends when its own work has ended.
    worker.unref()
    let reason = 'it ended'
    worker.on('message', ({ id, entry, error }: FlushAnswer) => {
      const waiting = this.#waiting.get(id)
      this.#waiting.delete(id)
      if (error) waiting?.reject(unpackError(error))
      else waiting?.resolve(entry)
    })
    worker.on('error', (error) => {
      reason = errorMessage(error)
    })
    worker.on('exit', (code) => {
      if (code === SYNC_FAILED) process.exit(SYNC_FAILED)
      if (this.#worker === worker) this.#worker = null
      const gone = new ZenithError('unavailable', `the flush thread is gone: ${reason}`)
      for (const { reject } of this.#waiting.values()) reject(gone)
      this.#waiting.clear()
    })
    return worker
  }
}
