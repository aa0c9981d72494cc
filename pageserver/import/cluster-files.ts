/**
 * Reads the files of a data folder as keys and values, in the order of the keys, a piece at a time:
 * pages of relations and SLRUs, sizes, maps, prepared transactions, replication origins. Unlogged
 * relations come as their init fork alone, with which computes begin.
 */
import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs'
import { type FileHandle, open, readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type ControlFile, serializeControlFile } from '#libs/pg/control-file.ts'
import { DEFAULT_TABLESPACE, GLOBAL_TABLESPACE, SLRU_FOLDERS } from '../basebackup/data-folder.ts'
import { type CheckpointState, encodeCheckpointState } from '../ingest/checkpoint-state.ts'
import { KeyClass, PAGE_SIZE } from '../keyspace/key-class.ts'

const FORKS = ['', 'fsm', 'vm', 'init']
const INIT_FORK = 3
const RELATION_FILE = /^(\d+)(?:_(fsm|vm|init))?(?:\.(\d+))?$/
const BLOCKS_PER_FILE = 131072
/** Full transaction id. */
const TWO_PHASE_FILE = /^([0-9A-F]{8})([0-9A-F]{8})$/
const ORIGIN_SIZE = 16
const PAGES_PER_READ = 128

/** Consecutive pages of a page class, or the value of one key of a blob class. */
export interface ClusterPiece {
  cls: KeyClass
  spc: number
  db: number
  rel: number
  fork: number
  firstBlk: number
  /** Valid until the next piece is asked for. */
  bytes: Buffer
}

export interface ReadOptions {
  /**
   * The files are in memory, as those that initdb has made are: to hand each of a thousand small
   * ones to a thread and wait for it takes longer than to read it. Default false.
   */
  readonly areCached?: boolean
}

interface Fork {
  rel: number
  fork: number
  /** Segment files by number. */
  files: string[]
  /** Length in whole pages, gaps between segments included. */
  blocks: number
}

interface DatabaseFolder {
  spc: number
  db: number
  folder: string
  forks: Fork[]
}

/** Bytes of all relation files and SLRU segments that an import reads. */
export async function clusterBytes(folder: string): Promise<number> {
  const databases = await databaseFolders(folder, {})
  const forks = databases.flatMap((database) => database.forks)
  return forks.reduce((sum, { blocks }) => sum + blocks, 0) * PAGE_SIZE
}

/** Everything in key order. `state` is the checkpoint with which ingest begins. */
export async function* clusterPieces(
  folder: string,
  control: ControlFile,
  state: CheckpointState,
  options: ReadOptions = {},
): AsyncGenerator<ClusterPiece> {
  const databases = await databaseFolders(folder, options)
  for (const database of databases) yield* relationPages(database, options)
  for (const { spc, db, folder: path } of databases) {
    yield blob(KeyClass.RelMap, spc, db, 0, 0, await readFile(join(path, 'pg_filenode.map')))
  }
  const ordinary = databases.filter(({ db }) => db !== 0)
  const directory = Buffer.alloc(ordinary.length * 8)
  for (const [index, { spc, db }] of ordinary.entries()) {
    directory.writeUInt32LE(spc, index * 8)
    directory.writeUInt32LE(db, index * 8 + 4)
  }
  yield blob(KeyClass.DbDir, 0, 0, 0, 0, directory)
  for (const { spc, db, forks } of databases) {
    for (const { rel, fork, blocks } of forks) {
      yield blob(KeyClass.RelSize, spc, db, rel, fork, count(blocks))
    }
  }
  yield* slruPieces(folder)
  yield* twoPhasePieces(join(folder, 'pg_twophase'))
  yield blob(KeyClass.ControlFile, 0, 0, 0, 0, serializeControlFile(control))
  yield blob(KeyClass.Checkpoint, 0, 0, 0, 0, encodeCheckpointState(state))
  yield* originPieces(join(folder, 'pg_logical', 'replorigin_checkpoint'))
}

