/**
 * Cumulative statistics of a timeline's last cleanly stopped compute, in object storage, each
 * bundle (libs/pg/statistics-bundle.ts) under the LSN at which that compute ended. They describe
 * the database at exactly this LSN, so they are given to a compute that starts there and to no
 * other. Nothing else may end at the LSN, so the name alone says what is in the object.
 */
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'

export class StatisticsStore {
  readonly #store: ObjectStore
  readonly #folder: string
  readonly #release: (names: readonly string[]) => void

  /** `release` takes objects that are of no use any more. */
  constructor(store: ObjectStore, folder: string, release: (names: readonly string[]) => void) {
    this.#store = store
    this.#folder = folder
    this.#release = release
  }

  /** Durable when it resolves. Older ones are of no use then. */
  async put(lsn: Lsn, bundle: Buffer): Promise<void> {
    const name = this.#name(lsn)
    await this.#store.put(name, bundle).catch((error: unknown) => {
      // Told a second time, since the first answer was lost.
      if (!(error instanceof ZenithError) || error.code !== 'already_exists') throw error
    })
    const { objects } = await this.#store.list(this.#folder, { delimited: true })
    this.#release(objects.map((old) => old.name).filter((old) => old < name))
  }

  /** The bundle of the compute that ended at this LSN, or null. */
  async get(lsn: Lsn): Promise<Buffer | null> {
    try {
      return await this.#store.get(this.#name(lsn))
    } catch (error) {
      if (error instanceof ZenithError && error.code === 'not_found') return null
      throw error
    }
  }

  #name(lsn: Lsn): string {
    return `${this.#folder}/${lsn.toString(16).padStart(16, '0')}`
  }
}
