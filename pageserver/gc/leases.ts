/**
 * Promises to readers outside: a leased LSN stays readable until its lease lapses, and while a
 * standby's horizon is held the cutoff does not pass it. Holders renew in time. Time is a
 * monotonic clock, so that setting the machine's clock lapses nothing.
 */
import type { Lsn } from '#libs/lsn.ts'

export class Leases {
  /** LSN -> when its lease lapses. */
  readonly #points = new Map<Lsn, number>()
  readonly #horizons = new Map<string, { lsn: Lsn; nextLsn: Lsn; untilMs: number }>()

  /** Grants or renews; a lease never gets shorter. */
  grant(lsn: Lsn, untilMs: number): void {
    this.#points.set(lsn, Math.max(untilMs, this.#points.get(lsn) ?? 0))
  }

  /**
   * The standby begins no read below `lsn` from now on. Reads that it began before may still be on
   * their way, so what holds is what it said the time before.
   */
  setHorizon(holder: string, lsn: Lsn, untilMs: number): void {
    const before = this.#horizons.get(holder)?.nextLsn ?? lsn
    this.#horizons.set(holder, { lsn: Math.min(before, lsn), nextLsn: lsn, untilMs })
  }

  isLive(lsn: Lsn, nowMs: number): boolean {
    return (this.#points.get(lsn) ?? 0) > nowMs
  }

  /** Leased LSNs, ascending. */
  points(nowMs: number): Lsn[] {
    return [...this.#points.keys()].filter((lsn) => this.isLive(lsn, nowMs)).sort((a, b) => a - b)
  }

  /** The lowest horizon that is held; null when there is none. */
  horizonLsn(nowMs: number): Lsn | null {
    const live = [...this.#horizons.values()].filter(({ untilMs }) => untilMs > nowMs)
    return live.length === 0 ? null : Math.min(...live.map(({ lsn }) => lsn))
  }

  /** Forgets what has lapsed. */
  sweep(nowMs: number): void {
    for (const lsn of this.#points.keys()) if (!this.isLive(lsn, nowMs)) this.#points.delete(lsn)
    for (const [holder, { untilMs }] of this.#horizons) {
      if (untilMs <= nowMs) this.#horizons.delete(holder)
    }
  }
}
