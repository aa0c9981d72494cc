/**
 * Small things that a page server would rather not forget at a restart, in one LMDB file of its
 * data folder: which objects it was about to delete, and when layers were last used. Nothing here
 * is needed for correctness: a file that is lost or damaged costs objects that nobody deletes, and
 * a worse choice of what to evict.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { type Database, open, type RootDatabase } from 'lmdb'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'

export interface QueuedDeletion {
  tenantId: string
  generation: number
  name: string
}

const FILE = 'local-state.mdb'

export class LocalState {
  readonly #root: RootDatabase
  /** By number, in the order in which they came. */
  readonly deletions: Database<QueuedDeletion, number>
  /** Minutes since 1970 of the last use, by `<tenant>/<timeline>/<file>`. */
  readonly accesses: Database<number, string>

  private constructor(root: RootDatabase) {
    this.#root = root
    this.deletions = root.openDB({ name: 'deletions', encoding: 'json' })
    this.accesses = root.openDB({ name: 'accesses', encoding: 'json' })
  }

  /** A file that cannot be opened is replaced by an empty one. */
  static open(folder: string, log: Logger): LocalState {
    mkdirSync(folder, { recursive: true })
    const path = join(folder, FILE)
    try {
      return new LocalState(open({ path }))
    } catch (error) {
      log.warn(`${path} cannot be read, and is begun anew: ${errorMessage(error)}`)
      for (const name of [path, `${path}-lock`]) rmSync(name, { recursive: true, force: true })
      return new LocalState(open({ path }))
    }
  }

  async close(): Promise<void> {
    await this.#root.close()
  }
}
