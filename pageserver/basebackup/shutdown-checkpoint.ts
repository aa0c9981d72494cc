/**
 * The shutdown checkpoint that a base backup ends with. A server started from the backup finds it,
 * believes that it was stopped cleanly, and goes on writing right behind it; no recovery runs.
 *
 * The record is the one that Postgres itself writes after crash recovery (CreateCheckPoint in
 * xlog.c), placed at the backup's LSN S as XLogInsert would place it: across page and segment ends.
 * Whoever streams the server's WAL starts at S, so the record becomes ordinary WAL.
 *
 * Record, 114 bytes: 24 header | 0xFF, 88 (short main data) | 88 CheckPoint. Page headers it runs
 * across come on top, and the next record starts at the next multiple of 8.
 */
import { assert } from '#libs/errors.ts'
import {
  alignLsn,
  type Lsn,
  skipWalHeader,
  WAL_PAGE_SIZE,
  walHeaderSize,
  walPageOffset,
} from '#libs/lsn.ts'
import { CHECKPOINT_SIZE, type Checkpoint, writeCheckpoint } from '#libs/pg/checkpoint.ts'
import { RECORD_HEADER_SIZE, RMGR, XLOG_INFO } from '#libs/wal/format.ts'
import { encodeRecord, WalPages, type WalPart } from './wal-pages.ts'

const RECORD_SIZE = RECORD_HEADER_SIZE + 2 + CHECKPOINT_SIZE

export interface ShutdownCheckpoint {
  /** Where the record starts: S, or behind the page header when S is a page boundary. */
  recordLsn: Lsn
  /** Where the next record will be inserted. */
  endLsn: Lsn
  /** The contents of the record, for pg_control. */
  checkpoint: Checkpoint
  /** Ordered by position; one or two segments. */
  parts: WalPart[]
}

export interface ShutdownCheckpointInput {
  /** S. A multiple of 8, not inside a page header. */
  lsn: Lsn
  /** Start of the record before S, or 0 when unknown; readers that come from before S check it. */
  previousRecordLsn: Lsn
  systemId: bigint
  /** Counters as of S; redo and WAL timelines are replaced. */
  checkpoint: Checkpoint
}

/** True when a record (or the page header before one) can start at `lsn`. */
export function isRecordBoundary(lsn: Lsn): boolean {
  const offset = walPageOffset(lsn)
  return lsn % 8 === 0 && (offset === 0 || offset >= walHeaderSize(lsn - offset))
}

/**
 * The largest possible record boundary at or below `lsn`. No record ends between the two, so the
 * database is the same at both.
 */
export function floorToRecordBoundary(lsn: Lsn): Lsn {
  const aligned = lsn - (lsn % 8)
  return isRecordBoundary(aligned) ? aligned : aligned - walPageOffset(aligned)
}

/** Position after `length` bytes of a record that starts at `lsn`, page headers stepped over. */
export function walAdvance(lsn: Lsn, length: number): Lsn {
  let at = lsn
  let left = length
  while (left > 0) {
    at = skipWalHeader(at)
    const taken = Math.min(left, WAL_PAGE_SIZE - walPageOffset(at))
    at += taken
    left -= taken
  }
  return at
}

/** Where the WAL continues behind a shutdown checkpoint record that starts at `recordLsn`. */
export function shutdownCheckpointEnd(recordLsn: Lsn): Lsn {
  return alignLsn(walAdvance(recordLsn, RECORD_SIZE))
}

/** Makes the record and the WAL pages around it. */
export function makeShutdownCheckpoint(input: ShutdownCheckpointInput): ShutdownCheckpoint {
  assert(isRecordBoundary(input.lsn), `${input.lsn} is not a place where a record can start`)
  const recordLsn = skipWalHeader(input.lsn)
  const checkpoint: Checkpoint = {
    ...input.checkpoint,
    redo: recordLsn,
    walTimeline: 1,
    previousWalTimeline: 1,
    oldestActiveXid: 0,
  }
  const data = Buffer.alloc(CHECKPOINT_SIZE)
  writeCheckpoint(checkpoint, data)
  const { previousRecordLsn, systemId } = input
  const pages = new WalPages(systemId)
  const endLsn = pages.put(
    recordLsn,
    encodeRecord({
      rmid: RMGR.XLOG,
      info: XLOG_INFO.CHECKPOINT_SHUTDOWN,
      previousRecordLsn,
      data,
    }),
  )
  return { recordLsn, endLsn, checkpoint, parts: pages.parts() }
}
