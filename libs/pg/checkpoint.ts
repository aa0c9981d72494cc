/**
 * The CheckPoint struct of Postgres 17, as it lies in checkpoint records and inside pg_control
 * (catalog/pg_control.h). 88 bytes, little endian:
 *
 *    0 redo u64 | 8 tli u32 | 12 prev_tli u32 | 16 full_page_writes u8 +3 | 20 wal_level u32
 *   24 next_xid u64 | 32 next_oid | 36 next_multi | 40 next_multi_offset | 44 oldest_xid
 *   48 oldest_xid_db | 52 oldest_multi | 56 oldest_multi_db | 60 zero | 64 time i64
 *   72 oldest_commit_ts_xid | 76 newest_commit_ts_xid | 80 oldest_active_xid | 84 zero
 */
import { ZenithError } from '../errors.ts'
import { type Lsn, readLsnLE, writeLsnLE } from '../lsn.ts'

export const CHECKPOINT_SIZE = 88

export type Checkpoint = {
  redo: Lsn
  walTimeline: number
  previousWalTimeline: number
  fullPageWrites: boolean
  /** 0 minimal, 1 replica, 2 logical. */
  walLevel: number
  /** Epoch and xid of the next transaction, below 2^53. */
  nextXid: number
  nextOid: number
  nextMulti: number
  nextMultiOffset: number
  oldestXid: number
  oldestXidDb: number
  oldestMulti: number
  oldestMultiDb: number
  /** Seconds since 1970. */
  timeSeconds: number
  oldestCommitTsXid: number
  newestCommitTsXid: number
  /** Oldest transaction that may still run; 0 in shutdown checkpoints. */
  oldestActiveXid: number
}

/** Reads the struct at `offset`. Throws `corrupt` when fewer than 88 bytes are there. */
export function readCheckpoint(buffer: Buffer, offset = 0): Checkpoint {
  if (buffer.length - offset < CHECKPOINT_SIZE) {
    throw new ZenithError('corrupt', `a checkpoint of ${buffer.length - offset} bytes is too short`)
  }
  return {
    redo: readLsnLE(buffer, offset),
    walTimeline: buffer.readUInt32LE(offset + 8),
    previousWalTimeline: buffer.readUInt32LE(offset + 12),
    fullPageWrites: buffer[offset + 16] !== 0,
    walLevel: buffer.readInt32LE(offset + 20),
    nextXid: readLsnLE(buffer, offset + 24),
    nextOid: buffer.readUInt32LE(offset + 32),
    nextMulti: buffer.readUInt32LE(offset + 36),
    nextMultiOffset: buffer.readUInt32LE(offset + 40),
    oldestXid: buffer.readUInt32LE(offset + 44),
    oldestXidDb: buffer.readUInt32LE(offset + 48),
    oldestMulti: buffer.readUInt32LE(offset + 52),
    oldestMultiDb: buffer.readUInt32LE(offset + 56),
    timeSeconds: Number(buffer.readBigInt64LE(offset + 64)),
    oldestCommitTsXid: buffer.readUInt32LE(offset + 72),
    newestCommitTsXid: buffer.readUInt32LE(offset + 76),
    oldestActiveXid: buffer.readUInt32LE(offset + 80),
  }
}

/** Writes the struct's 88 bytes at `offset`. */
export function writeCheckpoint(checkpoint: Checkpoint, buffer: Buffer, offset = 0): void {
  buffer.fill(0, offset, offset + CHECKPOINT_SIZE)
  writeLsnLE(buffer, checkpoint.redo, offset)
  buffer.writeUInt32LE(checkpoint.walTimeline, offset + 8)
  buffer.writeUInt32LE(checkpoint.previousWalTimeline, offset + 12)
  buffer[offset + 16] = checkpoint.fullPageWrites ? 1 : 0
  buffer.writeInt32LE(checkpoint.walLevel, offset + 20)
  writeLsnLE(buffer, checkpoint.nextXid, offset + 24)
  buffer.writeUInt32LE(checkpoint.nextOid, offset + 32)
  buffer.writeUInt32LE(checkpoint.nextMulti, offset + 36)
  buffer.writeUInt32LE(checkpoint.nextMultiOffset, offset + 40)
  buffer.writeUInt32LE(checkpoint.oldestXid, offset + 44)
  buffer.writeUInt32LE(checkpoint.oldestXidDb, offset + 48)
  buffer.writeUInt32LE(checkpoint.oldestMulti, offset + 52)
  buffer.writeUInt32LE(checkpoint.oldestMultiDb, offset + 56)
  buffer.writeBigInt64LE(BigInt(checkpoint.timeSeconds), offset + 64)
  buffer.writeUInt32LE(checkpoint.oldestCommitTsXid, offset + 72)
  buffer.writeUInt32LE(checkpoint.newestCommitTsXid, offset + 76)
  buffer.writeUInt32LE(checkpoint.oldestActiveXid, offset + 80)
}
