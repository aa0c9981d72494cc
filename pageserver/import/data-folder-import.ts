/**
 * Takes a cleanly stopped data folder into a timeline: every page of every relation and SLRU as an
 * image at one LSN, and the blobs beside them. The LSN is the end of the folder's last checkpoint
 * record, where the timeline's WAL will begin.
 */
import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { assert, ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import {
  type ControlFile,
  DB_STATE,
  parseControlFile,
  serializeControlFile,
} from '#libs/pg/control-file.ts'
import {
  DEFAULT_TABLESPACE,
  GLOBAL_TABLESPACE,
  PG_MAJOR_VERSION,
  SLRU_FOLDERS,
} from '../basebackup/data-folder.ts'
import { shutdownCheckpointEnd } from '../basebackup/shutdown-checkpoint.ts'
import { encodeCheckpointState, initialCheckpointState } from '../ingest/checkpoint-state.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'

const FORKS = ['', 'fsm', 'vm', 'init']
const RELATION_FILE = /^(\d+)(?:_(fsm|vm|init))?(?:\.(\d+))?$/
const BLOCKS_PER_FILE = 131072
/** Full transaction id. */
const TWO_PHASE_FILE = /^([0-9A-F]{8})([0-9A-F]{8})$/
const ORIGIN_SIZE = 16
const NOTHING = Buffer.alloc(0)
const ZERO_PAGE = Buffer.alloc(PAGE_SIZE)

export interface ImportResult {
  /** The timeline's first LSN. */
  startLsn: Lsn
  pages: number
}

/**
 * pg_control of a cluster that somebody wants imported. Throws `not_found` when there is no data
 * folder, `unsupported` for what a timeline cannot hold; what the import itself checks comes later.
 */
export async function readClusterControl(folder: string): Promise<ControlFile> {
  const versionFile = join(folder, 'PG_VERSION')
  if (!existsSync(versionFile)) {
    throw new ZenithError('not_found', `${folder} is no data folder of Postgres`, {
      hint: 'Name a folder that the pageserver can read, with PG_VERSION in it.',
    })
  }
  const version = (await readFile(versionFile, 'utf8')).trim()
  if (version !== PG_MAJOR_VERSION) {
    throw new ZenithError('unsupported', `${folder} belongs to Postgres ${version}`, {
      hint: `Only clusters of Postgres ${PG_MAJOR_VERSION} can be imported; run pg_upgrade first.`,
    })
  }
  const control = parseControlFile(await readFile(join(folder, 'global', 'pg_control')))
  if (control.checkpoint.walTimeline !== 1) {
    const { walTimeline } = control.checkpoint
    throw new ZenithError('unsupported', `${folder} is on WAL timeline ${walTimeline}, not 1`, {
      hint: 'It was promoted at some time; dump and restore its databases instead.',
    })
  }
  if ((await listed(join(folder, 'pg_tblspc'))).length > 0) {
    throw new ZenithError('unsupported', `${folder} has tablespaces`, {
      hint: 'Move everything to pg_default (ALTER ... SET TABLESPACE) and drop them.',
    })
  }
  return control
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
  await importer.twoPhase(join(folder, 'pg_twophase'))
  await importer.origins(join(folder, 'pg_logical', 'replorigin_checkpoint'))

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
    const names = await listed(folder)
    const unlogged = new Set(
      names.filter((name) => name.endsWith('_init')).map((name) => name.split('_')[0]),
    )
    for (const name of names) {
      const match = RELATION_FILE.exec(name)
      if (!match) continue
      // Computes begin with a copy of the init fork.
      if (unlogged.has(match[1]) && match[2] !== 'init') continue
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

  /** State files without their checksum, as ingest stores them. */
  async twoPhase(folder: string): Promise<void> {
    for (const name of await listed(folder)) {
      const match = TWO_PHASE_FILE.exec(name)
      if (!match) continue
      const [high, low] = [match[1], match[2]].map((hex) => Number.parseInt(hex as string, 16))
      const file = await readFile(join(folder, name))
      this.blob(KeyClass.TwoPhase, 0, high as number, low as number, 0, file.subarray(0, -4))
    }
  }

  /** magic u32 | per origin: id u16, 6 bytes of padding, LSN u64 | CRC-32C u32. */
  async origins(path: string): Promise<void> {
    if (!existsSync(path)) return
    const file = await readFile(path)
    for (let at = 4; at + ORIGIN_SIZE < file.length; at += ORIGIN_SIZE) {
      const lsn = file.subarray(at + 8, at + ORIGIN_SIZE)
      this.blob(KeyClass.ReplOrigin, 0, 0, file.readUInt16LE(at), 0, lsn)
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
