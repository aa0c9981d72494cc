/**
 * Slows down addresses from which wrong tokens come: the answer to a failure waits longer the more
 * there were of late. Good tokens never wait, so that a stranger on the same address (everything on
 * loopback is one) cannot keep anybody out. Pure: time is given.
 */

const FREE_FAILURES = 5
const FIRST_DELAY_MS = 100
const MAX_DELAY_MS = 5_000
/** Each failure is forgotten after so long. */
const FORGET_MS = 10_000
const MAX_ADDRESSES = 10_000

export class FailedLogins {
  /** Failures that are not forgotten, as a level that leaks; by address, last failed last. */
  readonly #levels = new Map<string, { level: number; atMs: number }>()

  /** Counts a failure; returns how long its answer must wait, in milliseconds. */
  failed(address: string, nowMs: number): number {
    const before = this.#levels.get(address)
    const leaked = before === undefined ? 0 : (nowMs - before.atMs) / FORGET_MS
    const level = Math.max(0, (before?.level ?? 0) - leaked) + 1
    this.#levels.delete(address)
    this.#levels.set(address, { level, atMs: nowMs })
    if (this.#levels.size > MAX_ADDRESSES) {
      const [oldest] = this.#levels.keys()
      this.#levels.delete(oldest as string)
    }
    if (level <= FREE_FAILURES) return 0
    return Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(level - FREE_FAILURES, 10))
  }
}
