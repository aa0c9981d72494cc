/** The store of a single control plane: one LMDB file. Writes are on disk when they are answered. */
import { open, type RootDatabase } from 'lmdb'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Change, Store, Versioned } from './store.ts'

/** Sorts after every key that starts with the prefix: keys are ASCII. */
const AFTER_ASCII = '\u{10ffff}'

export class LmdbStore implements Store {
  readonly #db: RootDatabase<unknown, string>

  private constructor(db: RootDatabase<unknown, string>) {
    this.#db = db
  }

  static open(folder: string): LmdbStore {
    mkdirSync(folder, { recursive: true })
    // A commit resolves after its own sync: with overlapping syncs a power cut may take back a
    // commit that a later reader has already seen.
    const db = open<unknown, string>({
      path: join(folder, 'control.mdb'),
      encoding: 'json',
      useVersions: true,
      overlappingSync: false,
    })
    return new LmdbStore(db)
  }

  async get<T>(key: string): Promise<Versioned<T> | null> {
    const entry = this.#db.getEntry(key)
    return entry === undefined
      ? null
      : { key, value: entry.value as T, version: entry.version as number }
  }

  async range<T>(prefix: string): Promise<Versioned<T>[]> {
    const entries = this.#db.getRange({ start: prefix, end: prefix + AFTER_ASCII, versions: true })
    return [...entries].map(({ key, value, version }) => ({
      key,
      value: value as T,
      version: version as number,
    }))
  }

  async compareAndSwap(changes: readonly Change[]): Promise<boolean> {
    const done = await this.#swap(changes)
    await this.#db.flushed
    return done
  }

  #swap(changes: readonly Change[]): Promise<boolean> {
    const [first] = changes
    // One record needs no transaction, for which the thread that writes has to come back to ours.
    if (first !== undefined && changes.length === 1) return this.#swapOne(first)
    return this.#db.transaction(() => {
      for (const { key, expectedVersion } of changes) {
        if ((this.#db.getEntry(key)?.version ?? 0) !== expectedVersion) return false
      }
      for (const { key, expectedVersion, value } of changes) {
        if (value === null) void this.#db.remove(key)
        else void this.#db.put(key, value, expectedVersion + 1)
      }
      return true
    })
  }

  #swapOne({ key, expectedVersion, value }: Change): Promise<boolean> {
    const write = () => {
      if (value === null) void this.#db.remove(key)
      else void this.#db.put(key, value, expectedVersion + 1)
    }
    return expectedVersion === 0
      ? this.#db.ifNoExists(key, write)
      : this.#db.ifVersion(key, expectedVersion, write)
  }

  close(): Promise<void> {
    return this.#db.close()
  }
}
