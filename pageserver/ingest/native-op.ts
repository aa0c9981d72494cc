/**
 * Changes of a page that the page server makes itself, without the redo process: bits of the
 * visibility map, tails cleared by truncation, and entries of SLRU pages. They are stored as
 * versions of kind NativeOp and applied on the page as it was before.
 *
 * Numbers are little endian; the first byte says which operation it is:
 *
 *   1 vm clear     | mask u8 | heap block within the map page u16, once or twice
 *   2 vm set       | bits u8 | heap block within the map page u16
 *   3 vm truncate  | 0 | first heap block to clear u16
 *   4 fsm truncate | 0 | first slot to clear u16
 *   5 clog set     | status u8 | transaction within the page u16, any number
 *   6 offsets set  | 0 | first entry u16 | member offset u32, once or for two entries in a row
 *   7 members set  | 0 | count u16 | first member offset u32 | count x (xid u32, status u32)
 *   8 commit ts    | 0 | origin u16 | time i64 | transaction within the page u16, any number
 *
 * SLRU pages are raw 8 KiB without a header, so operations on them set no LSN.
 */
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import {
  FSM_NODES_OFFSET,
  FSM_NODES_PER_PAGE,
  FSM_NON_LEAF_NODES,
  initPage,
  isNewPage,
  PAGE_HEADER_SIZE,
  PAGE_SIZE,
  setPageLsn,
  VM_VALID_BITS,
} from '#libs/pg/page.ts'
import { COMMIT_TS_ENTRY_SIZE, memberFlagOffset, memberXidOffset } from '#libs/pg/slru.ts'

const VM_CLEAR = 1
const VM_SET = 2
const VM_TRUNCATE = 3
const FSM_TRUNCATE = 4
const CLOG_SET = 5
const OFFSETS_SET = 6
const MEMBERS_SET = 7
const COMMIT_TS_SET = 8

const MEMBERS_HEADER = 8
const COMMIT_TS_HEADER = 12

/** Writes operations into a buffer of its own, reused: use the bytes before the next call. */
export class NativeOpWriter {
  buffer: Buffer = Buffer.alloc(256)
  length = 0

  /** Clears `mask` (VM_ bits) of one heap block, or of two that share the map page. */
  vmClear(mask: number, heapBlock: number, otherHeapBlock = -1): void {
    this.#begin(VM_CLEAR, mask, otherHeapBlock < 0 ? 4 : 6)
    this.buffer.writeUInt16LE(heapBlock, 2)
    if (otherHeapBlock >= 0) this.buffer.writeUInt16LE(otherHeapBlock, 4)
  }

  vmSet(bits: number, heapBlock: number): void {
    this.#begin(VM_SET, bits, 4)
    this.buffer.writeUInt16LE(heapBlock, 2)
  }

  vmTruncate(firstHeapBlock: number): void {
    this.#begin(VM_TRUNCATE, 0, 4)
    this.buffer.writeUInt16LE(firstHeapBlock, 2)
  }

  fsmTruncate(firstSlot: number): void {
    this.#begin(FSM_TRUNCATE, 0, 4)
    this.buffer.writeUInt16LE(firstSlot, 2)
  }

  /** `entries[0..count)` are transactions counted from the page's first. */
  clogSet(status: number, entries: ArrayLike<number>, count: number): void {
    this.#begin(CLOG_SET, status, 2 + count * 2)
    this.#entries(2, entries, count)
  }

  clogSetOne(status: number, entry: number): void {
    this.#begin(CLOG_SET, status, 4)
    this.buffer.writeUInt16LE(entry, 2)
  }

  offsetsSet(entry: number, memberOffset: number): void {
    this.#begin(OFFSETS_SET, 0, 8)
    this.buffer.writeUInt16LE(entry, 2)
    this.buffer.writeUInt32LE(memberOffset, 4)
  }

  /** Sets `entry` and the one behind it. */
  offsetsSetPair(entry: number, memberOffset: number, nextMemberOffset: number): void {
    this.#begin(OFFSETS_SET, 0, 12)
    this.buffer.writeUInt16LE(entry, 2)
    this.buffer.writeUInt32LE(memberOffset, 4)
    this.buffer.writeUInt32LE(nextMemberOffset, 8)
  }

  /** `members` holds (xid u32, status u32) pairs, as they lie in the WAL record, from `at` on. */
  membersSet(firstOffset: number, members: Buffer, at: number, count: number): void {
    this.#begin(MEMBERS_SET, 0, MEMBERS_HEADER + count * 8)
    this.buffer.writeUInt16LE(count, 2)
    this.buffer.writeUInt32LE(firstOffset, 4)
    members.copy(this.buffer, MEMBERS_HEADER, at, at + count * 8)
  }

  /** `timeAt` is where the eight bytes of the commit time lie in `source`. */
  commitTsSet(
    originId: number,
    source: Buffer,
    timeAt: number,
    entries: ArrayLike<number>,
    count: number,
  ): void {
    this.#begin(COMMIT_TS_SET, 0, COMMIT_TS_HEADER + count * 2)
    this.buffer.writeUInt16LE(originId, 2)
    source.copy(this.buffer, 4, timeAt, timeAt + 8)
    this.#entries(COMMIT_TS_HEADER, entries, count)
  }

