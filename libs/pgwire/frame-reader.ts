/**
 * Cuts a byte stream into Postgres messages.
 *
 * ```
 * message: [tag u8] [length u32, counts itself but not the tag] [body]
 * ```
 *
 * Bytes are copied only when a message straddles two reads: then they gather in one buffer that is
 * sized for the whole message at once, so a large message costs one copy, not a copy per read.
 * A message's body is valid only during the callback.
 */
import { ZenithError } from '../errors.ts'

export type FrameHandler = (tag: number, body: Buffer) => void

export class FrameReader {
  readonly #maxBodyBytes: number
  readonly #onFrame: FrameHandler
  #partial: Buffer = Buffer.alloc(0)
  #partialLength = 0

  /** `maxBodyBytes` bounds the memory that one message can take before it is refused. */
  constructor(maxBodyBytes: number, onFrame: FrameHandler) {
    this.#maxBodyBytes = maxBodyBytes
    this.#onFrame = onFrame
  }

  /** Feeds bytes; calls back for every message that is now whole. Throws on an impossible length. */
  push(chunk: Buffer): void {
    let offset = 0
    while (this.#partialLength > 0 && offset < chunk.length) {
      const wanted = this.#partialLength < 5 ? 5 : this.#frameLength(this.#partial, 0)
      const take = Math.min(wanted - this.#partialLength, chunk.length - offset)
      this.#reserve(wanted)
      chunk.copy(this.#partial, this.#partialLength, offset, offset + take)
      this.#partialLength += take
      offset += take
      if (this.#partialLength < 5) return
      const total = this.#frameLength(this.#partial, 0)
      if (this.#partialLength === total) {
        this.#partialLength = 0
        this.#onFrame(this.#partial[0] as number, this.#partial.subarray(5, total))
      }
    }
    while (chunk.length - offset >= 5) {
      const total = this.#frameLength(chunk, offset)
      if (chunk.length - offset < total) break
      this.#onFrame(chunk[offset] as number, chunk.subarray(offset + 5, offset + total))
      offset += total
    }
    const rest = chunk.length - offset
    if (rest > 0) {
      this.#reserve(rest >= 5 ? this.#frameLength(chunk, offset) : 5)
      chunk.copy(this.#partial, 0, offset)
      this.#partialLength = rest
    }
  }

  #frameLength(buffer: Buffer, offset: number): number {
    const length = buffer.readUInt32BE(offset + 1)
    if (length < 4 || length - 4 > this.#maxBodyBytes) {
      throw new ZenithError(
        'invalid_argument',
        `a message of ${length} bytes is outside the limit of ${this.#maxBodyBytes}`,
      )
    }
    return length + 1
  }

  #reserve(size: number): void {
    if (this.#partial.length >= size) return
    const grown = Buffer.allocUnsafe(Math.max(size, 65536))
    this.#partial.copy(grown, 0, 0, this.#partialLength)
    this.#partial = grown
  }
}
