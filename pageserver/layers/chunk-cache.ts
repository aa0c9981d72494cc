/** Expanded chunks used lately, by layer and chunk number; bounded in bytes, oldest use first out. */

/** More chunks than a layer file can have. */
const CHUNKS_PER_LAYER = 2 ** 24

export class ChunkCache {
  readonly #maxBytes: number
  readonly #chunks = new Map<number, Buffer>()
  #bytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  get bytes(): number {
    return this.#bytes
  }

  get(layer: number, chunk: number): Buffer | undefined {
    const id = layer * CHUNKS_PER_LAYER + chunk
    const found = this.#chunks.get(id)
    if (found !== undefined) {
      this.#chunks.delete(id)
      this.#chunks.set(id, found)
    }
    return found
  }

  add(layer: number, chunk: number, bytes: Buffer): void {
    const id = layer * CHUNKS_PER_LAYER + chunk
    if (this.#chunks.has(id)) return
    this.#chunks.set(id, bytes)
    this.#bytes += bytes.length
    for (const [oldest, value] of this.#chunks) {
      if (this.#bytes <= this.#maxBytes) break
      this.#chunks.delete(oldest)
      this.#bytes -= value.length
    }
  }
}
