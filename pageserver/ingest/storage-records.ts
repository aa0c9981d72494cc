/** Storage, RelMap and ReplicationOrigin records. */
import { readLsnLE } from '#libs/lsn.ts'
import { FSM_SLOTS_PER_PAGE, fsmBlockOf, HEAP_BLOCKS_PER_VM_PAGE } from '#libs/pg/page.ts'
import {
  FSM_FORK,
  MAIN_FORK,
  REPLORIGIN_INFO,
  SMGR_INFO,
  SMGR_TRUNCATE_FSM,
  SMGR_TRUNCATE_HEAP,
  SMGR_TRUNCATE_VM,
  VM_FORK,
  XLR_RMGR_INFO_MASK,
} from '#libs/wal/format.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { IngestContext } from './ingest-context.ts'
import { ABSENT } from './relation-table.ts'

const MAX_FORK = 3

/**
 * Create: relation (12) | fork i32. Truncate: blocks u32 | relation (12) | flags i32. Truncation
 * makes the relation if it is missing, as redo does (smgr_redo in storage.c).
 */
export function ingestStorageRecord(context: IngestContext): void {
  const main = context.main()
  const { relations, endLsn } = context
  if ((context.record.info & XLR_RMGR_INFO_MASK) === SMGR_INFO.CREATE) {
    const fork = main.readInt32LE(12)
    if (fork < 0 || fork > MAX_FORK) throw context.corrupt(`creates the unknown fork ${fork}`)
    const relation = relations.find(
      main.readUInt32LE(0),
      main.readUInt32LE(4),
      main.readUInt32LE(8),
      fork,
    )
    if (relations.size[relation] === ABSENT) context.putSize(relation, 0, endLsn)
    return
  }
  const blocks = main.readUInt32LE(0)
  const spc = main.readUInt32LE(4)
  const db = main.readUInt32LE(8)
  const rel = main.readUInt32LE(12)
  const flags = main.readInt32LE(16)
  const mainFork = relations.find(spc, db, rel, MAIN_FORK)
  const size = relations.size[mainFork] as number
  if (size === ABSENT) context.putSize(mainFork, 0, endLsn)
  else if ((flags & SMGR_TRUNCATE_HEAP) !== 0 && size > blocks) {
    context.putSize(mainFork, blocks, endLsn)
  }
  if ((flags & SMGR_TRUNCATE_FSM) !== 0) {
    truncateFsm(context, relations.find(spc, db, rel, FSM_FORK), blocks)
  }
  if ((flags & SMGR_TRUNCATE_VM) !== 0) {
    truncateVm(context, relations.find(spc, db, rel, VM_FORK), blocks)
  }
}

/** Clears the slots of cut heap blocks in the last page kept (FreeSpaceMapPrepareTruncateRel). */
function truncateFsm(context: IngestContext, fork: number, heapBlocks: number): void {
  const size = context.relations.size[fork] as number
  const lastBlock = fsmBlockOf(heapBlocks)
  const slot = heapBlocks % FSM_SLOTS_PER_PAGE
  if (size <= lastBlock) return
  if (slot > 0) {
    context.op.fsmTruncate(slot)
    context.putOp(context.relations.blockSlot[fork] as number, lastBlock)
  }
  const kept = slot > 0 ? lastBlock + 1 : lastBlock
  if (size > kept) context.putSize(fork, kept, context.endLsn)
}

/** Clears the bits of cut heap blocks in the last page kept (visibilitymap_prepare_truncate). */
function truncateVm(context: IngestContext, fork: number, heapBlocks: number): void {
  const size = context.relations.size[fork] as number
  const lastBlock = Math.floor(heapBlocks / HEAP_BLOCKS_PER_VM_PAGE)
  const inPage = heapBlocks % HEAP_BLOCKS_PER_VM_PAGE
  if (size <= lastBlock) return
  if (inPage > 0) {
    context.op.vmTruncate(inPage)
    context.putOp(context.relations.blockSlot[fork] as number, lastBlock)
  }
  const kept = inPage > 0 ? lastBlock + 1 : lastBlock
  if (size > kept) context.putSize(fork, kept, context.endLsn)
}

/** xl_relmap_update: database u32 (0 = shared) | tablespace u32 | length i32 | the file. */
export function ingestRelmapRecord(context: IngestContext): void {
  const main = context.main()
  const length = main.readInt32LE(8)
  if (length !== main.length - 12) throw context.corrupt(`says that its map has ${length} bytes`)
  const db = main.readUInt32LE(0)
  const spc = main.readUInt32LE(4)
  if (db !== 0) context.addDatabase(spc, db)
  const slot = context.target.slot(KeyClass.RelMap, spc, db, 0, 0)
  context.putBlob(slot, context.endLsn, main.subarray(12))
}

/** Set: remote lsn u64 | origin u16 | go backwards u8. Drop: origin u16 (replorigin_redo). */
export function ingestOriginRecord(context: IngestContext): void {
  const main = context.main()
  if ((context.record.info & XLR_RMGR_INFO_MASK) === REPLORIGIN_INFO.SET) {
    context.advanceOrigin(main.readUInt16LE(8), readLsnLE(main, 0), main.readUInt8(10) !== 0)
    return
  }
  const originId = main.readUInt16LE(0)
  context.origins.delete(originId)
  context.putTombstone(context.target.slot(KeyClass.ReplOrigin, 0, 0, originId, 0), context.endLsn)
}
