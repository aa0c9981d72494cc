/** Work that must not overlap, in the order it came. A failure is the caller's and frees the lock. */
export class Mutex {
  #last: Promise<unknown> = Promise.resolve()
  #waiting = 0

  get isHeld(): boolean {
    return this.#waiting > 0
  }

  /** Runs `work` when all that came before has ended, and gives its result. */
  run<T>(work: () => Promise<T>): Promise<T> {
    this.#waiting++
    const done = this.#last.then(work).finally(() => {
      this.#waiting--
    })
    this.#last = done.catch(() => undefined)
    return done
  }
}
