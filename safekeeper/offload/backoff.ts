/** How long to wait before trying again: doubles with each failure, with jitter. Pure. */
const MIN_MS = 10
const MAX_MS = 5_000

export class Backoff {
  readonly #random: () => number

  /** `random` gives numbers in [0, 1). */
  constructor(random: () => number) {
    this.#random = random
  }

  /** Delay after the `failures`-th failure in a row (from 1): half fixed, half chance. */
  delayMs(failures: number): number {
    const full = Math.min(MIN_MS * 2 ** Math.min(failures, 20), MAX_MS)
    return full / 2 + (full / 2) * this.#random()
  }
}
