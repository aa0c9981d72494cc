/** The store's contract without a file: for tests and simulation of the decisions above it. */
import type { Change, Store, Versioned } from './store.ts'

export class MemoryStore implements Store {
  readonly #records = new Map<string, { text: string; version: number }>()

  async get<T>(key: string): Promise<Versioned<T> | null> {
    const record = this.#records.get(key)
    return record === undefined
      ? null
      : { key, value: JSON.parse(record.text) as T, version: record.version }
  }

  async range<T>(prefix: string): Promise<Versioned<T>[]> {
    const keys = [...this.#records.keys()].filter((key) => key.startsWith(prefix)).sort()
    return keys.map((key) => {
      const { text, version } = this.#records.get(key) as { text: string; version: number }
      return { key, value: JSON.parse(text) as T, version }
    })
  }

  async compareAndSwap(changes: readonly Change[]): Promise<boolean> {
    const same = changes.every(
      ({ key, expectedVersion }) => (this.#records.get(key)?.version ?? 0) === expectedVersion,
    )
    if (!same) return false
    for (const { key, expectedVersion, value } of changes) {
      if (value === null) this.#records.delete(key)
      else this.#records.set(key, { text: JSON.stringify(value), version: expectedVersion + 1 })
    }
    return true
  }

  async close(): Promise<void> {}
}
