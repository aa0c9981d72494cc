/**
 * Memory that several threads see: one writes, the others read, without locks.
 *
 * It grows in place within reserved addresses, so that no thread ever looks at an array that has
 * moved. Typed arrays that follow a growing buffer by themselves are slow, so each thread has a view
 * of fixed length and makes it anew when it meets a place beyond.
 *
 * V8 does not count shared memory, and would collect what refers to it far too late. So each thread
 * keeps as many bytes that V8 counts beside it; they are never written, so they take no memory.
 */
const FIRST_WORDS = 2048
/** Less is not worth a counterweight. */
const WEIGHED_BYTES = 128 * 1024
const NOTHING: Uint32Array<ArrayBufferLike> = new Uint32Array(0)
const NO_DOUBLES: Float64Array<ArrayBufferLike> = new Float64Array(0)

const weights = new WeakMap<SharedArrayBuffer, { bytes: number; held: Buffer[] }>()

/** Makes V8 count the buffer in this thread, as large as it is now. */
export function weigh(buffer: SharedArrayBuffer): void {
  const weight = weights.get(buffer) ?? { bytes: 0, held: [] }
  const more = buffer.byteLength - weight.bytes
  if (more < WEIGHED_BYTES) return
  weight.bytes += more
  weight.held.push(Buffer.allocUnsafeSlow(more))
  weights.set(buffer, weight)
}

/** Words of 4 bytes, zero at first, that the writer makes more of. */
export class GrowingWords {
  readonly #maxWords: number
  #buffer: SharedArrayBuffer | null = null
  #words = NOTHING
  #doubles = NO_DOUBLES

  /** Addresses are reserved for `maxWords`, memory is taken as it grows. */
  constructor(maxWords: number) {
    this.#maxWords = maxWords
  }

  /** To be given to other threads; null while it has no words. */
  get buffer(): SharedArrayBuffer | null {
    return this.#buffer
  }

  /** Fixed in length; `doubles` are the same bytes. */
  get words(): Uint32Array<ArrayBufferLike> {
    return this.#words
  }

  get doubles(): Float64Array<ArrayBufferLike> {
    return this.#doubles
  }

  /** The words from another thread, as many as there are by now. */
  use(buffer: SharedArrayBuffer): void {
    this.#buffer = buffer
    this.refresh()
  }

  /** A view of all words that there are by now. */
  refresh(): void {
    const buffer = this.#buffer
    if (buffer === null || buffer.byteLength === this.#words.byteLength) return
    const words = buffer.byteLength / 4
    this.#words = new Uint32Array(buffer, 0, words)
    this.#doubles = new Float64Array(buffer, 0, words / 2)
    weigh(buffer)
  }

  /** The writer makes sure that there are so many words, and mostly more. */
  reserve(words: number): void {
    if (words <= this.#words.length) return
    // Writers may take turns, so another may have made more.
    this.refresh()
    if (words <= this.#words.length) return
    let capacity = Math.max(this.#words.length, FIRST_WORDS)
    while (capacity < words) capacity *= 2
    const bytes = Math.min(capacity, this.#maxWords) * 4
    if (this.#buffer === null) {
      this.#buffer = new SharedArrayBuffer(bytes, { maxByteLength: this.#maxWords * 4 })
    } else {
      this.#buffer.grow(bytes)
    }
    this.refresh()
  }
}
