/**
 * Whether a write is made by the event loop itself instead of the thread pool. Handing a write over
 * and hearing of its end costs two wake-ups, of about as long as a quick disk takes for the write.
 * Waiting in the loop saves them, but makes everything else wait too. So it is done only while one
 * timeline alone writes, in small pieces, to a disk that has been quick of late.
 */

/** More would keep the loop from reading what else has come. */
const MAX_BYTES = 64 * 1024
/** A disk is quick while its writes take less than this on average over about the last 16. */
const QUICK_US = 400
const WEIGHT = 1 / 16
/** One stall does not say more than this. */
const MAX_SAMPLE_US = 4_000

/** Another timeline's write counts for so long. */
const ALONE_MS = 1_000

export class InlineRule {
  #averageUs = MAX_SAMPLE_US
  #writer: object | null = null
  /** Until when more than one timeline counts as writing. */
  #sharedUntilMs = 0

  /** Asked before each write of `writer`, with the time of a clock that never jumps. */
  applies(writer: object, bytes: number, nowMs: number): boolean {
    if (this.#writer !== writer) {
      if (this.#writer !== null) this.#sharedUntilMs = nowMs + ALONE_MS
      this.#writer = writer
    }
    return this.#averageUs < QUICK_US && bytes <= MAX_BYTES && nowMs >= this.#sharedUntilMs
  }

  /** Told how long each write took. */
  took(us: number): void {
    this.#averageUs += (Math.min(us, MAX_SAMPLE_US) - this.#averageUs) * WEIGHT
  }
}
