/**
 * Everything bad that happens in a run goes through here, so that it can be counted, named, and left
 * out one by one when a failing run is made smaller. A fault is named by its kind and how many of
 * its kind came before it, as `cut:12`.
 */
import type { Prng } from './prng.ts'

export class FaultKind {
  readonly name: string
  /** For what a fault of this kind needs to draw: how long, where. */
  readonly random: Prng
  readonly #faults: Faults
  #count = 0

  constructor(name: string, random: Prng, faults: Faults) {
    this.name = name
    this.random = random
    this.#faults = faults
  }

  /** Whether this opportunity becomes a fault. */
  fires(probability: number): boolean {
    if (probability === 0 || !this.#faults.active) return false
    if (!this.random.chance(probability)) return false
    return this.#faults.allows(`${this.name}:${this.#count++}`)
  }
}

export class Faults {
  readonly #random: Prng
  readonly #only: ReadonlySet<string> | null
  readonly #kinds = new Map<string, FaultKind>()
  /** False in the healed phase. */
  active = true
  readonly fired: string[] = []

  /** With `only` no other faults than these happen. */
  constructor(random: Prng, only: ReadonlySet<string> | null) {
    this.#random = random
    this.#only = only
  }

  kind(name: string): FaultKind {
    let kind = this.#kinds.get(name)
    if (kind === undefined) {
      kind = new FaultKind(name, this.#random.fork(name), this)
      this.#kinds.set(name, kind)
    }
    return kind
  }

  allows(fault: string): boolean {
    if (this.#only !== null && !this.#only.has(fault)) return false
    this.fired.push(fault)
    return true
  }
}
