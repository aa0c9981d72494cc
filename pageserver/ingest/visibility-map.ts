/**
 * What heap records do to the visibility map. Setting bits names the map page as a block reference.
 * Clearing names it only in recent minor versions, and only when a bit was really set; before, and
 * else, the record's flags alone say that bits are to be cleared. Either way the page server keeps a
 * small operation for the map page instead of the record, so the map never needs the redo process.
 * Follows heap_xlog_vm_clear, heap_xlog_update and heap_xlog_visible (heapam.c).
 */
import {
  HEAP_BLOCKS_PER_VM_PAGE,
  VM_ALL_FROZEN,
  VM_ALL_VISIBLE,
  VM_VALID_BITS,
} from '#libs/pg/page.ts'
import { HEAP2_INFO, HEAP_INFO, HEAP_OPCODE_MASK, RMGR, VM_FORK } from '#libs/wal/format.ts'
import type { IngestContext } from './ingest-context.ts'

/** flags of xl_heap_insert, _multi_insert, _delete, _update (old page), _lock, _lock_updated. */
const CLEARED = 1
/** flags of xl_heap_update: the page that gets the new tuple. */
const NEW_CLEARED = 2

/** Block ids of heapam_xlog.h. */
const VM_OF_SINGLE = 1
const HEAP_NEW = 0
const HEAP_OLD = 1
const VM_NEW = 2
const VM_OLD = 3

/** Emits the operations on map pages; the caller stores the heap blocks. */
export function ingestVisibility(context: IngestContext): void {
  const { record } = context
  const bytes = record.buffer
  const main = record.mainOffset
  const opcode = record.info & HEAP_OPCODE_MASK
  if (record.rmid === RMGR.HEAP) {
    switch (opcode) {
      case HEAP_INFO.INSERT:
        clearSingle(context, (bytes[main + 2] as number) & CLEARED, VM_VALID_BITS)
        return
      case HEAP_INFO.DELETE:
        clearSingle(context, (bytes[main + 7] as number) & CLEARED, VM_VALID_BITS)
        return
      case HEAP_INFO.UPDATE:
      case HEAP_INFO.HOT_UPDATE:
        clearUpdated(context, bytes[main + 7] as number)
        return
      case HEAP_INFO.LOCK:
        clearSingle(context, (bytes[main + 7] as number) & CLEARED, VM_ALL_FROZEN)
        return
      default:
        return
    }
  }
  switch (opcode) {
    case HEAP2_INFO.MULTI_INSERT:
      clearSingle(context, (bytes[main] as number) & CLEARED, VM_VALID_BITS)
      return
    case HEAP2_INFO.LOCK_UPDATED:
      clearSingle(context, (bytes[main + 7] as number) & CLEARED, VM_ALL_FROZEN)
      return
    case HEAP2_INFO.VISIBLE:
      setVisible(context, (bytes[main + 4] as number) & VM_VALID_BITS)
      return
    default:
  }
}

/**
 * True when a heap record that names one block of a main fork leaves the map alone. `main` is where
 * its main data lies in `view`.
 */
export function leavesVisibility(
  rmid: number,
  info: number,
  view: DataView,
  main: number,
  mainLength: number,
): boolean {
  const opcode = info & HEAP_OPCODE_MASK
  let flags = 7
  let bits = CLEARED
  if (rmid === RMGR.HEAP) {
    switch (opcode) {
      case HEAP_INFO.INSERT:
        flags = 2
        break
      case HEAP_INFO.UPDATE:
      case HEAP_INFO.HOT_UPDATE:
        bits = CLEARED | NEW_CLEARED
        break
      case HEAP_INFO.DELETE:
      case HEAP_INFO.LOCK:
        break
      default:
        return true
    }
  } else if (opcode === HEAP2_INFO.VISIBLE) return false
  else if (opcode === HEAP2_INFO.MULTI_INSERT) flags = 0
  else if (opcode !== HEAP2_INFO.LOCK_UPDATED) return true
  return flags < mainLength && (view.getUint8(main + flags) & bits) === 0
}

function clearSingle(context: IngestContext, cleared: number, mask: number): void {
  if (cleared === 0) return
  const { record } = context
  const heap = record.indexOfBlock(HEAP_NEW)
  if (heap < 0) return
  const registered = mapReference(context, VM_OF_SINGLE)
  if (registered >= 0) clearRegistered(context, registered, mask, record.block[heap] as number)
  else clearImplied(context, heap, mask, record.block[heap] as number)
}

