/** How long each phase of a start took, from the start of the process on. */
export class PhaseClock {
  readonly #now: () => number
  #phase: string
  #since: number
  readonly #doneMs: Record<string, number> = {}

  /** `now` gives milliseconds since the process started. */
  constructor(firstPhase: string, now: () => number = () => performance.now()) {
    this.#now = now
    this.#phase = firstPhase
    this.#since = 0
  }

  enter(phase: string): void {
    const now = this.#now()
    this.#doneMs[this.#phase] = Math.round((now - this.#since) * 10) / 10
    this.#phase = phase
    this.#since = now
  }

  phasesMs(): Record<string, number> {
    return { ...this.#doneMs }
  }
}