/** Names in a folder; none when it is not there. */
export async function listed(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/** In key order: databases by id, then what they share. */
async function databaseFolders(folder: string, options: ReadOptions): Promise<DatabaseFolder[]> {
  const ids = (await readdir(join(folder, 'base')))
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .sort((left, right) => left - right)
  const places = ids.map((db) => ({
    spc: DEFAULT_TABLESPACE,
    db,
    folder: join(folder, 'base', String(db)),
  }))
  places.push({ spc: GLOBAL_TABLESPACE, db: 0, folder: join(folder, 'global') })
  const withMap = places.filter(({ folder: path }) => existsSync(join(path, 'pg_filenode.map')))
  return Promise.all(
    withMap.map(async (place) => ({ ...place, forks: await forksOf(place.folder, options) })),
  )
}

async function forksOf(folder: string, { areCached = false }: ReadOptions): Promise<Fork[]> {
  const names = await readdir(folder)
  const unlogged = new Set(
    names.filter((name) => name.endsWith('_init')).map((name) => name.split('_')[0]),
  )
  const forks = new Map<string, Fork>()
  for (const name of names) {
    const match = RELATION_FILE.exec(name)
    if (!match) continue
    const fork = FORKS.indexOf(match[2] ?? '')
    if (unlogged.has(match[1]) && fork !== INIT_FORK) continue
    const rel = Number(match[1])
    const segment = Number(match[3] ?? 0)
    const found = forks.get(`${rel}.${fork}`) ?? { rel, fork, files: [], blocks: 0 }
    forks.set(`${rel}.${fork}`, found)
    const path = join(folder, name)
    found.files[segment] = path
    // A file that was just growing when it was copied may end within a page; WAL has that page.
    const { size } = areCached ? statSync(path) : await stat(path)
    const blocks = Math.floor(size / PAGE_SIZE)
    if (blocks > 0) found.blocks = Math.max(found.blocks, segment * BLOCKS_PER_FILE + blocks)
  }
  return [...forks.values()].sort((a, b) => a.rel - b.rel || a.fork - b.fork)
}

/** Pages between the end of a segment file and the next one are zeros, as md.c reads them. */
async function* relationPages(
  database: DatabaseFolder,
  options: ReadOptions,
): AsyncGenerator<ClusterPiece> {
  const { spc, db } = database
  for (const { rel, fork, files, blocks } of database.forks) {
    for (let first = 0; first < blocks; first += BLOCKS_PER_FILE) {
      const inFile = Math.min(BLOCKS_PER_FILE, blocks - first)
      const path = files[first / BLOCKS_PER_FILE]
      for await (const { block, bytes } of filePages(path, inFile, options)) {
        yield { cls: KeyClass.RelBlock, spc, db, rel, fork, firstBlk: first + block, bytes }
      }
    }
  }
}

async function* filePages(
  path: string | undefined,
  blocks: number,
  { areCached = false }: ReadOptions = {},
): AsyncGenerator<{ block: number; bytes: Buffer }> {
  // Most files of a fresh cluster are of a page or two. Every byte is read or zeroed below.
  const buffer = Buffer.allocUnsafe(Math.min(PAGES_PER_READ, blocks) * PAGE_SIZE)
  if (areCached && path !== undefined && blocks <= PAGES_PER_READ) {
    const read = readStart(path, buffer)
    buffer.fill(0, read - (read % PAGE_SIZE))
    yield { block: 0, bytes: buffer }
    return
  }
  const file = path === undefined ? null : await open(path, 'r')
  try {
    for (let block = 0; block < blocks; block += PAGES_PER_READ) {
      const bytes = buffer.subarray(0, Math.min(PAGES_PER_READ, blocks - block) * PAGE_SIZE)
      const read = file === null ? 0 : await fill(file, bytes, block * PAGE_SIZE)
      bytes.fill(0, read - (read % PAGE_SIZE))
      yield { block, bytes }
    }
  } finally {
    await file?.close()
  }
}

async function fill(file: FileHandle, target: Buffer, position: number): Promise<number> {
  let done = 0
  while (done < target.length) {
    const { bytesRead } = await file.read(target, done, target.length - done, position + done)
    if (bytesRead === 0) break
    done += bytesRead
  }
  return done
}

/** Reads what there is of a file, at most the buffer's length; returns how much that was. */
function readStart(path: string, target: Buffer): number {
  const file = openSync(path, 'r')
  try {
    let done = 0
    while (done < target.length) {
      const bytesRead = readSync(file, target, done, target.length - done, done)
      if (bytesRead === 0) break
      done += bytesRead
    }
    return done
  } finally {
    closeSync(file)
  }
}

interface SlruSegment {
  kind: number
  segment: number
  path: string
  blocks: number
}

async function* slruPieces(folder: string): AsyncGenerator<ClusterPiece> {
  const segments: SlruSegment[] = []
  for (const [kind, name] of SLRU_FOLDERS.entries()) {
    for (const file of await listed(join(folder, name))) {
      if (!/^[0-9A-F]{4,6}$/.test(file)) continue
      const path = join(folder, name, file)
      const blocks = Math.floor((await stat(path)).size / PAGE_SIZE)
      segments.push({ kind, segment: Number.parseInt(file, 16), path, blocks })
    }
  }
  segments.sort((a, b) => a.kind - b.kind || a.segment - b.segment)
  for (const { kind, segment, path, blocks } of segments) {
    for await (const { block, bytes } of filePages(path, blocks)) {
      const key = { cls: KeyClass.SlruBlock, spc: kind, db: 0, rel: segment, fork: 0 }
      yield { ...key, firstBlk: block, bytes }
    }
  }
  for (const { kind, segment, blocks } of segments) {
    yield blob(KeyClass.SlruSegSize, kind, 0, segment, 0, count(blocks))
  }
}

/** State files without their checksum, as ingest stores them. */
async function* twoPhasePieces(folder: string): AsyncGenerator<ClusterPiece> {
  for (const name of (await listed(folder)).sort()) {
    const match = TWO_PHASE_FILE.exec(name)
    if (!match) continue
    const [high = 0, low = 0] = [match[1], match[2]].map((hex) => Number.parseInt(hex ?? '', 16))
    const file = await readFile(join(folder, name))
    yield blob(KeyClass.TwoPhase, 0, high, low, 0, file.subarray(0, -4))
  }
}

/** magic u32 | per origin: id u16, 6 bytes of padding, LSN u64 | CRC-32C u32. */
async function* originPieces(path: string): AsyncGenerator<ClusterPiece> {
  if (!existsSync(path)) return
  const file = await readFile(path)
  const origins: { id: number; lsn: Buffer }[] = []
  for (let at = 4; at + ORIGIN_SIZE < file.length; at += ORIGIN_SIZE) {
    origins.push({ id: file.readUInt16LE(at), lsn: file.subarray(at + 8, at + ORIGIN_SIZE) })
  }
  origins.sort((a, b) => a.id - b.id)
  for (const { id, lsn } of origins) yield blob(KeyClass.ReplOrigin, 0, 0, id, 0, lsn)
}

function blob(
  cls: KeyClass,
  spc: number,
  db: number,
  rel: number,
  fork: number,
  bytes: Buffer,
): ClusterPiece {
  return { cls, spc, db, rel, fork, firstBlk: 0, bytes }
}

function count(blocks: number): Buffer {
  const value = Buffer.alloc(4)
  value.writeUInt32LE(blocks)
  return value
}
