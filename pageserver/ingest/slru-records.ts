/** CLOG, CommitTs and MultiXact records: pages made and cut, multixacts and their members. */
import {
  CLOG_XACTS_PER_PAGE,
  COMMIT_TS_XACTS_PER_PAGE,
  FIRST_MULTIXACT_ID,
  idPrecedes,
  MULTIXACT_MEMBERS_PER_PAGE,
  MULTIXACT_OFFSETS_PER_PAGE,
  SLRU,
  SLRU_SEGMENT_PAGES,
  xidPrecedes,
} from '#libs/pg/slru.ts'
import { MULTIXACT_INFO, SLRU_INFO, XLR_RMGR_INFO_MASK } from '#libs/wal/format.ts'
import { laterId } from './checkpoint-state.ts'
import type { IngestContext } from './ingest-context.ts'

const TWO_32 = 4294967296
const LAST_MEMBER_SEGMENT = Math.floor(
  (TWO_32 - 1) / MULTIXACT_MEMBERS_PER_PAGE / SLRU_SEGMENT_PAGES,
)

/** Page numbers are 64-bit in the record, but no area has ids for more than this. */
const MAX_PAGES = Math.ceil(TWO_32 / COMMIT_TS_XACTS_PER_PAGE)

function readPage(context: IngestContext, main: Buffer): number {
  const page = Number(main.readBigInt64LE(0))
  if (page < 0 || page > MAX_PAGES) throw context.corrupt(`names the impossible page ${page}`)
  return page
}

/** Zero page: page i64. Truncate: page i64 | oldest xid u32 | its database u32 (clog_redo). */
export function ingestClogRecord(context: IngestContext): void {
  const main = context.main()
  const page = readPage(context, main)
  if ((context.record.info & XLR_RMGR_INFO_MASK) === SLRU_INFO.ZEROPAGE) {
    context.slrus.zeroPage(SLRU.xact, page, context.endLsn)
    return
  }
  const { checkpoint } = context.state
  const oldestXid = main.readUInt32LE(8)
  if (xidPrecedes(checkpoint.oldestXid, oldestXid)) {
    checkpoint.oldestXid = oldestXid
    checkpoint.oldestXidDb = main.readUInt32LE(12)
    context.stateChanged = true
  }
  const latest = ((checkpoint.nextXid % TWO_32) - 1) >>> 0
  const latestPage = Math.floor(latest / CLOG_XACTS_PER_PAGE)
  context.slrus.truncate(SLRU.xact, page, latestPage, context.endLsn)
}

/** As for CLOG; the truncate record names the oldest xid after the page (commit_ts_redo). */
export function ingestCommitTsRecord(context: IngestContext): void {
  const main = context.main()
  const page = readPage(context, main)
  if ((context.record.info & XLR_RMGR_INFO_MASK) === SLRU_INFO.ZEROPAGE) {
    context.slrus.zeroPage(SLRU.commitTs, page, context.endLsn)
    return
  }
  const { checkpoint } = context.state
  const oldestXid = main.readUInt32LE(8)
  if (checkpoint.oldestCommitTsXid !== 0 && xidPrecedes(checkpoint.oldestCommitTsXid, oldestXid)) {
    checkpoint.oldestCommitTsXid = oldestXid
    context.stateChanged = true
  }
  context.slrus.truncate(SLRU.commitTs, page, page, context.endLsn)
}

/** Follows multixact_redo (multixact.c). */
export function ingestMultixactRecord(context: IngestContext): void {
  const main = context.main()
  switch (context.record.info & XLR_RMGR_INFO_MASK) {
    case MULTIXACT_INFO.ZERO_OFF_PAGE:
      zeroOffsetsPage(context, readPage(context, main))
      return
    case MULTIXACT_INFO.ZERO_MEM_PAGE:
      context.slrus.zeroPage(SLRU.multixactMembers, readPage(context, main), context.endLsn)
      return
    case MULTIXACT_INFO.CREATE_ID:
      createMultixact(context, main)
      return
    case MULTIXACT_INFO.TRUNCATE_ID:
      truncateMultixacts(context, main)
      return
    default:
      throw context.corrupt(`has the unknown type ${context.record.info}`)
  }
}

/**
 * WAL of minor versions before 17.8 zeroes an offsets page only after the multixact before it has
 * already put its end there; that page was made then and must not be cleared now.
 */
function zeroOffsetsPage(context: IngestContext, page: number): void {
  const { state } = context
  const prepared = state.preparedOffsetsPage
  if (prepared !== -1) {
    state.preparedOffsetsPage = -1
    context.stateChanged = true
  }
  if (prepared !== page) context.slrus.zeroPage(SLRU.multixactOffsets, page, context.endLsn)
}

/**
 * xl_multixact_create: id u32 | offset of the first member u32 | members i32 | (xid, status) pairs.
 * Also the next id's offset is set: it is the end of this one (RecordNewMultiXact since 17.8).
 */
