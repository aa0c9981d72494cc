/** "Wait until the LSN reaches x": many waiters, woken by one writer that only moves forward. */
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'

interface Waiter {
  lsn: Lsn
  resolve: () => void
  reject: (error: ZenithError) => void
  timer: NodeJS.Timeout
}

export class LsnWaiters {
  #waiters: Waiter[] = []
  /** Smallest LSN waited for; publishing below it costs one comparison. */
  #lowestLsn = Number.POSITIVE_INFINITY
  #closed: ZenithError | null = null

  /** `describe` says what was reached instead, for the message of a timeout. */
  wait(lsn: Lsn, timeoutMs: number, describe: () => string): Promise<void> {
    const closed = this.#closed
    if (closed) return Promise.reject(closed)
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        lsn,
        resolve,
        reject,
        timer: setTimeout(() => {
          this.#remove((other) => other === waiter)
          reject(
            new ZenithError(
              'timeout',
              `WAL up to ${formatLsn(lsn)} did not arrive within ${timeoutMs} ms; ${describe()}`,
            ),
          )
        }, timeoutMs),
      }
      this.#waiters.push(waiter)
      this.#lowestLsn = Math.min(this.#lowestLsn, lsn)
    })
  }

  /** Wakes those that wait for `lsn` or less. */
  reached(lsn: Lsn): void {
    if (lsn < this.#lowestLsn) return
    for (const waiter of this.#remove((other) => other.lsn <= lsn)) {
      clearTimeout(waiter.timer)
      waiter.resolve()
    }
  }

  /** Fails all waiters, now and later. */
  close(error: ZenithError): void {
    this.#closed = error
    for (const waiter of this.#remove(() => true)) {
      clearTimeout(waiter.timer)
      waiter.reject(error)
    }
  }

  /** Takes waiters again after `close`. */
  reopen(): void {
    this.#closed = null
  }

  #remove(which: (waiter: Waiter) => boolean): Waiter[] {
    const removed = this.#waiters.filter(which)
    this.#waiters = this.#waiters.filter((waiter) => !which(waiter))
    this.#lowestLsn = Number.POSITIVE_INFINITY
    for (const { lsn } of this.#waiters) this.#lowestLsn = Math.min(this.#lowestLsn, lsn)
    return removed
  }
}
