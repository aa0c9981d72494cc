/**
 * The end of a timeline: what was put, what of it is published, and who waits for more. LSNs only
 * grow, but for what was put and is dropped before it was published.
 */
import { ZenithError } from '#libs/errors.ts'
import type { TimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { LsnWaiters } from './lsn-waiters.ts'

export class Tip {
  readonly #timelineId: TimelineId
  readonly #waiters = new LsnWaiters()
  #recordLsn: Lsn
  #recordStartLsn: Lsn | null
  #putLsn: Lsn

  constructor(timelineId: TimelineId, recordLsn: Lsn, recordStartLsn: Lsn | null) {
    this.#timelineId = timelineId
    this.#recordLsn = recordLsn
    this.#recordStartLsn = recordStartLsn
    this.#putLsn = recordLsn
  }

  /** End of the last published record; 0 before the first. */
  get recordLsn(): Lsn {
    return this.#recordLsn
  }

  /** Start of that record; null when nobody told. */
  get recordStartLsn(): Lsn | null {
    return this.#recordStartLsn
  }

  /** True when something was put that is not published. */
  get hasUnpublished(): boolean {
    return this.#putLsn !== this.#recordLsn
  }

  /** A version is put at the LSN. Throws `internal` when it lies before others, or is published. */
  notePut(lsn: Lsn): void {
    if (lsn < this.#putLsn || lsn <= this.#recordLsn) {
      throw new ZenithError(
        'internal',
        `a version at ${formatLsn(lsn)} comes after ${formatLsn(this.#putLsn)} was put`,
      )
    }
    this.#putLsn = lsn
  }

  /** Everything up to here may be read: wakes who waits for it. Throws `internal` on a way back. */
  publish(recordLsn: Lsn, recordStartLsn: Lsn | null): void {
    if (recordLsn < this.#recordLsn) {
      throw new ZenithError(
        'internal',
        `publish went back from ${formatLsn(this.#recordLsn)} to ${formatLsn(recordLsn)}`,
      )
    }
    this.#recordLsn = recordLsn
    this.#recordStartLsn = recordStartLsn
    this.#waiters.reached(recordLsn)
  }

  /** What was put and not published is gone. */
  dropUnpublished(): void {
    this.#putLsn = this.#recordLsn
  }

  /** A timeline that nobody reads yet begins here. */
  beginAt(lsn: Lsn): void {
    this.#recordLsn = lsn
    this.#putLsn = lsn
  }

  /** Throws `timeout` when the LSN is not reached in time, or the reason of `failWaiters`. */
  async waitFor(lsn: Lsn, timeoutMs: number): Promise<void> {
    if (lsn <= this.#recordLsn) return
    await this.#waiters.wait(
      lsn,
      timeoutMs,
      () => `timeline ${this.#timelineId} is at ${formatLsn(this.#recordLsn)}`,
    )
  }

  /** Who waits, now or later, fails at once for this reason. */
  failWaiters(reason: ZenithError): void {
    this.#waiters.close(reason)
  }

  /** Waits are possible again after `failWaiters`. */
  takeWaiters(): void {
    this.#waiters.reopen()
  }
}
