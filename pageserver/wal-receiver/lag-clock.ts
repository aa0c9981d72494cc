/**
 * How far a timeline is behind what safekeepers have committed, in bytes and in time: the age of the
 * oldest WAL that was not taken in, from when we heard that it is there. Pure.
 */
import type { Lsn } from '#libs/lsn.ts'

/** Past this many, every other mark goes: ages become coarser, the oldest stays. */
const MAX_MARKS = 128

export interface Lag {
  bytes: number
  ms: number
}

export class LagClock {
  /** Ends of committed WAL, rising, and when each was heard of first. */
  #marks: { lsn: Lsn; atMs: number }[] = []

  /** Safekeepers have committed WAL up to `commitLsn`; an end that is known already says nothing. */
  heard(commitLsn: Lsn, nowMs: number): void {
    if (commitLsn <= (this.#marks.at(-1)?.lsn ?? 0)) return
    this.#marks.push({ lsn: commitLsn, atMs: nowMs })
    if (this.#marks.length <= MAX_MARKS) return
    const last = this.#marks.length - 1
    this.#marks = this.#marks.filter((_, index) => index === last || index % 2 === 0)
  }

  /** As of now, having taken in WAL up to `reachedLsn`. Null before anything was heard. */
  lag(reachedLsn: Lsn, nowMs: number): Lag | null {
    const end = this.#marks.at(-1)
    if (end === undefined) return null
    // The last one stays: it is what is known to be there.
    const oldest = this.#marks.findIndex(({ lsn }) => lsn > reachedLsn)
    this.#marks = oldest === -1 ? [end] : this.#marks.slice(oldest)
    const [first] = this.#marks
    if (oldest === -1 || first === undefined) return { bytes: 0, ms: 0 }
    return { bytes: end.lsn - reachedLsn, ms: Math.round(Math.max(nowMs - first.atMs, 0)) }
  }
}
