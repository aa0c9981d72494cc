/** A layer's chunks in their order: read in windows, the next one while this one is used. */
import { assert } from '#libs/errors.ts'
import type { Layer } from '../layers/layer.ts'

/** One file read. */
const WINDOW_CHUNKS = 8

export class ChunkReader {
  readonly #layer: Layer
  #window = -1
  #chunks: Buffer[] = []
  #next: Promise<Buffer[]> | null = null

  constructor(layer: Layer) {
    this.#layer = layer
  }

  /** The chunk if it is at hand. */
  at(chunk: number): Buffer | undefined {
    return this.#chunks[chunk - this.#window * WINDOW_CHUNKS]
  }

  /** The chunk, which lies in the current window or after it. */
  async load(chunk: number): Promise<Buffer> {
    const window = Math.floor(chunk / WINDOW_CHUNKS)
    assert(window >= this.#window, 'chunks are read in their order')
    const isNext = window === this.#window + 1
    const chunks = await ((isNext ? this.#next : null) ?? this.#read(window))
    this.#chunks = chunks
    this.#window = window
    this.#next = this.#read(window + 1)
    // Its failure is seen by the `load` that comes to it.
    this.#next.catch(() => undefined)
    return chunks[chunk - window * WINDOW_CHUNKS] as Buffer
  }

  async #read(window: number): Promise<Buffer[]> {
    const first = window * WINDOW_CHUNKS
    const end = Math.min(first + WINDOW_CHUNKS, this.#layer.index.counts.chunks)
    const numbers = Array.from({ length: Math.max(end - first, 0) }, (_, index) => first + index)
    const found = await this.#layer.readChunks(numbers)
    return numbers.map((chunk) => found.get(chunk) as Buffer)
  }
}
