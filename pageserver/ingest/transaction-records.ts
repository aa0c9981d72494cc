/**
 * Transaction records: status bits, commit times, relations dropped, two-phase state files,
 * replication origins. Follows xact_redo (xact.c) and ParseCommitRecord (xactdesc.c).
 *
 * Commit and abort: time i64 | xinfo u32 (if flagged in xl_info) | db, tablespace | count, subxids |
 * count, relations (12) | count, statistics (12) | count, invalidations (16, commit only) |
 * two-phase xid u32 | its name, zero-ended | origin lsn u64, origin time i64
 */
import { readLsnLE } from '#libs/lsn.ts'
import {
  CLOG_XACTS_PER_PAGE,
  COMMIT_TS_XACTS_PER_PAGE,
  SLRU,
  TRANSACTION_STATUS,
  xidPrecedes,
} from '#libs/pg/slru.ts'
import { XACT_HAS_INFO, XACT_INFO, XACT_OPCODE_MASK } from '#libs/wal/format.ts'
import type { IngestContext } from './ingest-context.ts'

const HAS_DBINFO = 1
const HAS_SUBXACTS = 2
const HAS_RELATIONS = 4
const HAS_INVALIDATIONS = 8
const HAS_TWOPHASE = 16
const HAS_ORIGIN = 32
const HAS_GID = 128
const HAS_DROPPED_STATS = 256

const RELATION_SIZE = 12
const STATS_ITEM_SIZE = 12
const INVALIDATION_SIZE = 16
const PREPARE_HEADER_SIZE = 72
const TWO_32 = 4294967296

/** Where the parts of the commit or abort record lie in its main data. */
type Outcome = {
  subxidsAt: number
  subxidCount: number
  relationsAt: number
  relationCount: number
  twoPhaseXid: number
  /** Origin LSN, then origin time; -1 when the record has no origin. */
  originAt: number
}

export function ingestTransactionRecord(context: IngestContext): void {
  const { record } = context
  const opcode = record.info & XACT_OPCODE_MASK
  switch (opcode) {
    case XACT_INFO.COMMIT:
    case XACT_INFO.COMMIT_PREPARED:
      finish(context, true, opcode === XACT_INFO.COMMIT_PREPARED)
      return
    case XACT_INFO.ABORT:
    case XACT_INFO.ABORT_PREPARED:
      finish(context, false, opcode === XACT_INFO.ABORT_PREPARED)
      return
    case XACT_INFO.PREPARE:
      prepare(context)
      return
    case XACT_INFO.ASSIGNMENT: {
      // xl_xact_assignment: top xid u32 | count i32 | subxids
      const main = context.main()
      const count = main.readInt32LE(4)
      for (let index = 0; index < count; index += 1) {
        context.sawXid(main.readUInt32LE(8 + index * 4))
      }
      return
    }
    default:
  }
}

function finish(context: IngestContext, committed: boolean, prepared: boolean): void {
  const { record, state, endLsn } = context
  if (committed) {
    // Times are set before records are inserted, so they need not rise.
    const time = readLsnLE(record.buffer, record.mainOffset)
    if (time > state.lastCommitTimeUs) state.lastCommitTimeUs = time
  }
  if (committed && !state.commitTsActive && (record.info & XACT_HAS_INFO) === 0) {
    // The usual commit: no subtransactions, nothing dropped.
    setStatusOfOne(context, record.xid, TRANSACTION_STATUS.committed)
    return
  }
  const main = context.main()
  const outcome = parseOutcome(context, main, committed)
  const xid = prepared ? outcome.twoPhaseXid : record.xid
  const xids = [xid]
  for (let index = 0; index < outcome.subxidCount; index += 1) {
    xids.push(main.readUInt32LE(outcome.subxidsAt + index * 4))
  }
  for (const each of xids) context.sawXid(each)
  setStatus(context, xids, committed ? TRANSACTION_STATUS.committed : TRANSACTION_STATUS.aborted)
  if (committed && state.commitTsActive) {
    setCommitTime(context, xids, outcome.originAt, xids.at(-1) as number)
  }
  if (outcome.originAt >= 0) {
    context.advanceOrigin(record.originId, readLsnLE(main, outcome.originAt), false)
  }
  for (let index = 0; index < outcome.relationCount; index += 1) {
    const at = outcome.relationsAt + index * RELATION_SIZE
    context.dropRelation(
      main.readUInt32LE(at),
      main.readUInt32LE(at + 4),
      main.readUInt32LE(at + 8),
    )
  }
  if (prepared) {
    const full = context.fullXid(xid)
    context.prepared.delete(full)
    context.putTombstone(context.twoPhaseSlot(full), endLsn)
  }
}

