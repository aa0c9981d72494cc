/**
 * Connections between proposers and safekeepers: ordered within one, each message with its own
 * delay, so that messages of different connections overtake each other. A connection can break at
 * any message (both ends learn it later, each in its own time) and can clog for seconds.
 */
import type { Prng } from './prng.ts'
import type { Scheduler } from './scheduler.ts'

export interface NetworkOptions {
  minDelayMs: number
  maxDelayMs: number
  /** Per message. */
  breakChance: number
  clogChance: number
}

export interface Endpoint {
  receive(bytes: Buffer): void
  broken(): void
}

export class Connection {
  readonly #scheduler: Scheduler
  readonly #random: Prng
  readonly #options: NetworkOptions
  readonly #ends: [Endpoint, Endpoint]
  readonly #arrivesMs: [number, number] = [0, 0]
  #isBroken = false

  constructor(
    scheduler: Scheduler,
    random: Prng,
    options: NetworkOptions,
    ends: [Endpoint, Endpoint],
  ) {
    this.#scheduler = scheduler
    this.#random = random
    this.#options = options
    this.#ends = ends
  }

  /** Sends from end `from` (0 or 1) to the other. */
  send(from: 0 | 1, bytes: Buffer): void {
    if (this.#isBroken) return
    const random = this.#random
    const { minDelayMs, maxDelayMs, breakChance, clogChance } = this.#options
    if (random.chance(breakChance)) {
      this.break()
      return
    }
    let delayMs = minDelayMs + random.next() * (maxDelayMs - minDelayMs)
    if (random.chance(clogChance)) delayMs += random.next() * 15_000
    const arrivesMs = Math.max(this.#arrivesMs[from], this.#scheduler.nowMs + delayMs)
    this.#arrivesMs[from] = arrivesMs
    this.#scheduler.after(arrivesMs - this.#scheduler.nowMs, () => {
      if (!this.#isBroken) this.#ends[1 - from]?.receive(bytes)
    })
  }

  /** Messages under way are lost; the ends learn it some time later. */
  break(): void {
    if (this.#isBroken) return
    this.#isBroken = true
    for (const end of this.#ends) {
      this.#scheduler.after(this.#random.next() * 1500, () => end.broken())
    }
  }
}
