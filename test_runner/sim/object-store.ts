/**
 * Object storage whose answers cannot be relied on: a request may fail after it was done, before, or
 * be done long after it was given up, even after a deletion of the same name. A name is written once.
 * One object at a time may rot where it lies.
 */
import type { Coverage } from './coverage.ts'
import type { FaultKind, Faults } from './faults.ts'
import type { Prng } from './prng.ts'
import type { Scheduler } from './scheduler.ts'

const MAX_DELAY_MS = 200
const LATE_MS = 5000

export class SimObjectStore {
  readonly #objects = new Map<string, Buffer>()
  readonly #scheduler: Scheduler
  readonly #random: Prng
  readonly #coverage: Coverage
  readonly #fault: FaultKind
  readonly #failChance: number
  #rot: { name: string; original: Buffer } | null = null

  constructor(options: {
    scheduler: Scheduler
    random: Prng
    faults: Faults
    coverage: Coverage
    failChance: number
  }) {
    this.#scheduler = options.scheduler
    this.#random = options.random
    this.#coverage = options.coverage
    this.#fault = options.faults.kind('object-store-error')
    this.#failChance = options.failChance
  }

  /** What is there at this moment, for the oracle. */
  peek(name: string): Buffer | null {
    return this.#objects.get(name) ?? null
  }

  /** Name of the object that is not what was written; null while all are. */
  get rotten(): string | null {
    return this.#rot?.name ?? null
  }

  /** The object holds other bytes from now on, until it is repaired or deleted. */
  rot(name: string, bytes: Buffer): void {
    this.#rot = { name, original: this.#objects.get(name) as Buffer }
    this.#objects.set(name, bytes)
  }

  /** An operator puts the right bytes back. */
  repair(): void {
    if (this.#rot !== null) this.#objects.set(this.#rot.name, this.#rot.original)
    this.#rot = null
  }

  /** What was written under the name, rotten or not, for the oracle. */
  peekOriginal(name: string): Buffer | null {
    return this.#rot?.name === name ? this.#rot.original : this.peek(name)
  }

  put(
    name: string,
    bytes: Buffer,
    answer: (outcome: 'stored' | 'exists' | 'unknown') => void,
  ): void {
    const store = (): 'stored' | 'exists' => {
      if (this.#objects.has(name)) return 'exists'
      this.#objects.set(name, bytes)
      return 'stored'
    }
    this.#request<'stored' | 'exists' | 'unknown'>(store, answer, () => 'unknown')
  }

  get(name: string, answer: (bytes: Buffer | null | 'unknown') => void): void {
    this.#request<Buffer | null | 'unknown'>(
      () => this.peek(name),
      answer,
      () => 'unknown',
    )
  }

  delete(name: string, answer: (done: boolean) => void): void {
    const remove = (): boolean => {
      this.#objects.delete(name)
      if (this.#rot?.name === name) this.#rot = null
      return true
    }
    this.#request(remove, answer, () => false)
  }

  #request<T>(act: () => T, answer: (result: T) => void, failed: () => T): void {
    const delayMs = this.#random.next() * MAX_DELAY_MS
    if (!this.#fault.fires(this.#failChance)) {
      this.#scheduler.after(delayMs, () => answer(act()))
      return
    }
    const { random } = this.#fault
    this.#scheduler.after(delayMs, () => answer(failed()))
    const fate = random.int(0, 2)
    if (fate === 0) return
    this.#coverage.count(fate === 1 ? 'requests done in secret' : 'requests done late')
    this.#scheduler.after(fate === 1 ? delayMs / 2 : random.next() * LATE_MS, () => void act())
  }
}
