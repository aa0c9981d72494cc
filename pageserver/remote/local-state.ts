/**
 * Small things that a page server would rather not forget at a restart, in one LMDB file of its
 * data folder: which objects it was about to delete, and when layers were last used. Nothing here
 * is needed for correctness: a file that is lost or damaged costs objects that nobody deletes, and
 * a worse choice of what to evict. A damaged name must not become an order to delete, though: each
 * has a checksum.
 */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { type Database, open, type RootDatabase } from 'lmdb'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'

export interface QueuedDeletion {
  tenantId: string
  generation: number
  name: string
}

/** With the checksum of number and entry. */
export interface StoredDeletion extends QueuedDeletion {
  crc: number
}

export function sealed(number: number, entry: QueuedDeletion): StoredDeletion {
  const { tenantId, generation, name } = entry
  return { tenantId, generation, name, crc: crc32(`${number} ${tenantId} ${generation} ${name}`) }
}

const FILE = 'local-state.mdb'
/** There while the file is looked through at a start, which damage can make the last of a process. */
const TRIAL = 'local-state.trial'

export class LocalState {
  readonly #root: RootDatabase
  /** By number, in the order in which they came. */
  readonly deletions: Database<StoredDeletion, number>
  /** Minutes since 1970 of the last use, by `<tenant>/<timeline>/<file>`. */
  readonly accesses: Database<number, string>

  private constructor(root: RootDatabase) {
    this.#root = root
    this.deletions = root.openDB({ name: 'deletions', encoding: 'json' })
    this.accesses = root.openDB({ name: 'accesses', encoding: 'json' })
  }

  /**
   * A file that cannot be opened, or in which something is damaged, is replaced by an empty one. A
   * damaged or shortened file can end the process that reads it, since LMDB trusts what it maps to
   * memory: then the next start begins anew.
   */
  static open(folder: string, log: Logger): LocalState {
    mkdirSync(folder, { recursive: true })
    const path = join(folder, FILE)
    const trial = join(folder, TRIAL)
    const beginAnew = (reason: string) => {
      log.warn(`${path} cannot be read, and is begun anew: ${reason}`)
      for (const name of [path, `${path}-lock`]) rmSync(name, { recursive: true, force: true })
    }
    if (existsSync(trial)) beginAnew('the last start ended while it was read')
    else writeFileSync(trial, '')
    let root: RootDatabase | null = null
    try {
      root = open({ path })
      const state = new LocalState(root)
      state.#check()
      rmSync(trial, { force: true })
      return state
    } catch (error) {
      root?.close().catch(() => undefined)
      beginAnew(errorMessage(error))
      const state = new LocalState(open({ path }))
      rmSync(trial, { force: true })
      return state
    }
  }

  /** Reads everything. Throws when something is not as it was written. */
  #check(): void {
    for (const { key, value } of this.deletions.getRange()) {
      if (sealed(key, value).crc === value.crc) continue
      throw new ZenithError('corrupt', `entry ${key} of the deletions has a wrong checksum`)
    }
    for (const { key, value } of this.accesses.getRange()) {
      if (Number.isSafeInteger(value)) continue
      throw new ZenithError('corrupt', `the time of use of ${key} is none`)
    }
  }

  async close(): Promise<void> {
    await this.#root.close()
  }
}