function parseOutcome(context: IngestContext, main: Buffer, committed: boolean): Outcome {
  const outcome = {
    subxidsAt: 0,
    subxidCount: 0,
    relationsAt: 0,
    relationCount: 0,
    twoPhaseXid: 0,
    originAt: -1,
  }
  let at = 8
  if ((context.record.info & XACT_HAS_INFO) === 0) return outcome
  const xinfo = main.readUInt32LE(at)
  at += 4
  if ((xinfo & HAS_DBINFO) !== 0) at += 8
  const list = (itemSize: number): number => {
    const count = main.readInt32LE(at)
    at += 4
    if (count < 0 || main.length - at < count * itemSize) {
      throw context.corrupt(`has room for fewer than ${count} items`)
    }
    return count
  }
  if ((xinfo & HAS_SUBXACTS) !== 0) {
    outcome.subxidCount = list(4)
    outcome.subxidsAt = at
    at += outcome.subxidCount * 4
  }
  if ((xinfo & HAS_RELATIONS) !== 0) {
    outcome.relationCount = list(RELATION_SIZE)
    outcome.relationsAt = at
    at += outcome.relationCount * RELATION_SIZE
  }
  if ((xinfo & HAS_DROPPED_STATS) !== 0) {
    const count = list(STATS_ITEM_SIZE)
    at += count * STATS_ITEM_SIZE
  }
  if (committed && (xinfo & HAS_INVALIDATIONS) !== 0) {
    const count = list(INVALIDATION_SIZE)
    at += count * INVALIDATION_SIZE
  }
  if ((xinfo & HAS_TWOPHASE) !== 0) {
    outcome.twoPhaseXid = main.readUInt32LE(at)
    at += 4
    if ((xinfo & HAS_GID) !== 0) {
      const zero = main.indexOf(0, at)
      if (zero < 0) throw context.corrupt('has a transaction name without an end')
      at = zero + 1
    }
  }
  if ((xinfo & HAS_ORIGIN) !== 0) {
    if (main.length - at < 16) throw context.corrupt('is too short for its origin')
    outcome.originAt = at
  }
  return outcome
}

function setStatusOfOne(context: IngestContext, xid: number, status: number): void {
  const page = Math.floor(xid / CLOG_XACTS_PER_PAGE)
  context.slrus.ensurePage(SLRU.xact, page, context.belowLsn)
  context.op.clogSetOne(status, xid % CLOG_XACTS_PER_PAGE)
  context.slrus.putOp(SLRU.xact, page, context.endLsn, context.op)
}

function setStatus(context: IngestContext, xids: number[], status: number): void {
  const { slrus, op, endLsn, belowLsn } = context
  const pages = byPage(xids, CLOG_XACTS_PER_PAGE)
  for (const page of pages.keys()) slrus.ensurePage(SLRU.xact, page, belowLsn)
  if (status === TRANSACTION_STATUS.committed && context.state.commitTsActive) {
    // Their zero pages must come before anything at the record's end.
    for (const page of byPage(xids, COMMIT_TS_XACTS_PER_PAGE).keys()) {
      slrus.ensurePage(SLRU.commitTs, page, belowLsn)
    }
  }
  for (const [page, entries] of pages) {
    op.clogSet(status, entries, entries.length)
    slrus.putOp(SLRU.xact, page, endLsn, op)
  }
}

/**
 * Stores when the transactions committed: the origin's time if `originAt` points to an origin, else
 * the record's own. The newest xid with a time may be told ahead, up to the last xid of the batch.
 */
function setCommitTime(
  context: IngestContext,
  xids: number[],
  originAt: number,
  newest: number,
): void {
  const { slrus, op, record, state, endLsn } = context
  const timeAt = record.mainOffset + (originAt < 0 ? 0 : originAt + 8)
  const originId = originAt < 0 ? 0 : record.originId
  for (const [page, entries] of byPage(xids, COMMIT_TS_XACTS_PER_PAGE)) {
    op.commitTsSet(originId, record.buffer, timeAt, entries, entries.length)
    slrus.putOp(SLRU.commitTs, page, endLsn, op)
  }
  const { checkpoint } = state
  if (xidPrecedes(checkpoint.newestCommitTsXid, newest)) {
    checkpoint.newestCommitTsXid = ((checkpoint.nextXid % TWO_32) - 1) >>> 0
    context.stateChanged = true
  }
}

/** Page -> entries within it, in the order of the ids. */
function byPage(ids: number[], perPage: number): Map<number, number[]> {
  const pages = new Map<number, number[]>()
  for (const id of ids) {
    const page = Math.floor(id / perPage)
    const entries = pages.get(page)
    if (entries === undefined) pages.set(page, [id % perPage])
    else entries.push(id % perPage)
  }
  return pages
}

/**
 * xl_xact_prepare: magic u32 | length u32 | 8 xid u32 | database | 16 time i64 | owner u32 |
 * 28 subxids i32 | commit rels | abort rels | commit stats | abort stats | invalidations |
 * 52 flag u8 | 54 name length u16 | 56 origin lsn u64 | origin time i64 | 72 name | subxids, ...
 * The main data is the state file but for its checksum.
 */
function prepare(context: IngestContext): void {
  const main = context.main()
  const { record, endLsn } = context
  if (main.length < PREPARE_HEADER_SIZE) throw context.corrupt('is too short for its header')
  const xid = main.readUInt32LE(8)
  const subxids = main.readInt32LE(28)
  const nameLength = main.readUInt16LE(54)
  const subxidsAt = PREPARE_HEADER_SIZE + Math.ceil(nameLength / 8) * 8
  if (subxids < 0 || main.length < subxidsAt + subxids * 4) {
    throw context.corrupt(`has room for fewer than its ${subxids} subtransactions`)
  }
  context.sawXid(xid)
  for (let index = 0; index < subxids; index += 1) {
    context.sawXid(main.readUInt32LE(subxidsAt + index * 4))
  }
  const full = context.fullXid(xid)
  context.prepared.add(full)
  context.putBlob(context.twoPhaseSlot(full), endLsn, main)
  if (record.originId !== 0) {
    context.advanceOrigin(record.originId, readLsnLE(main, 56), false)
  }
}