function clearUpdated(context: IngestContext, flags: number): void {
  if ((flags & (CLEARED | NEW_CLEARED)) === 0) return
  const { record } = context
  const heapNew = record.indexOfBlock(HEAP_NEW)
  if (heapNew < 0) return
  const heapOld = record.indexOfBlock(HEAP_OLD)
  const newBlock = record.block[heapNew] as number
  const oldBlock = heapOld < 0 ? newBlock : (record.block[heapOld] as number)
  const oldCleared = (flags & CLEARED) !== 0
  const vmNew = mapReference(context, VM_NEW)
  const vmOld = mapReference(context, VM_OLD)
  if (vmNew >= 0) {
    const shared = oldCleared && oldBlock !== newBlock && mapBlock(oldBlock) === mapBlock(newBlock)
    clearRegistered(context, vmNew, VM_VALID_BITS, newBlock, shared ? oldBlock : -1)
  }
  if (vmOld >= 0) clearRegistered(context, vmOld, VM_VALID_BITS, oldBlock)
  if (vmNew >= 0 || vmOld >= 0) return
  const newCleared = (flags & NEW_CLEARED) !== 0
  if (oldCleared && newCleared && oldBlock !== newBlock) {
    if (mapBlock(oldBlock) === mapBlock(newBlock)) {
      clearImplied(context, heapNew, VM_VALID_BITS, newBlock, oldBlock)
      return
    }
    clearImplied(context, heapNew, VM_VALID_BITS, newBlock)
    clearImplied(context, heapNew, VM_VALID_BITS, oldBlock)
    return
  }
  clearImplied(context, heapNew, VM_VALID_BITS, newCleared ? newBlock : oldBlock)
}

/** Index of block reference `id` if it names a map page, else -1. */
function mapReference({ record }: IngestContext, id: number): number {
  const index = record.indexOfBlock(id)
  return index >= 0 && record.fork[index] === VM_FORK ? index : -1
}

/** An image of the map page already has the bits cleared. */
function clearRegistered(
  context: IngestContext,
  index: number,
  mask: number,
  heapBlock: number,
  otherHeapBlock = -1,
): void {
  const { record, relations } = context
  if (record.appliesImage(index)) return
  const relation = relations.find(
    record.spc[index] as number,
    record.db[index] as number,
    record.rel[index] as number,
    record.fork[index] as number,
  )
  putClear(context, relation, record.block[index] as number, mask, heapBlock, otherHeapBlock)
}

/** Without a map page that reaches the block there is no bit to clear. */
function clearImplied(
  context: IngestContext,
  heap: number,
  mask: number,
  heapBlock: number,
  otherHeapBlock = -1,
): void {
  const { record, relations } = context
  const relation = relations.find(
    record.spc[heap] as number,
    record.db[heap] as number,
    record.rel[heap] as number,
    VM_FORK,
  )
  const block = mapBlock(heapBlock)
  if ((relations.size[relation] as number) <= block) return
  putClear(context, relation, block, mask, heapBlock, otherHeapBlock)
}

function putClear(
  context: IngestContext,
  relation: number,
  block: number,
  mask: number,
  heapBlock: number,
  otherHeapBlock: number,
): void {
  const other = otherHeapBlock < 0 ? -1 : otherHeapBlock % HEAP_BLOCKS_PER_VM_PAGE
  context.op.vmClear(mask, heapBlock % HEAP_BLOCKS_PER_VM_PAGE, other)
  context.putOp(context.relations.blockSlot[relation] as number, block)
}

/** Block 0 is the map page, block 1 the heap page. The caller made the map page if it was missing. */
function setVisible(context: IngestContext, bits: number): void {
  const { record, relations } = context
  const map = mapReference(context, 0)
  const heap = record.indexOfBlock(1)
  if (map < 0 || heap < 0 || (bits & VM_ALL_VISIBLE) === 0) return
  if (record.appliesImage(map)) return
  const relation = relations.find(
    record.spc[map] as number,
    record.db[map] as number,
    record.rel[map] as number,
    record.fork[map] as number,
  )
  context.op.vmSet(bits, (record.block[heap] as number) % HEAP_BLOCKS_PER_VM_PAGE)
  context.putOp(relations.blockSlot[relation] as number, record.block[map] as number)
}

function mapBlock(heapBlock: number): number {
  return Math.floor(heapBlock / HEAP_BLOCKS_PER_VM_PAGE)
}
