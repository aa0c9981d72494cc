/** What a simulated safekeeper knows of its WAL beside its files: where it is, and what it promised of it. */
import type { Lsn } from '#libs/lsn.ts'
import { LOG_BYTES } from './oracle.ts'

/** Whether the timeline is on this disk, as its offloading has decided. */
export interface Residence {
  readonly evicted: boolean
  /** Calls back when it is there, or could not be brought back; never when the process ends before. */
  wake(then: (isThere: boolean) => void): void
  /** What the objects hold that the control file on the medium names; null when one is missing. */
  archived(from: Lsn, to: Lsn): Buffer | null
}

/** Acknowledged bytes: they must survive whatever happens, until a new leader cuts them. */
export class AckedWal {
  readonly #startLsn: Lsn
  readonly #bytes = Buffer.alloc(LOG_BYTES)
  fromLsn: Lsn
  endLsn: Lsn

  constructor(startLsn: Lsn) {
    this.#startLsn = startLsn
    this.fromLsn = startLsn
    this.endLsn = startLsn
  }

  /** Nothing is acknowledged; a log begins there. */
  restart(lsn = this.#startLsn): void {
    this.fromLsn = lsn
    this.endLsn = lsn
  }

  /** Everything below `lsn` is acknowledged, of which `bytes` are the end. */
  add(lsn: Lsn, bytes: Buffer): void {
    const from = lsn - bytes.length
    // It may have begun to acknowledge when the oldest WAL was gone from its disk.
    if (from > this.endLsn) this.fromLsn = from
    bytes.copy(this.#bytes, from - this.#startLsn)
    this.endLsn = lsn
  }

  cut(lsn: Lsn): void {
    this.endLsn = Math.min(this.endLsn, lsn)
  }

  /** What is acknowledged from `lsn` on. */
  bytes(lsn: Lsn): Buffer {
    return this.#bytes.subarray(lsn - this.#startLsn, this.endLsn - this.#startLsn)
  }
}