function createMultixact(context: IngestContext, main: Buffer): void {
  const { slrus, op, state, endLsn, belowLsn } = context
  const { checkpoint } = state
  const id = main.readUInt32LE(0)
  const firstOffset = main.readUInt32LE(4)
  const count = main.readInt32LE(8)
  if (count < 0 || main.length < 12 + count * 8) {
    throw context.corrupt(`has room for fewer than its ${count} members`)
  }
  const next = (id + 1) >>> 0 < FIRST_MULTIXACT_ID ? FIRST_MULTIXACT_ID : (id + 1) >>> 0
  const page = Math.floor(id / MULTIXACT_OFFSETS_PER_PAGE)
  const nextPage = Math.floor(next / MULTIXACT_OFFSETS_PER_PAGE)
  const end = (firstOffset + count) >>> 0

  slrus.ensurePage(SLRU.multixactOffsets, page, belowLsn)
  state.preparedOffsetsPage = -1
  if (!slrus.hasPage(SLRU.multixactOffsets, nextPage)) {
    slrus.zeroPage(SLRU.multixactOffsets, nextPage, belowLsn)
    state.preparedOffsetsPage = nextPage
  }
  for (let index = 0; index < count; index = memberPageEnd(firstOffset, index, count)) {
    slrus.ensurePage(SLRU.multixactMembers, memberPage(firstOffset, index), belowLsn)
  }

  // Offset 0 means "not set", so a multixact that ends at the wrap is said to end at 1.
  const nextOffset = end === 0 ? 1 : end
  const entry = id % MULTIXACT_OFFSETS_PER_PAGE
  if (nextPage === page) {
    op.offsetsSetPair(entry, firstOffset, nextOffset)
    slrus.putOp(SLRU.multixactOffsets, page, endLsn, op)
  } else {
    op.offsetsSet(entry, firstOffset)
    slrus.putOp(SLRU.multixactOffsets, page, endLsn, op)
    op.offsetsSet(next % MULTIXACT_OFFSETS_PER_PAGE, nextOffset)
    slrus.putOp(SLRU.multixactOffsets, nextPage, endLsn, op)
  }
  for (let index = 0; index < count; ) {
    const stop = memberPageEnd(firstOffset, index, count)
    op.membersSet((firstOffset + index) >>> 0, main, 12 + index * 8, stop - index)
    slrus.putOp(SLRU.multixactMembers, memberPage(firstOffset, index), endLsn, op)
    index = stop
  }

  checkpoint.nextMulti = laterId(checkpoint.nextMulti, (id + 1) >>> 0)
  checkpoint.nextMultiOffset = laterId(checkpoint.nextMultiOffset, end)
  for (let index = 0; index < count; index += 1) {
    context.sawXid(main.readUInt32LE(12 + index * 8))
  }
  context.stateChanged = true
}

function memberPage(firstOffset: number, index: number): number {
  return Math.floor(((firstOffset + index) >>> 0) / MULTIXACT_MEMBERS_PER_PAGE)
}

/** Index behind the last member that shares a page with member `index`; offsets wrap at 2^32. */
function memberPageEnd(firstOffset: number, index: number, count: number): number {
  const offset = (firstOffset + index) >>> 0
  const room = MULTIXACT_MEMBERS_PER_PAGE - (offset % MULTIXACT_MEMBERS_PER_PAGE)
  return Math.min(count, index + Math.min(room, TWO_32 - offset))
}

/**
 * xl_multixact_truncate: database u32 | start and end of the ids cut | start and end of the members
 * cut. Offsets go by page comparison, members by the range itself.
 */
function truncateMultixacts(context: IngestContext, main: Buffer): void {
  const { slrus, endLsn } = context
  const { checkpoint } = context.state
  const endId = main.readUInt32LE(8)
  if (idPrecedes(checkpoint.oldestMulti, endId)) {
    checkpoint.oldestMulti = endId
    checkpoint.oldestMultiDb = main.readUInt32LE(0)
    context.stateChanged = true
  }
  const segmentOf = (offset: number) =>
    Math.floor(offset / MULTIXACT_MEMBERS_PER_PAGE / SLRU_SEGMENT_PAGES)
  const lastSegment = segmentOf(main.readUInt32LE(16))
  let segment = segmentOf(main.readUInt32LE(12))
  while (segment !== lastSegment) {
    slrus.dropSegment(SLRU.multixactMembers, segment, endLsn)
    segment = segment === LAST_MEMBER_SEGMENT ? 0 : segment + 1
  }
  // One id back, because the page of `endId` itself may not have been made yet.
  const lastGone = endId === FIRST_MULTIXACT_ID ? TWO_32 - 1 : endId - 1
  const latestPage = Math.floor(checkpoint.nextMulti / MULTIXACT_OFFSETS_PER_PAGE)
  const cutoff = Math.floor(lastGone / MULTIXACT_OFFSETS_PER_PAGE)
  slrus.truncate(SLRU.multixactOffsets, cutoff, latestPage, endLsn)
}
