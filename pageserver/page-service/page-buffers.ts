/**
 * Buffers for pages on their way to a socket, used again and again. A fresh buffer per reply costs
 * more than reading the page: V8 counts it as external memory and collects garbage early.
 */
import { PAGE_SIZE } from '#libs/protocol/page-stream.ts'

/** Sizes in pages; a request gets the smallest that fits. */
const CLASSES = [1, 4, 16, 64] as const
const MAX_IDLE_BYTES = 32 * 1024 * 1024

export class PageBuffers {
  readonly #idle: Buffer[][] = CLASSES.map(() => [])
  #idleBytes = 0

  /** A buffer of just `count` pages, 1 to 64, with any content. */
  take(count: number): Buffer {
    const index = classOf(count)
    const buffer = this.#idle[index]?.pop()
    if (buffer) this.#idleBytes -= buffer.length
    const whole = buffer ?? Buffer.allocUnsafeSlow((CLASSES[index] as number) * PAGE_SIZE)
    return count * PAGE_SIZE === whole.length ? whole : whole.subarray(0, count * PAGE_SIZE)
  }

  /** Gives back what `take` gave; nobody may read it any more. */
  release(buffer: Buffer): void {
    const { buffer: memory } = buffer
    const whole = memory.byteLength === buffer.length ? buffer : Buffer.from(memory)
    if (this.#idleBytes + whole.length > MAX_IDLE_BYTES) return
    this.#idle[classOf(whole.length / PAGE_SIZE)]?.push(whole)
    this.#idleBytes += whole.length
  }
}

function classOf(count: number): number {
  return CLASSES.findIndex((pages) => pages >= count)
}
