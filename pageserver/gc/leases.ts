/**
 * Promises to readers outside: a leased LSN stays readable until its lease lapses, and while a
 * standby's horizon is held the cutoff does not pass it. Holders renew in time. Time is a
 * monotonic clock, so that setting the machine's clock lapses nothing.
 */
import type { Lsn } from '#libs/lsn.ts'

/** How long a lease lasts after it was granted or renewed. */
export const LEASE_MS = 600_000

export class Leases {
  /** LSN -> when its lease lapses. */
  readonly #points = new Map<Lsn, number>()
  readonly #horizons = new Map<string, { lsn: Lsn; untilMs: number }>()

  /** Grants or renews; a lease never gets shorter. */
  grant(lsn: Lsn, untilMs: number): void {
    this.#points.set(lsn, Math.max(untilMs, this.#points.get(lsn) ?? 0))
  }

  /** The standby reads at `lsn` or later from now on. */
  setHorizon(holder: string, lsn: Lsn, untilMs: number): void {
    this.#horizons.set(holder, { lsn, untilMs })
  }

  /** A standby that has ended needs nothing any more. */
  dropHorizon(holder: string): void {
    this.#horizons.delete(holder)
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
