/**
 * The Checkpoint key: Postgres' CheckPoint struct as it would be if a checkpoint happened at that
 * very LSN, and what else the page server must remember about the WAL it has taken in.
 *
 *     0 CheckPoint (88)
 *    88 format u16 (2; 1 lacks the last field) | 90 flags u8: 1 commit timestamps are kept, 2 the last checkpoint was a
 *       shutdown, 4 wal_log_hints | 91 zero | 92 multixact offsets page made ahead of time i32, -1 none
 *    96 tip u64: a record end; 104 start of the record that ends there
 *   112 start and 120 end of the last checkpoint record
 *   128 max_connections i32 | 132 max_worker_processes | 136 max_wal_senders
 *   140 max_prepared_transactions | 144 max_locks_per_transaction
 *   148 latest commit time so far, microseconds since 2000, i64; 0 when unknown
 */
import { ZenithError } from '#libs/errors.ts'
import { type Lsn, readLsnLE, writeLsnLE } from '#libs/lsn.ts'
import {
  CHECKPOINT_SIZE,
  type Checkpoint,
  readCheckpoint,
  writeCheckpoint,
} from '#libs/pg/checkpoint.ts'
import { type ControlFile, DB_STATE } from '#libs/pg/control-file.ts'
import { FIRST_NORMAL_XID, idPrecedes } from '#libs/pg/slru.ts'
import { KeyClass } from '../keyspace/key-class.ts'

const FORMAT = 2
const FIRST_FORMAT = 1
const FIRST_FORMAT_SIZE = 148
const FLAG_COMMIT_TS = 1
const FLAG_SHUTDOWN = 2
const FLAG_WAL_LOG_HINTS = 4
const TWO_32 = 4294967296
/** 2000-01-01 UTC, from which Postgres counts time, since 1970. */
const POSTGRES_EPOCH_SECONDS = 946_684_800

export const CHECKPOINT_STATE_SIZE = 156

export type CheckpointState = {
  checkpoint: Checkpoint
  commitTsActive: boolean
  walLogHints: boolean
  /** Multixact offsets page that a CREATE_ID initialised before its own record came, or -1. */
  preparedOffsetsPage: number
  /** A record end, and the start of the record that ends there; both 0 when unknown. */
  tipLsn: Lsn
  tipRecordLsn: Lsn
  /** The last checkpoint record, for hot standbys: they start at its redo position. */
  lastCheckpointLsn: Lsn
  lastCheckpointEndLsn: Lsn
  lastCheckpointWasShutdown: boolean
  maxConnections: number
  maxWorkerProcesses: number
  maxWalSenders: number
  maxPreparedXacts: number
  maxLocksPerXact: number
  /** The latest time that a commit so far has said, in microseconds since 2000; 0 when unknown. */
  lastCommitTimeUs: number
}

/** State right after the checkpoint that pg_control names, `endLsn` being that record's end. */
export function initialCheckpointState(control: ControlFile, endLsn: Lsn): CheckpointState {
  return {
    checkpoint: { ...control.checkpoint },
    commitTsActive: control.trackCommitTimestamp,
    walLogHints: control.walLogHints,
    preparedOffsetsPage: -1,
    tipLsn: endLsn,
    tipRecordLsn: control.checkpointLsn,
    lastCheckpointLsn: control.checkpointLsn,
    lastCheckpointEndLsn: endLsn,
    lastCheckpointWasShutdown: control.state === DB_STATE.shutDown,
    maxConnections: control.maxConnections,
    maxWorkerProcesses: control.maxWorkerProcesses,
    maxWalSenders: control.maxWalSenders,
    maxPreparedXacts: control.maxPreparedXacts,
    maxLocksPerXact: control.maxLocksPerXact,
    lastCommitTimeUs: (control.checkpoint.timeSeconds - POSTGRES_EPOCH_SECONDS) * 1e6,
  }
}

/** Writes the blob at the start of `buffer`, which has CHECKPOINT_STATE_SIZE bytes or more. */
export function writeCheckpointState(state: CheckpointState, buffer: Buffer): void {
  writeCheckpoint(state.checkpoint, buffer, 0)
  let flags = 0
  if (state.commitTsActive) flags |= FLAG_COMMIT_TS
  if (state.lastCheckpointWasShutdown) flags |= FLAG_SHUTDOWN
  if (state.walLogHints) flags |= FLAG_WAL_LOG_HINTS
  buffer.writeUInt16LE(FORMAT, CHECKPOINT_SIZE)
  buffer[90] = flags
  buffer[91] = 0
  buffer.writeInt32LE(state.preparedOffsetsPage, 92)
  writeLsnLE(buffer, state.tipLsn, 96)
  writeLsnLE(buffer, state.tipRecordLsn, 104)
  writeLsnLE(buffer, state.lastCheckpointLsn, 112)
  writeLsnLE(buffer, state.lastCheckpointEndLsn, 120)
  buffer.writeInt32LE(state.maxConnections, 128)
  buffer.writeInt32LE(state.maxWorkerProcesses, 132)
  buffer.writeInt32LE(state.maxWalSenders, 136)
  buffer.writeInt32LE(state.maxPreparedXacts, 140)
  buffer.writeInt32LE(state.maxLocksPerXact, 144)
  writeLsnLE(buffer, state.lastCommitTimeUs, 148)
}

