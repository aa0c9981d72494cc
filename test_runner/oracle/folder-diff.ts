/**
 * Compares two data folders of stopped servers: a full backup by the pageserver, and what stock
 * Postgres has after replaying the same WAL. Relation forks, SLRU segments, relation maps and
 * two-phase files; one that only one side has is a difference too.
 *
 * - Main, visibility map and init forks: equal in every byte, page LSNs included. Both sides have
 *   redone the same records, and nobody has read the pages, so there are no hint bits to mask.
 * - Free space map: is not in the WAL, but for the images that computes log. Stock redo guesses the
 *   rest, so the two differ by design; see `checkFsm` for what is asked instead.
 */
import { formatLsn } from '#libs/lsn.ts'
import {
  FSM_NODES_OFFSET,
  FSM_NODES_PER_PAGE,
  FSM_NON_LEAF_NODES,
  FSM_SLOTS_PER_PAGE,
  pageLsn,
} from '#libs/pg/page.ts'
import type { ByteReport, PageKind } from './byte-report.ts'
import {
  listRelationFiles,
  PAGE_SIZE,
  readBlocks,
  type RelationFile,
  relationKey,
} from './relation-files.ts'
import { compareSmallFiles, type Folders } from './small-files.ts'
import { firstDifference } from './bytes.ts'

const MAIN_FORK = 0
const FSM_FORK = 1
const VM_FORK = 2
const INIT_FORK = 3
const PAGES_PER_STEP = 512
const BLOCKS_PER_FILE = 131072
export const FORK_KINDS: readonly PageKind[] = ['main', 'fsm', 'vm', 'init']

/**
 * A server with assertions overwrites line pointers that it gives up (PageTruncateLinePointerArray
 * in bufpage.c); they are in a page's hole, which full images leave out.
 */
const CLOBBERED_HOLES = process.env['ZENITH_POSTGRES_ASSERTIONS'] === '1'
const LOWER_OFFSET = 12
const UPPER_OFFSET = 14
const PAGE_HEADER_SIZE = 24

export function compareFolders(folders: Folders, report: ByteReport): void {
  const ours = withoutUnlogged(listRelationFiles(folders.ours))
  const theirs = withoutUnlogged(listRelationFiles(folders.theirs))
  for (const [key, file] of theirs) {
    if (file.fork === FSM_FORK || (!ours.has(key) && isMapOfNothing(file, theirs))) continue
    const our = ours.get(key)
    if (our === undefined) missing(report, file, 'the pageserver')
    else compareFork(our, file, report)
  }
  for (const [key, file] of ours) {
    if (file.fork === FSM_FORK) checkFsm(file, ours, report)
    else if (!theirs.has(key)) missing(report, file, 'stock Postgres')
  }
  compareSmallFiles('stock replay', folders, report)
}

/**
 * A map that was logged while its relation was being dropped: redo leaves its file, the pageserver
 * takes no notice.
 */
function isMapOfNothing(file: RelationFile, files: Map<string, RelationFile>): boolean {
  return file.fork === VM_FORK && !files.has(relationKey({ ...file, fork: MAIN_FORK }))
}

/** Of an unlogged relation only the init fork is in the WAL; its other forks are local. */
function withoutUnlogged(files: Map<string, RelationFile>): Map<string, RelationFile> {
  const logged = [...files].filter(
    ([, file]) => file.fork === INIT_FORK || !files.has(relationKey({ ...file, fork: INIT_FORK })),
  )
  return new Map(logged)
}

function missing(report: ByteReport, file: RelationFile, side: string): void {
  report.differ({
    comparison: 'stock replay',
    name: forkName(file),
    what: `(${file.blocks} blocks) is not known to ${side}`,
    page: { ...file, block: 0 },
  })
}

export function forkName({ spc, db, rel, fork }: Omit<RelationFile, 'path' | 'blocks'>): string {
  return `${spc}/${db}/${rel} ${FORK_KINDS[fork]}`
}

function compareFork(ours: RelationFile, theirs: RelationFile, report: ByteReport): void {
  if (ours.blocks !== theirs.blocks) {
    report.differ({
      comparison: 'stock replay',
      name: forkName(ours),
      what: `has ${ours.blocks} blocks at the pageserver, ${theirs.blocks} in stock Postgres`,
      page: { ...ours, block: Math.min(ours.blocks, theirs.blocks) },
    })
  }
  const common = Math.min(ours.blocks, theirs.blocks)
  for (let first = 0; first < common; ) {
    const untilFileEnd = BLOCKS_PER_FILE - (first % BLOCKS_PER_FILE)
    const count = Math.min(PAGES_PER_STEP, common - first, untilFileEnd)
    compareRun(ours, theirs, { first, count }, report)
    first += count
  }
}

