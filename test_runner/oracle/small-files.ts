/**
 * What a data folder holds besides relations and must be equal byte for byte: SLRU segments,
 * relation maps, two-phase files, and which databases there are.
 */
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ByteReport, Comparison, PageKind } from './byte-report.ts'
import { firstDifference } from './bytes.ts'
import { listDatabaseFolders, PAGE_SIZE } from './relation-files.ts'

const SLRU_FOLDERS = [
  'pg_xact',
  'pg_multixact/offsets',
  'pg_multixact/members',
  'pg_commit_ts',
] as const

/** Data folders: the pageserver's backup, and the one it is compared with. */
export interface Folders {
  ours: string
  theirs: string
}

export function compareSmallFiles(
  comparison: Comparison,
  { ours, theirs }: Folders,
  report: ByteReport,
): void {
  compareSlrus(comparison, { ours, theirs }, report)
  compareRelmaps(comparison, { ours, theirs }, report)
  compareTwoPhase(comparison, { ours, theirs }, report)
}

/**
 * The pages of every SLRU segment. A page that one side hasn't written yet counts as zeros; a
 * segment must be on both sides, or hold nothing.
 */
function compareSlrus(comparison: Comparison, { ours, theirs }: Folders, report: ByteReport): void {
  for (const folder of SLRU_FOLDERS) {
    const names = new Set([...namesIn(join(ours, folder)), ...namesIn(join(theirs, folder))])
    for (const name of names) {
      const our = readIfThere(join(ours, folder, name))
      const their = readIfThere(join(theirs, folder, name))
      const pages = Math.ceil(Math.max(our.length, their.length) / PAGE_SIZE)
      report.compared(comparison, 'slru', pages)
      for (let page = 0; page < pages; page++) {
        const at = firstDifference(pageOf(our, page), pageOf(their, page))
        if (at < 0) continue
        const missing = our.length === 0 ? ', which the pageserver does not have' : ''
        const surplus = their.length === 0 ? ', which only the pageserver has' : ''
        report.differ({
          comparison,
          name: `${folder}/${name} page ${page}`,
          what: `differs from byte ${at} on${missing}${surplus}`,
        })
      }
    }
  }
}

function pageOf(file: Buffer, page: number): Buffer {
  const bytes = Buffer.alloc(PAGE_SIZE)
  file.copy(bytes, 0, page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
  return bytes
}

function compareRelmaps(
  comparison: Comparison,
  { ours, theirs }: Folders,
  report: ByteReport,
): void {
  const folders = new Set([...databaseFolders(ours), ...databaseFolders(theirs)])
  for (const folder of folders) {
    for (const name of ['pg_filenode.map', 'PG_VERSION']) {
      if (folder === 'global' && name === 'PG_VERSION') continue
      compareFile(comparison, 'relmap', `${folder}/${name}`, { ours, theirs }, report)
    }
  }
}

function compareTwoPhase(
  comparison: Comparison,
  { ours, theirs }: Folders,
  report: ByteReport,
): void {
  const folder = 'pg_twophase'
  for (const name of new Set([...namesIn(join(ours, folder)), ...namesIn(join(theirs, folder))])) {
    compareFile(comparison, 'two-phase', `${folder}/${name}`, { ours, theirs }, report)
  }
}

function compareFile(
  comparison: Comparison,
  kind: PageKind,
  name: string,
  { ours, theirs }: Folders,
  report: ByteReport,
): void {
  report.compared(comparison, kind, 1)
  const our = readIfThere(join(ours, name))
  const their = readIfThere(join(theirs, name))
  if (our.equals(their)) return
  report.differ({
    comparison,
    name,
    what:
      our.length === their.length
        ? `differs from byte ${firstDifference(our, their)} on`
        : `has ${our.length} bytes at the pageserver, not ${their.length}`,
  })
}

function databaseFolders(dataDir: string): string[] {
  return ['global', ...listDatabaseFolders(dataDir).map(({ folder }) => folder)]
}

function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : []
}

function readIfThere(path: string): Buffer {
  return existsSync(path) ? readFileSync(path) : Buffer.alloc(0)
}

/** Copies what `compareSmallFiles` looks at, from a server that may be running. */
export function copySmallFiles(dataDir: string, to: string): void {
  for (const folder of [...SLRU_FOLDERS, 'pg_twophase']) {
    cpSync(join(dataDir, folder), join(to, folder), { recursive: true })
  }
  for (const folder of databaseFolders(dataDir)) {
    for (const name of ['pg_filenode.map', 'PG_VERSION']) {
      const from = join(dataDir, folder, name)
      if (existsSync(from)) cpSync(from, join(to, folder, name))
    }
  }
}
