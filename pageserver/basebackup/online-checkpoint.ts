/**
 * An online checkpoint that is made for a hot standby, in the place of real WAL before an LSN: the
 * standby replays it from its data folder, and goes on with real WAL from a safekeeper.
 *
 *     A                                                    P          S
 *     | CHECKPOINT_REDO | RUNNING_XACTS | CHECKPOINT_ONLINE | NOOP | NOOP | real WAL
 *
 * P is where the last real record before S starts. The record at S names P as the one before it, so
 * the last made record must start exactly there. The records before P are where other real records
 * are; nobody reads those here.
 *
 * Its RUNNING_XACTS names every transaction that has not ended by S, subtransactions too, as
 * pg_xact has them. That is more than a primary can tell: it knows the members of a transaction
 * with more than 64 subtransactions no longer, and a standby that begins with what a primary logs
 * must wait for the end of such a transaction before it can answer queries.
 */
import { assert } from '#libs/errors.ts'
import { alignLsn, type Lsn, skipWalHeader, WAL_PAGE_SIZE, walPageOffset } from '#libs/lsn.ts'
import { CHECKPOINT_SIZE, type Checkpoint, writeCheckpoint } from '#libs/pg/checkpoint.ts'
import { RECORD_HEADER_SIZE, RMGR, STANDBY_INFO, XLOG_INFO } from '#libs/wal/format.ts'
import { dataLengthOf, encodeRecord, WalPages, type WalPart, walPayload } from './wal-pages.ts'

const TWO_32 = 4294967296
/** xl_running_xacts without its ids. */
const RUNNING_SIZE = 24
/** What is put in the place of one real record. More would be odd, and it is held in memory. */
const MAX_REPLACED_BYTES = 4 * 1024 * 1024

export interface OnlineCheckpoint {
  /** Where redo begins: A. */
  redoLsn: Lsn
  /** Where the CHECKPOINT_ONLINE record starts. */
  recordLsn: Lsn
  /** Contents of that record. */
  checkpoint: Checkpoint
  parts: WalPart[]
}

/**
 * Makes it. Null when there is no room for it: too near to the beginning of all WAL, or the real
 * record before `lsn` is too long.
 */
export function makeOnlineCheckpoint(input: {
  /** S. */
  lsn: Lsn
  /** P. */
  lastRecordLsn: Lsn
  systemId: bigint
  /** Counters as of S. */
  checkpoint: Checkpoint
  /** Xids that have not ended by S. */
  runningXids: readonly number[]
}): OnlineCheckpoint | null {
  const { lsn, lastRecordLsn } = input
  assert(lastRecordLsn < lsn, 'a record starts before it ends')
  if (lsn - lastRecordLsn > MAX_REPLACED_BYTES) return null
  const oldestActiveXid = oldestOf(input)
  const running = runningXacts(input.checkpoint.nextXid, oldestActiveXid, input.runningXids)
  const sizes = [4, running.length, CHECKPOINT_SIZE].map((length) =>
    alignLsn(RECORD_HEADER_SIZE + 5 + length),
  )
  const needed = sizes.reduce((sum, size) => sum + size, RECORD_HEADER_SIZE + 8)
  let first = lastRecordLsn - walPageOffset(lastRecordLsn)
  while (first > WAL_PAGE_SIZE && walPayload(first, lastRecordLsn) < needed) first -= WAL_PAGE_SIZE
  if (first <= WAL_PAGE_SIZE) return null

  const pages = new WalPages(input.systemId)
  const redoLsn = skipWalHeader(first)
  const checkpoint: Checkpoint = {
    ...input.checkpoint,
    redo: redoLsn,
    walTimeline: 1,
    previousWalTimeline: 1,
    fullPageWrites: false,
    oldestActiveXid,
  }
  let previousRecordLsn = 0
  let at = redoLsn
  const put = (rmid: number, info: number, data: Buffer) => {
    const recordLsn = skipWalHeader(at)
    at = pages.put(recordLsn, encodeRecord({ rmid, info, previousRecordLsn, data }))
    previousRecordLsn = recordLsn
    return recordLsn
  }
  const fillUpTo = (end: Lsn) => {
    const length = walPayload(at, end)
    put(RMGR.XLOG, XLOG_INFO.NOOP, Buffer.alloc(dataLengthOf(length)))
    assert(skipWalHeader(at) === skipWalHeader(end), `a made record ends at ${at}, not ${end}`)
  }
  const walLevel = Buffer.alloc(4)
  walLevel.writeInt32LE(checkpoint.walLevel)
  put(RMGR.XLOG, XLOG_INFO.CHECKPOINT_REDO, walLevel)
  put(RMGR.STANDBY, STANDBY_INFO.RUNNING_XACTS, running)
  const recordLsn = put(RMGR.XLOG, XLOG_INFO.CHECKPOINT_ONLINE, encodeCheckpoint(checkpoint))
  fillUpTo(lastRecordLsn)
  fillUpTo(lsn)
  return { redoLsn, recordLsn, checkpoint, parts: pages.parts() }
}

/** The oldest one by age; the next one when none is running. */
function oldestOf(input: { checkpoint: Checkpoint; runningXids: readonly number[] }): number {
  const next = input.checkpoint.nextXid % TWO_32
  return input.runningXids.reduce((oldest, xid) => (((xid - oldest) | 0) < 0 ? xid : oldest), next)
}

/**
 * xl_running_xacts: xcnt i32 | subxcnt i32 | overflow u8 +3 | next xid | oldest running xid |
 * latest completed xid | xids
 */
function runningXacts(nextXid: number, oldest: number, xids: readonly number[]): Buffer {
  const data = Buffer.alloc(RUNNING_SIZE + 4 * xids.length)
  const next = nextXid % TWO_32
  data.writeInt32LE(xids.length, 0)
  data.writeUInt32LE(next, 12)
  data.writeUInt32LE(oldest, 16)
  data.writeUInt32LE(next > 3 ? next - 1 : TWO_32 - 1, 20)
  xids.forEach((xid, index) => data.writeUInt32LE(xid, RUNNING_SIZE + 4 * index))
  return data
}

function encodeCheckpoint(checkpoint: Checkpoint): Buffer {
  const data = Buffer.alloc(CHECKPOINT_SIZE)
  writeCheckpoint(checkpoint, data)
  return data
}