/** Clears what lies between a page's line pointers and its tuples, where there is such a hole. */
function clearHole(page: Buffer): void {
  const lower = page.readUInt16LE(LOWER_OFFSET)
  const upper = page.readUInt16LE(UPPER_OFFSET)
  if (lower >= PAGE_HEADER_SIZE && lower < upper && upper <= PAGE_SIZE) page.fill(0, lower, upper)
}

function compareRun(
  ours: RelationFile,
  theirs: RelationFile,
  { first, count }: { first: number; count: number },
  report: ByteReport,
): void {
  const a = readBlocks(ours, first, count)
  const b = readBlocks(theirs, first, count)
  report.compared('stock replay', FORK_KINDS[ours.fork] as PageKind, count)
  if (a.equals(b)) return
  // A map has its bits where other pages have a hole.
  const clobbered = CLOBBERED_HOLES && ours.fork !== VM_FORK
  for (let index = 0; index < count; index++) {
    const one = a.subarray(index * PAGE_SIZE, (index + 1) * PAGE_SIZE)
    const other = b.subarray(index * PAGE_SIZE, (index + 1) * PAGE_SIZE)
    if (clobbered) for (const page of [one, other]) clearHole(page)
    const at = firstDifference(one, other)
    if (at < 0) continue
    report.differ({
      comparison: 'stock replay',
      name: `${forkName(ours)} block ${first + index}`,
      what:
        `differs from byte ${at} on (page LSN ${lsnText(one)} at the pageserver, ` +
        `${lsnText(other)} in stock Postgres)`,
      page: { ...ours, block: first + index },
    })
  }
}

function lsnText(page: Buffer): string {
  return formatLsn(pageLsn(page))
}

/**
 * A free space map may be behind, but must be one: every page is zeros or a tree in which each node
 * is the larger of its two children, and none promises room in a block beyond the end of its heap.
 */
function checkFsm(file: RelationFile, files: Map<string, RelationFile>, report: ByteReport): void {
  const heapBlocks = files.get(relationKey({ ...file, fork: 0 }))?.blocks ?? 0
  report.compared('stock replay', 'fsm', file.blocks)
  for (let block = 0; block < file.blocks; block++) {
    const wrong = fsmFault(readBlocks(file, block, 1), block, heapBlocks)
    if (wrong === null) continue
    report.differ({
      comparison: 'stock replay',
      name: `${forkName(file)} block ${block}`,
      what: wrong,
      page: { ...file, block },
    })
  }
}

/** What is wrong with a page of a free space map, or null. */
export function fsmFault(page: Buffer, block: number, heapBlocks: number): string | null {
  const nodes = page.subarray(FSM_NODES_OFFSET, FSM_NODES_OFFSET + FSM_NODES_PER_PAGE)
  for (let node = 0; node < FSM_NON_LEAF_NODES; node++) {
    const larger = Math.max(nodes[2 * node + 1] ?? 0, nodes[2 * node + 2] ?? 0)
    if (nodes[node] !== larger) return `is no tree: node ${node} is ${nodes[node]}, not ${larger}`
  }
  const first = firstHeapBlock(block)
  if (first === null) return null
  for (let slot = Math.max(0, heapBlocks - first); slot < FSM_SLOTS_PER_PAGE; slot++) {
    if (nodes[FSM_NON_LEAF_NODES + slot] !== 0) {
      return `promises room in block ${first + slot} of a heap of ${heapBlocks} blocks`
    }
  }
  return null
}

/** First heap block that an FSM page tells about, null for pages above the lowest level. */
function firstHeapBlock(block: number): number | null {
  // Upper pages stand before the lower ones that they describe (fsm_logical_to_physical).
  const behindRoot = block - 1
  const group = FSM_SLOTS_PER_PAGE + 1
  const inGroup = behindRoot % group
  if (behindRoot < 0 || inGroup === 0) return null
  const leaf = Math.floor(behindRoot / group) * FSM_SLOTS_PER_PAGE + inGroup - 1
  return leaf * FSM_SLOTS_PER_PAGE
}
