/**
 * The relation files of a data folder of stock Postgres, read block by block: what the page server
 * is compared with. The server must be stopped.
 */
import { closeSync, existsSync, openSync, readdirSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'

export const PAGE_SIZE = 8192
const BLOCKS_PER_FILE = 131072
const GLOBAL_TABLESPACE = 1664
const DEFAULT_TABLESPACE = 1663
const FORKS: Record<string, number> = { '': 0, _fsm: 1, _vm: 2, _init: 3 }
/** `16384`, `16384_vm`, `16384.1`; temporary relations (`t3_16384`) do not match. */
const FILE_NAME = /^(\d+)(_fsm|_vm|_init)?(?:\.(\d+))?$/

export type RelationFork = { spc: number; db: number; rel: number; fork: number }
export type RelationFile = RelationFork & {
  /** Path of the first segment. */
  path: string
  blocks: number
}

export function relationKey({ spc, db, rel, fork }: RelationFork): string {
  return `${spc}/${db}/${rel}.${fork}`
}

/** Every fork of every relation in all tablespaces. */
export function listRelationFiles(dataDir: string): Map<string, RelationFile> {
  const found = new Map<string, RelationFile>()
  addFolder(found, join(dataDir, 'global'), GLOBAL_TABLESPACE, 0)
  for (const { folder, spc, db } of listDatabaseFolders(dataDir)) {
    addFolder(found, join(dataDir, folder), spc, db)
  }
  return found
}

export interface DatabaseFolder {
  /** Path below the data folder. */
  folder: string
  spc: number
  db: number
}

/** The folder of each database in each tablespace where it has one, but for `global`. */
export function listDatabaseFolders(dataDir: string): DatabaseFolder[] {
  const places = [{ path: 'base', spc: DEFAULT_TABLESPACE }]
  for (const spc of numbersIn(join(dataDir, 'pg_tblspc'))) {
    for (const version of readdirSync(join(dataDir, 'pg_tblspc', String(spc)))) {
      places.push({ path: join('pg_tblspc', String(spc), version), spc })
    }
  }
  return places.flatMap(({ path, spc }) =>
    numbersIn(join(dataDir, path)).map((db) => ({ folder: join(path, String(db)), spc, db })),
  )
}

function numbersIn(folder: string): number[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
}

function addFolder(
  found: Map<string, RelationFile>,
  folder: string,
  spc: number,
  db: number,
): void {
  for (const name of readdirSync(folder)) {
    const match = FILE_NAME.exec(name)
    if (!match || match[3] !== undefined) continue
    const path = join(folder, name)
    const relation = { spc, db, rel: Number(match[1]), fork: FORKS[match[2] ?? ''] as number }
    found.set(relationKey(relation), { ...relation, path, blocks: countBlocks(path) })
  }
}

function countBlocks(path: string): number {
  let blocks = 0
  for (let segment = 0; ; segment++) {
    const file = segmentPath(path, segment)
    if (!existsSync(file)) return blocks
    const inFile = Math.floor(statSync(file).size / PAGE_SIZE)
    blocks += inFile
    if (inFile < BLOCKS_PER_FILE) return blocks
  }
}

function segmentPath(path: string, segment: number): string {
  return segment === 0 ? path : `${path}.${segment}`
}

/** Blocks [first, first + count) in one buffer; they must not cross a 1 GiB segment. */
export function readBlocks(file: RelationFile, first: number, count: number): Buffer {
  const pages = Buffer.alloc(count * PAGE_SIZE)
  const segment = Math.floor(first / BLOCKS_PER_FILE)
  const fd = openSync(segmentPath(file.path, segment), 'r')
  try {
    readSync(fd, pages, 0, pages.length, (first % BLOCKS_PER_FILE) * PAGE_SIZE)
  } finally {
    closeSync(fd)
  }
  return pages
}