  #begin(operation: number, parameter: number, length: number): void {
    if (length > this.buffer.length) this.buffer = Buffer.alloc(length * 2)
    this.buffer[0] = operation
    this.buffer[1] = parameter
    this.length = length
  }

  #entries(at: number, entries: ArrayLike<number>, count: number): void {
    for (let index = 0; index < count; index += 1) {
      this.buffer.writeUInt16LE(entries[index] as number, at + index * 2)
    }
  }
}

/**
 * Applies `op`, which the record ending at `lsn` made, to `page` in place. Applying it again gives
 * the same page. Throws `corrupt` for an operation that this version does not know.
 */
export function applyNativeOp(page: Buffer, op: Buffer, lsn: Lsn): void {
  switch (op[0] as number) {
    case VM_CLEAR:
      return vmClear(page, op, lsn)
    case VM_SET:
      return vmSet(page, op, lsn)
    case VM_TRUNCATE:
      return vmTruncate(page, op.readUInt16LE(2))
    case FSM_TRUNCATE:
      return fsmTruncate(page, op.readUInt16LE(2))
    case CLOG_SET:
      return clogSet(page, op)
    case OFFSETS_SET:
      op.copy(page, op.readUInt16LE(2) * 4, 4)
      return
    case MEMBERS_SET:
      return membersSet(page, op)
    case COMMIT_TS_SET:
      return commitTsSet(page, op)
    default:
      throw new ZenithError('corrupt', `page operation ${op[0]} does not exist`, {
        hint: 'The layer was written by a newer version or is damaged.',
      })
  }
}

/** Sets the LSN only when a bit changed, as visibilitymap_clear_locked's callers do. */
function vmClear(page: Buffer, op: Buffer, lsn: Lsn): void {
  let changed = false
  for (let at = 2; at < op.length; at += 2) {
    const heapBlock = op.readUInt16LE(at)
    const byte = PAGE_HEADER_SIZE + (heapBlock >> 2)
    const mask = (op[1] as number) << ((heapBlock & 3) * 2)
    const old = page[byte] as number
    if ((old & mask) === 0) continue
    page[byte] = old & ~mask
    changed = true
  }
  if (changed) setPageLsn(page, lsn)
}

function vmSet(page: Buffer, op: Buffer, lsn: Lsn): void {
  if (isNewPage(page)) initPage(page)
  const heapBlock = op.readUInt16LE(2)
  const bits = op[1] as number
  const byte = PAGE_HEADER_SIZE + (heapBlock >> 2)
  const shift = (heapBlock & 3) * 2
  const old = page[byte] as number
  if (((old >> shift) & VM_VALID_BITS) === bits) return
  page[byte] = old | (bits << shift)
  setPageLsn(page, lsn)
}

/** Clears the bits of heap blocks from `first` on (visibilitymap_prepare_truncate, vm_readbuf). */
function vmTruncate(page: Buffer, first: number): void {
  if (isNewPage(page)) initPage(page)
  const byte = PAGE_HEADER_SIZE + (first >> 2)
  page[byte] = (page[byte] as number) & ((1 << ((first & 3) * 2)) - 1)
  page.fill(0, byte + 1, PAGE_SIZE)
}

/** Clears slots from `first` on and rebuilds the tree above (fsm_truncate_avail in fsmpage.c). */
function fsmTruncate(page: Buffer, first: number): void {
  if (isNewPage(page)) initPage(page)
  const nodes = page.subarray(FSM_NODES_OFFSET, FSM_NODES_OFFSET + FSM_NODES_PER_PAGE)
  nodes.fill(0, FSM_NON_LEAF_NODES + first)
  for (let node = FSM_NON_LEAF_NODES - 1; node >= 0; node -= 1) {
    const left = nodes[node * 2 + 1] ?? 0
    const right = nodes[node * 2 + 2] ?? 0
    nodes[node] = Math.max(left, right)
  }
}

function clogSet(page: Buffer, op: Buffer): void {
  const status = op[1] as number
  for (let at = 2; at < op.length; at += 2) {
    const entry = op.readUInt16LE(at)
    const shift = (entry & 3) * 2
    const byte = entry >> 2
    page[byte] = ((page[byte] as number) & ~(3 << shift)) | (status << shift)
  }
}

function membersSet(page: Buffer, op: Buffer): void {
  const count = op.readUInt16LE(2)
  const first = op.readUInt32LE(4)
  for (let index = 0; index < count; index += 1) {
    const at = MEMBERS_HEADER + index * 8
    page.writeUInt32LE(op.readUInt32LE(at), memberXidOffset(first + index))
    page[memberFlagOffset(first + index)] = op[at + 4] as number
  }
}

function commitTsSet(page: Buffer, op: Buffer): void {
  for (let at = COMMIT_TS_HEADER; at < op.length; at += 2) {
    const entry = op.readUInt16LE(at) * COMMIT_TS_ENTRY_SIZE
    op.copy(page, entry, 4, 12)
    op.copy(page, entry + 8, 2, 4)
  }
}
