/** Transactions that have not ended by an LSN, as pg_xact has them. */
import type { Lsn } from '#libs/lsn.ts'
import { CLOG_XACTS_PER_PAGE, FIRST_NORMAL_XID, SLRU, TRANSACTION_STATUS } from '#libs/pg/slru.ts'
import { SLRU_PAGES_PER_SEGMENT } from '#libs/protocol/page-stream.ts'
import { type CheckpointState, fullXid } from '../ingest/checkpoint-state.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'

const TWO_32 = 4294967296
const XIDS_PER_BYTE = 4

/**
 * Xids of all that are in progress at `lsn`, subtransactions and prepared transactions too, in
 * order of age. Null when there are more than `limit`.
 */
export async function runningXids(
  timeline: Timeline,
  lsn: Lsn,
  state: CheckpointState,
  limit: number,
): Promise<number[] | null> {
  const { nextXid, oldestActiveXid, oldestXid } = state.checkpoint
  const oldest = oldestActiveXid >= FIRST_NORMAL_XID ? oldestActiveXid : oldestXid
  const found: number[] = []
  for (let at = fullXid(nextXid, oldest); at < nextXid; ) {
    const page = Math.floor(at / CLOG_XACTS_PER_PAGE)
    const end = Math.min(nextXid, (page + 1) * CLOG_XACTS_PER_PAGE)
    const content = await clogPage(timeline, lsn, page % (TWO_32 / CLOG_XACTS_PER_PAGE))
    for (; at < end; at++) {
      const xid = at % TWO_32
      if (xid >= FIRST_NORMAL_XID && isRunning(content, xid)) found.push(xid)
    }
    if (found.length > limit) return null
  }
  return found
}

function isRunning(page: Buffer | null, xid: number): boolean {
  const inPage = xid % CLOG_XACTS_PER_PAGE
  const byte = page?.[Math.floor(inPage / XIDS_PER_BYTE)] ?? 0
  const status = (byte >> (2 * (inPage % XIDS_PER_BYTE))) & 3
  return status === TRANSACTION_STATUS.inProgress || status === TRANSACTION_STATUS.subCommitted
}

/** Null for a page that was never written: nobody on it has ended. */
async function clogPage(timeline: Timeline, lsn: Lsn, page: number): Promise<Buffer | null> {
  const segment = Math.floor(page / SLRU_PAGES_PER_SEGMENT)
  const block = page % SLRU_PAGES_PER_SEGMENT
  const sizeSlot = timeline.slot(KeyClass.SlruSegSize, SLRU.xact, 0, segment, 0)
  const size = (await timeline.readBlob(sizeSlot, 0, lsn))?.readUInt32LE(0) ?? 0
  if (block >= size) return null
  const slot = timeline.slot(KeyClass.SlruBlock, SLRU.xact, 0, segment, 0)
  return timeline.readPages(slot, block, 1, lsn)
}