/** The blob as bytes of its own, for imports. */
export function encodeCheckpointState(state: CheckpointState): Buffer {
  const blob = Buffer.alloc(CHECKPOINT_STATE_SIZE)
  writeCheckpointState(state, blob)
  return blob
}

/** Throws `corrupt` when the blob is cut or of another format. */
export function decodeCheckpointState(blob: Buffer): CheckpointState {
  const format = blob.length < FIRST_FORMAT_SIZE ? 0 : blob.readUInt16LE(CHECKPOINT_SIZE)
  const known = format === FORMAT ? blob.length >= CHECKPOINT_STATE_SIZE : format === FIRST_FORMAT
  if (!known) {
    throw new ZenithError('corrupt', `the stored checkpoint (${blob.length} bytes) is unreadable`)
  }
  const flags = blob[90] as number
  return {
    checkpoint: readCheckpoint(blob),
    commitTsActive: (flags & FLAG_COMMIT_TS) !== 0,
    walLogHints: (flags & FLAG_WAL_LOG_HINTS) !== 0,
    preparedOffsetsPage: blob.readInt32LE(92),
    tipLsn: readLsnLE(blob, 96),
    tipRecordLsn: readLsnLE(blob, 104),
    lastCheckpointLsn: readLsnLE(blob, 112),
    lastCheckpointEndLsn: readLsnLE(blob, 120),
    lastCheckpointWasShutdown: (flags & FLAG_SHUTDOWN) !== 0,
    maxConnections: blob.readInt32LE(128),
    maxWorkerProcesses: blob.readInt32LE(132),
    maxWalSenders: blob.readInt32LE(136),
    maxPreparedXacts: blob.readInt32LE(140),
    maxLocksPerXact: blob.readInt32LE(144),
    lastCommitTimeUs: format === FORMAT ? readLsnLE(blob, 148) : 0,
  }
}

type CheckpointReader = {
  slot(cls: number, spc: number, db: number, rel: number, fork: number): number
  readBlob(slot: number, blk: number, lsn: Lsn): Promise<Buffer | null>
}

export type CheckpointAt = CheckpointState & {
  /** Start of the record that ends at the LSN asked for; 0 when unknown. */
  previousRecordLsn: Lsn
  /** True when that record is a shutdown checkpoint: the server was stopped cleanly right there. */
  cleanShutdown: boolean
}

/**
 * The counters that a server must have to start at `lsn`, a record end. nextXid may be ahead of the
 * last transaction below `lsn` by what one batch of ingest brought, never behind it.
 * Throws `corrupt` when the timeline has no checkpoint there.
 */
export async function checkpointAt(timeline: CheckpointReader, lsn: Lsn): Promise<CheckpointAt> {
  const blob = await timeline.readBlob(timeline.slot(KeyClass.Checkpoint, 0, 0, 0, 0), 0, lsn)
  if (blob === null) {
    throw new ZenithError('corrupt', 'the timeline has no checkpoint at or below this LSN')
  }
  const state = decodeCheckpointState(blob)
  return {
    ...state,
    previousRecordLsn: state.tipLsn === lsn ? state.tipRecordLsn : 0,
    cleanShutdown: state.lastCheckpointWasShutdown && state.lastCheckpointEndLsn === lsn,
  }
}

/** True when `xid` is not below the next one, so that the counter must move. */
export function xidIsNew(nextXid: number, xid: number): boolean {
  return xid >= FIRST_NORMAL_XID && ((xid - (nextXid % TWO_32)) | 0) >= 0
}

/**
 * The counter past `xid`: 64 bits with the epoch, wraparound-aware, skipping the special xids.
 * Follows AdvanceNextFullTransactionIdPastXid; `xid` 0 to 2 change nothing.
 */
export function nextXidPast(nextXid: number, xid: number): number {
  if (!xidIsNew(nextXid, xid)) return nextXid
  const low = nextXid % TWO_32
  const next = nextXid + ((xid - low) | 0) + 1
  const special = next % TWO_32
  return special < FIRST_NORMAL_XID ? next + FIRST_NORMAL_XID - special : next
}

/** Full 64-bit id of a transaction that is not newer than `nextXid` (FullTransactionIdFromAllowableAt). */
export function fullXid(nextXid: number, xid: number): number {
  const low = nextXid % TWO_32
  if (xid < FIRST_NORMAL_XID) return xid
  const epochStart = nextXid - low
  return xid <= low ? epochStart + xid : Math.max(0, epochStart - TWO_32) + xid
}

/** The later of two multixact ids or member offsets, modulo 2^32 (MultiXactAdvanceNextMXact). */
export function laterId(a: number, b: number): number {
  return idPrecedes(a, b) ? b : a
}
