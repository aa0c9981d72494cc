/** Tells when all reads that began before some moment have ended. */

class Epoch {
  readers = 0
  onEmpty: (() => void) | null = null

  /** A read has ended. */
  leave(): void {
    this.readers--
    if (this.readers === 0) this.onEmpty?.()
  }
}

export class ReadsInFlight {
  #current = new Epoch()
  #earlier: Promise<unknown> = Promise.resolve()

  /** The read calls `leave` of what this gives, once, however it ends. */
  enter(): Epoch {
    this.#current.readers++
    return this.#current
  }

  /** Resolves when every read that has entered by now has left. */
  async earlier(): Promise<void> {
    const epoch = this.#current
    this.#current = new Epoch()
    const before = this.#earlier
    const empty =
      epoch.readers === 0
        ? Promise.resolve()
        : new Promise<void>((resolve) => {
            epoch.onEmpty = resolve
          })
    this.#earlier = Promise.all([before, empty])
    await this.#earlier
  }
}
