/**
 * pg_control of Postgres 17 (ControlFileData, catalog/pg_control.h): 296 bytes, little endian, in a
 * file of 8192. Offsets are those of x86-64 and arm64, the only layouts that Zenith runs on.
 *
 *     0 system id u64 | 8 version u32 | 12 catalog version u32 | 16 state u32 | 24 time i64
 *    32 checkpoint u64 | 40 CheckPoint (88) | 128 unlogged lsn u64 | 136 min recovery point u64
 *   144 its timeline u32 | 152 backup start u64 | 160 backup end u64 | 168 backup end required u8
 *   172 wal_level u32 | 176 wal_log_hints u8 | 180 max_connections | 184 max_worker_processes
 *   188 max_wal_senders | 192 max_prepared_xacts | 196 max_locks_per_xact | 200 track_commit_ts u8
 *   204 max align | 208 float check f64 | 216 block size | 220 blocks per file | 224 WAL block size
 *   228 WAL segment size | 232 name length | 236 index keys | 240 toast chunk | 244 lob chunk
 *   248 float8 by value u8 | 252 data checksum version u32 | 256 nonce (32) | 288 CRC-32C u32
 */
import { ZenithError } from '../errors.ts'
import { type Lsn, readLsnLE, WAL_SEGMENT_SIZE, writeLsnLE } from '../lsn.ts'
import { crc32c } from '../wal/crc32c.ts'
import { CHECKPOINT_SIZE, type Checkpoint, readCheckpoint, writeCheckpoint } from './checkpoint.ts'

const CONTROL_FILE_SIZE = 8192
export const CONTROL_DATA_SIZE = 296
export const CONTROL_VERSION_17 = 1700
const CHECKPOINT_OFFSET = 40
const CRC_OFFSET = 288
const PAGE_SIZE = 8192

/** DBState. */
export const DB_STATE = {
  startup: 0,
  shutDown: 1,
  shutDownInRecovery: 2,
  shuttingDown: 3,
  inCrashRecovery: 4,
  inArchiveRecovery: 5,
  inProduction: 6,
} as const

export type ControlFile = {
  systemId: bigint
  controlVersion: number
  catalogVersion: number
  state: number
  /** Seconds since 1970. */
  timeSeconds: number
  /** Where the last checkpoint record starts. */
  checkpointLsn: Lsn
  checkpoint: Checkpoint
  unloggedLsn: Lsn
  minRecoveryPoint: Lsn
  minRecoveryTimeline: number
  backupStartPoint: Lsn
  backupEndPoint: Lsn
  backupEndRequired: boolean
  walLevel: number
  walLogHints: boolean
  maxConnections: number
  maxWorkerProcesses: number
  maxWalSenders: number
  maxPreparedXacts: number
  maxLocksPerXact: number
  trackCommitTimestamp: boolean
  dataChecksumVersion: number
  /** Everything else (alignment, sizes, nonce) is carried over unchanged from here. */
  raw: Buffer
}

/**
 * Parses pg_control; `buffer` may be the whole file or its first 296 bytes. Throws `corrupt` on a
 * wrong CRC, `unsupported` on another version of Postgres or other page or segment sizes.
 */
