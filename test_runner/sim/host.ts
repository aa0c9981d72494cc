/**
 * A simulated machine: its clock, its timers, and whether it is frozen. What is due while it is
 * frozen happens when it goes on, in order; what was due in an earlier life never happens.
 */
import type { Scheduler } from './scheduler.ts'

export interface Clock {
  offsetMs: number
  /** 1 for a perfect clock. */
  rate: number
}

export class Host {
  readonly id: number
  readonly name: string
  readonly clock: Clock
  readonly scheduler: Scheduler
  #deferred: (() => void)[] | null = null
  #pause = 0
  life = 0

  constructor(id: number, name: string, scheduler: Scheduler, clock: Clock) {
    this.id = id
    this.name = name
    this.scheduler = scheduler
    this.clock = clock
  }

  get paused(): boolean {
    return this.#deferred !== null
  }

  /** What this machine's clock shows. */
  nowMs(): number {
    return this.clock.offsetMs + this.scheduler.nowMs * this.clock.rate
  }

  /** Runs `work` now, or when the machine goes on. */
  run(work: () => void): void {
    if (this.#deferred === null) work()
    else this.#deferred.push(work)
  }

  /** Runs `work` after a while of true time, unless the machine starts another life before. */
  after(delayMs: number, work: () => void): void {
    const { life } = this
    this.scheduler.after(delayMs, () => {
      if (this.life !== life) return
      this.run(() => {
        if (this.life === life) work()
      })
    })
  }

  pause(durationMs: number): void {
    this.#deferred ??= []
    const pause = ++this.#pause
    this.scheduler.after(durationMs, () => {
      if (this.#pause === pause) this.resume()
    })
  }

  resume(): void {
    const deferred = this.#deferred ?? []
    this.#deferred = null
    for (const [index, work] of deferred.entries()) {
      // One of them may freeze or crash the machine again.
      if (this.#deferred !== null) {
        ;(this.#deferred as (() => void)[]).push(...deferred.slice(index))
        return
      }
      work()
    }
  }

  /** The end of this life: nothing scheduled in it happens any more. */
  die(): void {
    this.life += 1
    this.#pause += 1
    this.#deferred = null
  }
}
