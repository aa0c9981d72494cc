/**
 * The 8 KiB page of a relation (storage/bufpage.h), and where visibility and free space maps keep
 * their bits.
 *
 *   0 lsn high u32 | 4 lsn low u32 | 8 checksum u16 | 10 flags u16 | 12 lower u16 | 14 upper u16
 *   16 special u16 | 18 page size and version u16 | 20 prune xid u32 | 24 contents
 */
import { type Lsn, WAL_PAGE_SIZE } from '../lsn.ts'

export const PAGE_SIZE = WAL_PAGE_SIZE
export const PAGE_HEADER_SIZE = 24
const LAYOUT_VERSION = 4
const TWO_32 = 4294967296

/** Heap blocks whose two bits fit in one visibility map page (HEAPBLOCKS_PER_PAGE). */
export const HEAP_BLOCKS_PER_VM_PAGE = (PAGE_SIZE - PAGE_HEADER_SIZE) * 4
export const VM_ALL_VISIBLE = 1
export const VM_ALL_FROZEN = 2
export const VM_VALID_BITS = 3

/** Nodes of the binary tree in a free space map page, behind the 4-byte fp_next_slot. */
export const FSM_NODES_OFFSET = PAGE_HEADER_SIZE + 4
export const FSM_NODES_PER_PAGE = PAGE_SIZE - FSM_NODES_OFFSET
export const FSM_NON_LEAF_NODES = PAGE_SIZE / 2 - 1
/** Heap blocks per bottom-level free space map page (SlotsPerFSMPage). */
export const FSM_SLOTS_PER_PAGE = FSM_NODES_PER_PAGE - FSM_NON_LEAF_NODES
const FSM_TREE_DEPTH = 3

/** True when the page was never initialised (PageIsNew); such a page carries no LSN. */
export function isNewPage(page: Buffer): boolean {
  return page.readUInt16LE(14) === 0
}

export function pageLsn(page: Buffer): Lsn {
  return page.readUInt32LE(0) * TWO_32 + page.readUInt32LE(4)
}

export function setPageLsn(page: Buffer, lsn: Lsn): void {
  const high = Math.floor(lsn / TWO_32)
  page.writeUInt32LE(high, 0)
  page.writeUInt32LE(lsn - high * TWO_32, 4)
}

/** An empty page without special space (PageInit with size 0). */
export function initPage(page: Buffer): void {
  page.fill(0, 0, PAGE_SIZE)
  page.writeUInt16LE(PAGE_HEADER_SIZE, 12)
  page.writeUInt16LE(PAGE_SIZE, 14)
  page.writeUInt16LE(PAGE_SIZE, 16)
  page.writeUInt16LE(PAGE_SIZE | LAYOUT_VERSION, 18)
}

/**
 * Physical block of the bottom-level free space map page for the heap block, counting the upper
 * pages that lie before it (fsm_logical_to_physical in freespace.c).
 */
export function fsmBlockOf(heapBlock: number): number {
  let leaf = Math.floor(heapBlock / FSM_SLOTS_PER_PAGE)
  let pages = 0
  for (let level = 0; level < FSM_TREE_DEPTH; level += 1) {
    pages += leaf + 1
    leaf = Math.floor(leaf / FSM_SLOTS_PER_PAGE)
  }
  return pages - 1
}
