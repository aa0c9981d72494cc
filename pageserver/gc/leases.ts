/**
 * Promises to readers outside: a leased LSN stays readable until its lease has lapsed, and while a
 * standby's horizon is held the cutoff does not pass it. Holders renew in time.
 *
 * A lease that has lapsed counts until it is swept, which only garbage collection does: as long as
 * nothing was removed, its holder may come back. Time is a monotonic clock, so that setting the
 * machine's clock lapses nothing.
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

  /** True while the LSN is leased. */
  has(lsn: Lsn): boolean {
    return this.#points.has(lsn)
  }

  /** Leased LSNs, ascending. */
  get points(): Lsn[] {
    return [...this.#points.keys()].sort((a, b) => a - b)
  }

  /** The lowest horizon that is held; null when there is none. */
  get horizonLsn(): Lsn | null {
    const lsns = [...this.#horizons.values()].map(({ lsn }) => lsn)
    return lsns.length === 0 ? null : Math.min(...lsns)
  }

  /** Forgets what has lapsed. */
  sweep(nowMs: number): void {
    for (const [lsn, untilMs] of this.#points) if (untilMs <= nowMs) this.#points.delete(lsn)
    for (const [holder, { untilMs }] of this.#horizons) {
      if (untilMs <= nowMs) this.#horizons.delete(holder)
    }
  }
}
