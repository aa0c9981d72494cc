/**
 * What of one timeline's past is kept, and what of it may be read. All decisions are synchronous,
 * so that a promise given here is seen by the next collection, and a cutoff raised here by the next
 * read: no lock is needed between them.
 *
 * The cutoff counts as soon as it is raised, before it is durable; nothing is removed before it is.
 */
import { ZenithError } from '#libs/errors.ts'
import type { TimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { Leases } from './leases.ts'
import { ReadsInFlight } from './reads-in-flight.ts'
import { retainedPoints } from './retained-points.ts'

export interface RetentionOptions {
  timelineId: TimelineId
  startLsn: () => Lsn
  /** As the manifest has it. */
  cutoffLsn: Lsn | null
  /** Points below the cutoff that were leased when it was set: those of the manifest. */
  leasedLsns: () => readonly Lsn[]
  /** Where children leave the timeline. */
  branchPoints: () => readonly Lsn[]
  /** How long a lease lasts after it was granted or renewed. */
  leaseMs: number
  /** Monotonic milliseconds; tests set their own. */
  now?: () => number
}

export class Retention {
  readonly leases = new Leases()
  /** Every read of the timeline enters and leaves. */
  readonly reads = new ReadsInFlight()
  readonly #options: RetentionOptions
  readonly #now: () => number
  readonly #holds = new Map<Lsn, number>()
  #cutoffLsn: Lsn | null

  constructor(options: RetentionOptions) {
    this.#options = options
    this.#now = options.now ?? (() => performance.now())
    this.#cutoffLsn = options.cutoffLsn
    // Their holders were served until now: they get the whole time to come back.
    for (const lsn of options.leasedLsns()) this.leases.grant(lsn, this.#now() + options.leaseMs)
  }

  /** Every state from here on can be read; null = since the timeline began. Never goes down. */
  get cutoffLsn(): Lsn | null {
    return this.#cutoffLsn
  }

  /**
   * See `retained-points.ts`. While there is no cutoff, the start of the timeline stands for it. What
   * the manifest calls leased is kept, too, for a restart grants it anew.
   */
  retainedPoints(): Lsn[] {
    return retainedPoints({
      cutoffLsn: this.#cutoffLsn ?? this.#options.startLsn(),
      branchPoints: this.#options.branchPoints(),
      leases: [...this.leases.points, ...this.#options.leasedLsns()],
      holds: [...this.#holds.keys()],
    })
  }

  /** From now on lower LSNs are read only where they are leased. */
  raiseCutoff(lsn: Lsn): void {
    this.#cutoffLsn = Math.max(lsn, this.#cutoffLsn ?? 0)
  }

  /** Throws `out_of_range` for an LSN whose state may be gone. */
  checkReadable(lsn: Lsn): void {
    if (!this.#isKept(lsn) && !this.leases.has(lsn) && !this.#holds.has(lsn)) throw this.#gone(lsn)
  }

  /** Resolves when the reads that have begun by now, below the cutoff perhaps, have ended. */
  earlierReads(): Promise<void> {
    return this.reads.earlier()
  }

  /**
   * Keeps the state at an LSN until the returned function is called; for work of several reads.
   * Throws as `checkReadable`.
   */
  hold(lsn: Lsn): () => void {
    this.checkReadable(lsn)
    this.#holds.set(lsn, (this.#holds.get(lsn) ?? 0) + 1)
    let held = true
    return () => {
      if (!held) return
      held = false
      const count = (this.#holds.get(lsn) as number) - 1
      if (count === 0) this.#holds.delete(lsn)
      else this.#holds.set(lsn, count)
    }
  }

  /**
   * Grants or renews a lease. Throws as `checkReadable`: what was swept below cannot come back. What
   * a job holds below the cutoff is no ground for a new lease: that would not outlive a restart.
   */
  lease(lsn: Lsn): void {
    if (!this.#isKept(lsn) && !this.leases.has(lsn)) throw this.#gone(lsn)
    this.leases.grant(lsn, this.#now() + this.#options.leaseMs)
  }

  /**
   * A standby reads at `lsn` and later; the cutoff stays below while it renews this. Throws
   * `out_of_range` for what lies below the cutoff already: some states from there on are gone.
   */
  holdHorizon(holder: string, lsn: Lsn): void {
    if (!this.#isKept(lsn)) throw this.#gone(lsn)
    this.leases.setHorizon(holder, lsn, this.#now() + this.#options.leaseMs)
  }

  /** How long a lease lasts after it was granted or renewed. */
  get leaseMs(): number {
    return this.#options.leaseMs
  }

  /** Forgets leases that have lapsed; what they kept may go from then on. */
  sweep(): void {
    this.leases.sweep(this.#now())
  }

  /** Leases that have not lapsed, ascending: what must be kept of them by whoever closes the timeline. */
  heldLeases(): Lsn[] {
    this.sweep()
    return this.leases.points
  }

  #isKept(lsn: Lsn): boolean {
    return this.#cutoffLsn === null || lsn >= this.#cutoffLsn
  }

  #gone(lsn: Lsn): ZenithError {
    return new ZenithError(
      'out_of_range',
      `the history of timeline ${this.#options.timelineId} at ${formatLsn(lsn)} is gone: the oldest LSN that is kept is ${formatLsn(this.#cutoffLsn ?? 0)}`,
      { hint: 'zenith tenant set --history keeps more, from now on.' },
    )
  }
}
