/**
 * Takes a cleanly stopped data folder into a timeline: every page of every relation and SLRU as an
 * image at one LSN, and the blobs beside them. The LSN is the end of the folder's last checkpoint
 * record, where the timeline's WAL will begin.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { assert, ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { type ControlFile, DB_STATE, serializeControlFile } from '#libs/pg/control-file.ts'
import { DEFAULT_TABLESPACE, GLOBAL_TABLESPACE, SLRU_FOLDERS } from '../basebackup/data-folder.ts'
import { shutdownCheckpointEnd } from '../basebackup/shutdown-checkpoint.ts'
import { encodeCheckpointState, initialCheckpointState } from '../ingest/checkpoint-state.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'

const FORKS = ['', 'fsm', 'vm', 'init']
const RELATION_FILE = /^(\d+)(?:_(fsm|vm|init))?(?:\.(\d+))?$/
const BLOCKS_PER_FILE = 131072
const NOTHING = Buffer.alloc(0)
const ZERO_PAGE = Buffer.alloc(PAGE_SIZE)

export interface ImportResult {
  /** The timeline's first LSN. */
  startLsn: Lsn
  pages: number
}

/** Where the WAL of a timeline made from this cluster starts. Throws if it was not stopped cleanly. */
export function importLsn(control: ControlFile): Lsn {
  if (control.state !== DB_STATE.shutDown) {
    throw new ZenithError('precondition_failed', 'the cluster to import was not shut down cleanly')
  }
  return shutdownCheckpointEnd(control.checkpointLsn)
}

/** Imports the folder into an empty timeline and publishes the result. */
export async function importDataFolder(
  timeline: Timeline,
  folder: string,
  control: ControlFile,
): Promise<ImportResult> {
  const lsn = importLsn(control)
  const importer = new Importer(timeline, lsn)
  await importer.database(join(folder, 'global'), GLOBAL_TABLESPACE, 0)
  const pairs: number[] = []
  for (const db of await databases(folder)) {
    await importer.database(join(folder, 'base', String(db)), DEFAULT_TABLESPACE, db)
    pairs.push(DEFAULT_TABLESPACE, db)
  }
  for (const [kind, name] of SLRU_FOLDERS.entries()) await importer.slru(join(folder, name), kind)

  const directory = Buffer.alloc(pairs.length * 4)
  pairs.forEach((word, index) => directory.writeUInt32LE(word, index * 4))
  importer.blob(KeyClass.DbDir, 0, 0, 0, 0, directory)
  importer.blob(KeyClass.ControlFile, 0, 0, 0, 0, serializeControlFile(control))
  importer.blob(
    KeyClass.Checkpoint,
    0,
    0,
    0,
    0,
    encodeCheckpointState(initialCheckpointState(control, lsn)),
  )
  timeline.publish(lsn)
  return { startLsn: lsn, pages: importer.pages }
}

async function databases(folder: string): Promise<number[]> {
  const names = await readdir(join(folder, 'base'))
  return names
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .toSorted((left, right) => left - right)
}

async function listed(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

class Importer {
  readonly #timeline: Timeline
  readonly #lsn: Lsn
  pages = 0

  constructor(timeline: Timeline, lsn: Lsn) {
    this.#timeline = timeline
    this.#lsn = lsn
  }

  async database(folder: string, spc: number, db: number): Promise<void> {
    const sizes = new Map<string, { rel: number; fork: number; blocks: number }>()
    for (const name of await listed(folder)) {
      const match = RELATION_FILE.exec(name)
      if (!match) continue
      const rel = Number(match[1])
      const fork = FORKS.indexOf(match[2] ?? '')
      const firstBlock = Number(match[3] ?? 0) * BLOCKS_PER_FILE
      const bytes = await readFile(join(folder, name))
      const slot = this.#timeline.slot(KeyClass.RelBlock, spc, db, rel, fork)
      const blocks = firstBlock + this.#pagesOf(slot, firstBlock, bytes, join(folder, name))
      const key = `${rel}.${fork}`
      sizes.set(key, { rel, fork, blocks: Math.max(blocks, sizes.get(key)?.blocks ?? 0) })
      await this.#timeline.waitForRoom()
    }
    for (const { rel, fork, blocks } of sizes.values()) {
      this.#count(KeyClass.RelSize, spc, db, rel, fork, blocks)
    }
    const map = await readFile(join(folder, 'pg_filenode.map'))
    this.blob(KeyClass.RelMap, spc, db, 0, 0, map)
  }

  async slru(folder: string, kind: number): Promise<void> {
    for (const name of await listed(folder)) {
      if (!/^[0-9A-F]{4,6}$/.test(name)) continue
      const segment = Number.parseInt(name, 16)
      const bytes = await readFile(join(folder, name))
      const slot = this.#timeline.slot(KeyClass.SlruBlock, kind, 0, segment, 0)
      const blocks = this.#pagesOf(slot, 0, bytes, join(folder, name))
      this.#count(KeyClass.SlruSegSize, kind, 0, segment, 0, blocks)
    }
  }

  blob(cls: KeyClass, spc: number, db: number, rel: number, fork: number, value: Buffer): void {
    const slot = this.#timeline.slot(cls, spc, db, rel, fork)
    this.#timeline.put(slot, 0, this.#lsn, ValueKind.Image, value, 0, value.length)
  }

  #count(cls: KeyClass, spc: number, db: number, rel: number, fork: number, blocks: number): void {
    const value = Buffer.alloc(4)
    value.writeUInt32LE(blocks)
    this.blob(cls, spc, db, rel, fork, value)
  }

  #pagesOf(slot: number, firstBlock: number, bytes: Buffer, path: string): number {
    const blocks = bytes.length / PAGE_SIZE
    assert(Number.isInteger(blocks), `${path} consists of whole pages`)
    for (let index = 0; index < blocks; index += 1) {
      const offset = index * PAGE_SIZE
      const zero = bytes.compare(ZERO_PAGE, 0, PAGE_SIZE, offset, offset + PAGE_SIZE) === 0
      const kind = zero ? ValueKind.ZeroPage : ValueKind.Image
      const length = zero ? 0 : PAGE_SIZE
      const source = zero ? NOTHING : bytes
      const from = zero ? 0 : offset
      this.#timeline.put(slot, firstBlock + index, this.#lsn, kind, source, from, length)
    }
    this.pages += blocks
    return blocks
  }
}
