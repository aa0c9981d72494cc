/** Those who wait until a flush has brought history up to some LSN. */
import type { Lsn } from '#libs/lsn.ts'

interface Waiter {
  lsn: Lsn
  resolve: () => void
  reject: (error: unknown) => void
}

export class FlushWaiters {
  #waiters: Waiter[] = []

  get isEmpty(): boolean {
    return this.#waiters.length === 0
  }

  wait(lsn: Lsn): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ lsn, resolve, reject })
    })
  }

  reached(lsn: Lsn): void {
    const reached = this.#waiters.filter((waiter) => waiter.lsn <= lsn)
    this.#waiters = this.#waiters.filter((waiter) => waiter.lsn > lsn)
    for (const { resolve } of reached) resolve()
  }

  /** False when nobody was there to be told. */
  fail(error: unknown): boolean {
    const waiters = this.#waiters
    this.#waiters = []
    for (const { reject } of waiters) reject(error)
    return waiters.length > 0
  }
}