export function parseControlFile(buffer: Buffer): ControlFile {
  if (buffer.length < CONTROL_DATA_SIZE) {
    throw new ZenithError('corrupt', `pg_control has ${buffer.length} bytes, too few to be one`)
  }
  const controlVersion = buffer.readUInt32LE(8)
  if (controlVersion !== CONTROL_VERSION_17) {
    throw new ZenithError(
      'unsupported',
      `pg_control has version ${controlVersion}; version ${CONTROL_VERSION_17} is supported`,
      { hint: 'Use a data directory made by Postgres 17.' },
    )
  }
  if (crc32c(buffer, 0, CRC_OFFSET) !== buffer.readUInt32LE(CRC_OFFSET)) {
    throw new ZenithError('corrupt', 'pg_control fails its checksum')
  }
  const pageSize = buffer.readUInt32LE(216)
  const segmentSize = buffer.readUInt32LE(228)
  if (pageSize !== PAGE_SIZE || segmentSize !== WAL_SEGMENT_SIZE) {
    throw new ZenithError(
      'unsupported',
      `the cluster has ${pageSize}-byte pages and ${segmentSize}-byte WAL segments`,
      { hint: 'Only 8 KiB pages and 16 MiB WAL segments, the defaults, are supported.' },
    )
  }
  return {
    systemId: buffer.readBigUInt64LE(0),
    controlVersion,
    catalogVersion: buffer.readUInt32LE(12),
    state: buffer.readUInt32LE(16),
    timeSeconds: Number(buffer.readBigInt64LE(24)),
    checkpointLsn: readLsnLE(buffer, 32),
    checkpoint: readCheckpoint(buffer, CHECKPOINT_OFFSET),
    unloggedLsn: readLsnLE(buffer, 128),
    minRecoveryPoint: readLsnLE(buffer, 136),
    minRecoveryTimeline: buffer.readUInt32LE(144),
    backupStartPoint: readLsnLE(buffer, 152),
    backupEndPoint: readLsnLE(buffer, 160),
    backupEndRequired: buffer[168] !== 0,
    walLevel: buffer.readUInt32LE(172),
    walLogHints: buffer[176] !== 0,
    maxConnections: buffer.readInt32LE(180),
    maxWorkerProcesses: buffer.readInt32LE(184),
    maxWalSenders: buffer.readInt32LE(188),
    maxPreparedXacts: buffer.readInt32LE(192),
    maxLocksPerXact: buffer.readInt32LE(196),
    trackCommitTimestamp: buffer[200] !== 0,
    dataChecksumVersion: buffer.readUInt32LE(252),
    raw: Buffer.from(buffer.subarray(0, CONTROL_DATA_SIZE)),
  }
}

/** The whole file, 8192 bytes, with a fresh CRC. */
export function serializeControlFile(control: ControlFile): Buffer {
  const file = Buffer.alloc(CONTROL_FILE_SIZE)
  control.raw.copy(file, 0, 0, CONTROL_DATA_SIZE)
  file.writeBigUInt64LE(control.systemId, 0)
  file.writeUInt32LE(control.controlVersion, 8)
  file.writeUInt32LE(control.catalogVersion, 12)
  file.writeUInt32LE(control.state, 16)
  file.writeBigInt64LE(BigInt(control.timeSeconds), 24)
  writeLsnLE(file, control.checkpointLsn, 32)
  writeCheckpoint(control.checkpoint, file, CHECKPOINT_OFFSET)
  writeLsnLE(file, control.unloggedLsn, CHECKPOINT_OFFSET + CHECKPOINT_SIZE)
  writeLsnLE(file, control.minRecoveryPoint, 136)
  file.writeUInt32LE(control.minRecoveryTimeline, 144)
  writeLsnLE(file, control.backupStartPoint, 152)
  writeLsnLE(file, control.backupEndPoint, 160)
  file[168] = control.backupEndRequired ? 1 : 0
  file.writeUInt32LE(control.walLevel, 172)
  file[176] = control.walLogHints ? 1 : 0
  file.writeInt32LE(control.maxConnections, 180)
  file.writeInt32LE(control.maxWorkerProcesses, 184)
  file.writeInt32LE(control.maxWalSenders, 188)
  file.writeInt32LE(control.maxPreparedXacts, 192)
  file.writeInt32LE(control.maxLocksPerXact, 196)
  file[200] = control.trackCommitTimestamp ? 1 : 0
  file.writeUInt32LE(control.dataChecksumVersion, 252)
  file.writeUInt32LE(crc32c(file, 0, CRC_OFFSET), CRC_OFFSET)
  return file
}
