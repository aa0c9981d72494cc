/** Work that excludes other work: runs one after the other, in the order asked for. */
export class Lock {
  #last: Promise<unknown> = Promise.resolve()
  #waiting = 0

  /** True while some work runs or waits. */
  get isHeld(): boolean {
    return this.#waiting > 0
  }

  /** Runs the work when all that was asked for before has ended, however it ended. */
  run<T>(work: () => Promise<T>): Promise<T> {
    this.#waiting++
    const done = this.#last.then(work)
    this.#last = done
      .catch(() => undefined)
      .finally(() => {
        this.#waiting--
      })
    return done
  }

  /** Resolves when no work runs or waits. */
  async idle(): Promise<void> {
    while (this.#waiting > 0) await this.#last
  }
}
