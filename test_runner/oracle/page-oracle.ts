/**
 * The page oracle: every page that the page server gives for an LSN against the page that stock
 * Postgres has after replaying the same WAL to the same LSN.
 *
 * Pages of main and init forks are compared byte for byte first, and where they differ once more
 * after Postgres' own masks. The free space map is left out: it is not logged, redo only nudges it.
 * The visibility map counts by its bits: redo clears them without setting the page's LSN.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Lsn } from '#libs/lsn.ts'
import type { PageClient } from '../fixtures/page-client.ts'
import type { PageMasks } from './page-masks.ts'
import {
  listRelationFiles,
  PAGE_SIZE,
  readBlocks,
  type RelationFile,
  relationKey,
} from './relation-files.ts'

const FSM_FORK = 1
const VM_FORK = 2
const INIT_FORK = 3
const PAGE_HEADER_SIZE = 24
const PAGE_CHECKSUM_OFFSET = 8
const PAGES_PER_STEP = 128
const BLOCKS_PER_FILE = 131072
/** Segments of these are compared whole: `[folder, SLRU kind of the page stream]`. */
const SLRU_FOLDERS = [
  ['pg_xact', 0],
  ['pg_multixact/offsets', 1],
  ['pg_multixact/members', 2],
  ['pg_commit_ts', 3],
] as const

export type OracleReport = {
  relations: number
  pages: number
  /** Pages equal in every byte. */
  identical: number
  /** Pages equal only after masking. */
  equalMasked: number
  slruPages: number
  /** One line for each difference, up to a limit. */
  differences: string[]
}

export type OracleOptions = {
  /** Stopped stock server that has replayed up to `lsn`. */
  dataDir: string
  pages: PageClient
  masks: PageMasks
  lsn: Lsn
  /** The stock server keeps data checksums, which pages rebuilt from WAL lack: leave them out. */
  checksums?: boolean
}

/** So many differences are described, and no more. */
export const MOST_DIFFERENCES = 100

export async function comparePages(options: OracleOptions): Promise<OracleReport> {
  const report: OracleReport = {
    relations: 0,
    pages: 0,
    identical: 0,
    equalMasked: 0,
    slruPages: 0,
    differences: [],
  }
  const files = listRelationFiles(options.dataDir)
  for (const file of files.values()) {
    if (file.fork === FSM_FORK) continue
    // Unlogged contents exist on computes only; of such a relation the init fork is logged.
    if (file.fork !== INIT_FORK && files.has(relationKey({ ...file, fork: INIT_FORK }))) continue
    report.relations++
    await compareRelation(options, file, report)
  }
  for (const [folder, kind] of SLRU_FOLDERS) await compareSlru(options, folder, kind, report)
  return report
}

async function compareRelation(
  options: OracleOptions,
  file: RelationFile,
  report: OracleReport,
): Promise<void> {
  const blocks = await options.pages.blockCount(file, options.lsn)
  if (blocks !== file.blocks && !(blocks === null && file.blocks === 0)) {
    differ(report, `${relationKey(file)} has ${blocks ?? 'no'} blocks, not ${file.blocks}`)
  }
  const common = Math.min(blocks ?? 0, file.blocks)
  for (let first = 0; first < common; first += PAGES_PER_STEP) {
    const untilSegmentEnd = BLOCKS_PER_FILE - (first % BLOCKS_PER_FILE)
    const count = Math.min(PAGES_PER_STEP, common - first, untilSegmentEnd)
    const ours = await options.pages.pages(file, first, count, options.lsn)
    await compareRange(options, file, first, ours, report)
  }
}

async function compareRange(
  options: OracleOptions,
  file: RelationFile,
  first: number,
  ours: Buffer,
  report: OracleReport,
): Promise<void> {
  const count = ours.length / PAGE_SIZE
  const theirs = readBlocks(file, first, count)
  if (options.checksums) for (const pages of [ours, theirs]) clearChecksums(pages)
  report.pages += count
  if (ours.equals(theirs)) {
    report.identical += count
    return
  }
  const masked = file.fork === VM_FORK ? null : await maskBoth(options, first, ours, theirs)
  for (let index = 0; index < count; index++) {
    const from = index * PAGE_SIZE
    const to = from + PAGE_SIZE
    if (ours.compare(theirs, from, to, from, to) === 0) {
      report.identical++
      continue
    }
    const equal =
      masked === null
        ? ours.compare(theirs, from + PAGE_HEADER_SIZE, to, from + PAGE_HEADER_SIZE, to) === 0
        : masked[0].compare(masked[1], from, to, from, to) === 0
    if (equal) report.equalMasked++
    else differ(report, describe(file, first + index, ours, theirs, from))
  }
}

function clearChecksums(pages: Buffer): void {
  for (let page = 0; page < pages.length; page += PAGE_SIZE) {
    pages.writeUInt16LE(0, page + PAGE_CHECKSUM_OFFSET)
  }
}

async function maskBoth(
  options: OracleOptions,
  first: number,
  ours: Buffer,
  theirs: Buffer,
): Promise<[Buffer, Buffer]> {
  return [await options.masks.mask(first, ours), await options.masks.mask(first, theirs)]
}

async function compareSlru(
  options: OracleOptions,
  folder: string,
  kind: number,
  report: OracleReport,
): Promise<void> {
  const path = join(options.dataDir, folder)
  if (!existsSync(path)) return
  for (const name of readdirSync(path)) {
    const theirs = readFileSync(join(path, name))
    const ours = await options.pages.slruSegment(kind, Number.parseInt(name, 16), options.lsn)
    const pages = Math.floor(theirs.length / PAGE_SIZE)
    for (let page = 0; page < pages; page++) {
      const from = page * PAGE_SIZE
      report.slruPages++
      const their = theirs.subarray(from, from + PAGE_SIZE)
      // A segment may come shorter: the page server ships only what is in use.
      const our = Buffer.alloc(PAGE_SIZE)
      ours.subarray(from, from + PAGE_SIZE).copy(our)
      if (!our.equals(their)) differ(report, `${folder}/${name} page ${page} differs`)
    }
  }
}

function differ(report: OracleReport, what: string): void {
  if (report.differences.length < MOST_DIFFERENCES) report.differences.push(what)
}

function describe(
  file: RelationFile,
  blk: number,
  ours: Buffer,
  theirs: Buffer,
  from: number,
): string {
  let at = 0
  while (ours[from + at] === theirs[from + at]) at++
  const lsn = (page: Buffer) =>
    `${page.readUInt32LE(from).toString(16)}/${page.readUInt32LE(from + 4).toString(16)}`
  return (
    `${relationKey(file)}:${blk} differs from byte ${at} on ` +
    `(page server's LSN ${lsn(ours)}, stock's ${lsn(theirs)})`
  )
}
