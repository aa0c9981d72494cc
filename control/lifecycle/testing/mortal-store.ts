/** A store for tests of crashes. */
import type { Change, Store } from '../../store/store.ts'

/** A store that ends with its process: at a certain write, and for everything after it. */
export class MortalStore implements Store {
  readonly #inner: Store
  writesLeft = Number.POSITIVE_INFINITY
  /** The last write is still stored. */
  storesLast = false
  #dead = false

  constructor(inner: Store) {
    this.#inner = inner
  }

  get<T>(key: string) {
    this.#check()
    return this.#inner.get<T>(key)
  }

  range<T>(prefix: string) {
    this.#check()
    return this.#inner.range<T>(prefix)
  }

  async compareAndSwap(changes: readonly Change[]): Promise<boolean> {
    this.#check()
    if (this.writesLeft-- > 0) return this.#inner.compareAndSwap(changes)
    this.#dead = true
    if (this.storesLast) await this.#inner.compareAndSwap(changes)
    throw new Error('the control plane has died')
  }

  async close(): Promise<void> {}

  #check(): void {
    if (this.#dead) throw new Error('the control plane has died')
  }
}
