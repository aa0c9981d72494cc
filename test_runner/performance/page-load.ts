/** Page requests from another thread, so that this one does nothing but serve. */
import { Worker } from 'node:worker_threads'

export interface LoadShape {
  port: number
  pages: number
  /** Requests in flight. */
  depth: number
  /** Pages in a row per request; with 1 they are asked for in scattered order. */
  perRequest: number
  /** Ask a bare server, which sends 8 KiB for each 64 bytes. */
  bare?: boolean
  /** Of a page stream. */
  command?: string
  relation?: { spc: number; db: number; rel: number; fork: number }
  /** Blocks 0 to this are asked for. */
  blocks?: number
}

export class PageLoad {
  readonly #worker = new Worker(new URL('./page-load-worker.ts', import.meta.url))

  /** Latencies in ms when one is in flight at a time, else nothing. */
  run(shape: LoadShape): Promise<Float64Array> {
    return new Promise((resolve, reject) => {
      const done = (answer: Float64Array | string) => {
        this.#worker.off('error', reject)
        if (typeof answer === 'string') reject(new Error(answer))
        else resolve(answer)
      }
      this.#worker.once('message', done)
      this.#worker.once('error', reject)
      this.#worker.postMessage(shape)
    })
  }

  async close(): Promise<void> {
    await this.#worker.terminate()
  }
}
