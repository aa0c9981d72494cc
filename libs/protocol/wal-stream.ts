/**
 * WAL stream: a safekeeper to page servers, standbys and tools, as a stock walsender speaks it
 * (manual, 53.4) inside CopyBoth after START_REPLICATION. Big endian. One message per CopyData:
 *
 * ```
 * safekeeper -> client
 *  'w' WAL data: start u64 | wal_end u64 | sent_at i64 | WAL bytes
 *  'k' keepalive: wal_end u64 | sent_at i64 | reply_requested u8
 * client -> safekeeper
 *  'r' standby status: write u64 | flush u64 | apply u64 | sent_at i64 | reply_requested u8
 *  'h' hot standby feedback: sent_at i64 | xmin u32 | epoch u32 | catalog_xmin u32 | epoch u32
 *  'z' page server feedback: length i64 | feedback
 * feedback: n u8 | n x (key cstr | length u32 | value); unknown keys are skipped
 *   current_timeline_size u64 | ps_writelsn u64 (last received) | ps_flushlsn u64 (durable on its disk)
 *   | ps_applylsn u64 (durable in object storage) | ps_replytime i64 | shard_number u32
 *   | shard_count u32 | ps_incarnation u64
 * ```
 * Times are microseconds since 2000-01-01 UTC, as everywhere in Postgres.
 */
import { assert, ZenithError } from '../errors.ts'
import { formatLsn, type Lsn, readLsnBE, writeLsnBE } from '../lsn.ts'
import { ByteReader, ByteWriter } from './byte-reader.ts'
import type { StandbyXmins } from './standby-xmins.ts'

export const WAL_DATA_HEADER_SIZE = 25
export const TAG_WAL_DATA = 0x77
export const TAG_KEEPALIVE = 0x6b
export const TAG_STANDBY_STATUS = 0x72
export const TAG_HOT_STANDBY_FEEDBACK = 0x68
export const TAG_PAGESERVER_FEEDBACK = 0x7a

const POSTGRES_EPOCH_MS = 946_684_800_000
const TWO_32 = 4294967296
const MAX_VALUE_BYTES = 1024
/** Shards that one timeline may be spread over. */
export const MAX_SHARDS = 256

/** How far one shard of a timeline is on its page server. Decoded ones hold to the order of the three. */
export interface PageserverFeedback {
  /** All relations as of `lastReceivedLsn`, those of other shards too; 0 while it is not known. */
  currentTimelineSizeBytes: number
  /** End of the WAL that the page server has taken in (memory). */
  lastReceivedLsn: Lsn
  /** Durable on the page server's own disk; at most `lastReceivedLsn`. */
  diskConsistentLsn: Lsn
  /** Durable in object storage, the only one that frees WAL; at most `diskConsistentLsn`. */
  remoteConsistentLsn: Lsn
  replyTimeUs: bigint
  shardNumber: number
  /** Shards of the timeline; 1 when the sender does not say. */
  shardCount: number
  /** Random per stream: within one, positions only rise; another may begin lower. 0 when not told. */
  incarnation: number
}

export interface WalData {
  kind: 'wal-data'
  startLsn: Lsn
  /** The sender's current end of WAL (commit LSN), for lag. */
  walEndLsn: Lsn
  wal: Buffer
}

export interface Keepalive {
  kind: 'keepalive'
  walEndLsn: Lsn
  replyRequested: boolean
}

export interface StandbyStatus {
  kind: 'standby-status'
  writeLsn: Lsn
  flushLsn: Lsn
  applyLsn: Lsn
  replyRequested: boolean
}

export interface StandbyXmin {
  kind: 'hot-standby-feedback'
  xmin: number
  xminEpoch: number
  catalogXmin: number
  catalogXminEpoch: number
}

export interface FeedbackMessage {
  kind: 'pageserver-feedback'
  feedback: PageserverFeedback
}

/** Microseconds since 2000-01-01. Exact enough as a number for about 285 years. */
export function postgresTimeUs(nowMs: number): number {
  return Math.round((nowMs - POSTGRES_EPOCH_MS) * 1000)
}

function writeTime(target: Buffer, timeUs: number, offset: number): void {
  const high = Math.floor(timeUs / TWO_32)
  target.writeInt32BE(high, offset)
  target.writeUInt32BE(timeUs - high * TWO_32, offset + 4)
}

/** Writes the 25-byte header of a WAL data message; the WAL bytes follow in the same CopyData. */
export function writeWalDataHeader(
  target: Buffer,
  data: { startLsn: Lsn; walEndLsn: Lsn; sentAtUs: number },
): void {
  target[0] = TAG_WAL_DATA
  writeLsnBE(target, data.startLsn, 1)
  writeLsnBE(target, data.walEndLsn, 9)
  writeTime(target, data.sentAtUs, 17)
}

/** `walEndLsn` is the sender's end of WAL as of now; receivers take 0 for a sender that lost it all. */
export function encodeKeepalive(walEndLsn: Lsn, sentAtUs: number, replyRequested: boolean): Buffer {
  assert(walEndLsn > 0, 'a keepalive tells where the WAL ends')
  const target = Buffer.alloc(18)
  target[0] = TAG_KEEPALIVE
  writeLsnBE(target, walEndLsn, 1)
  writeTime(target, sentAtUs, 9)
  target[17] = replyRequested ? 1 : 0
  return target
}

export function encodeStandbyStatus(
  status: Omit<StandbyStatus, 'kind'> & { sentAtUs: number },
): Buffer {
  const target = Buffer.alloc(34)
  target[0] = TAG_STANDBY_STATUS
  writeLsnBE(target, status.writeLsn, 1)
  writeLsnBE(target, status.flushLsn, 9)
  writeLsnBE(target, status.applyLsn, 17)
  writeTime(target, status.sentAtUs, 25)
  target[33] = status.replyRequested ? 1 : 0
  return target
}

/** Hot standby feedback (XLogWalRcvSendHSFeedback); each id with its epoch, 0 for none. */
export function encodeHotStandbyFeedback(xmins: StandbyXmins, sentAtUs: number): Buffer {
  const target = Buffer.alloc(25)
  target[0] = TAG_HOT_STANDBY_FEEDBACK
  writeTime(target, sentAtUs, 1)
  target.writeUInt32BE(Number(xmins.xmin & 0xffffffffn), 9)
  target.writeUInt32BE(Number(xmins.xmin >> 32n), 13)
  target.writeUInt32BE(Number(xmins.catalogXmin & 0xffffffffn), 17)
  target.writeUInt32BE(Number(xmins.catalogXmin >> 32n), 21)
  return target
}

/** Decodes what a sender of WAL sends; `wal` is a view of the payload. Throws `invalid_argument`. */
export function decodeWalStreamMessage(payload: Buffer): WalData | Keepalive {
  if (payload[0] === TAG_WAL_DATA && payload.length >= WAL_DATA_HEADER_SIZE) {
    return {
      kind: 'wal-data',
      startLsn: readLsnBE(payload, 1),
      walEndLsn: readLsnBE(payload, 9),
      wal: payload.subarray(WAL_DATA_HEADER_SIZE),
    }
  }
  if (payload[0] === TAG_KEEPALIVE && payload.length >= 18) {
    return {
      kind: 'keepalive',
      walEndLsn: readLsnBE(payload, 1),
      replyRequested: payload[17] === 1,
    }
  }
  throw new ZenithError('invalid_argument', `WAL stream message with tag ${payload[0]} is unknown`)
}

/** Decodes what a receiver of WAL sends. Throws `invalid_argument`. */
export function decodeReceiverMessage(
  payload: Buffer,
): StandbyStatus | StandbyXmin | FeedbackMessage {
  const reader = new ByteReader(payload, 1, 'a WAL receiver message')
  if (payload[0] === TAG_STANDBY_STATUS) {
    const status = { writeLsn: reader.u64(), flushLsn: reader.u64(), applyLsn: reader.u64() }
    reader.bigI64()
    return { kind: 'standby-status', ...status, replyRequested: reader.u8() === 1 }
  }
  if (payload[0] === TAG_HOT_STANDBY_FEEDBACK) {
    reader.bigI64()
    return {
      kind: 'hot-standby-feedback',
      xmin: reader.u32(),
      xminEpoch: reader.u32(),
      catalogXmin: reader.u32(),
      catalogXminEpoch: reader.u32(),
    }
  }
  if (payload[0] === TAG_PAGESERVER_FEEDBACK) {
    const length = reader.u64()
    if (length !== reader.remaining) {
      throw new ZenithError('invalid_argument', 'page server feedback has a wrong length')
    }
    const feedback = readFeedback(reader)
    if (feedback === null) {
      throw new ZenithError('invalid_argument', 'page server feedback is empty')
    }
    return { kind: 'pageserver-feedback', feedback }
  }
  throw new ZenithError(
    'invalid_argument',
    `WAL receiver message with tag ${payload[0]} is unknown`,
  )
}

/** The whole 'z' message, as a page server sends it. */
export function encodePageserverFeedback(feedback: PageserverFeedback): Buffer {
  const body = new ByteWriter()
  writeFeedback(body, feedback)
  const bytes = body.finish()
  return new ByteWriter().u8(TAG_PAGESERVER_FEEDBACK).u64(bytes.length).bytes(bytes).finish()
}

/** One feedback with all its keys. */
export function writeFeedback(out: ByteWriter, feedback: PageserverFeedback): void {
  out.u8(8)
  out.cstring('current_timeline_size').u32(8).u64(feedback.currentTimelineSizeBytes)
  out.cstring('ps_writelsn').u32(8).u64(feedback.lastReceivedLsn)
  out.cstring('ps_flushlsn').u32(8).u64(feedback.diskConsistentLsn)
  out.cstring('ps_applylsn').u32(8).u64(feedback.remoteConsistentLsn)
  out.cstring('ps_replytime').u32(8).bigI64(feedback.replyTimeUs)
  out.cstring('shard_number').u32(4).u32(feedback.shardNumber)
  out.cstring('shard_count').u32(4).u32(feedback.shardCount)
  out.cstring('ps_incarnation').u32(8).u64(feedback.incarnation)
}

/**
 * Reads one feedback; null when it has no key. Unknown keys are skipped by their length. Throws
 * `invalid_argument` for a shard that cannot be and for positions out of order.
 */
export function readFeedback(reader: ByteReader): PageserverFeedback | null {
  const count = reader.u8()
  if (count === 0) return null
  const feedback: PageserverFeedback = {
    currentTimelineSizeBytes: 0,
    lastReceivedLsn: 0,
    diskConsistentLsn: 0,
    remoteConsistentLsn: 0,
    replyTimeUs: 0n,
    shardNumber: 0,
    shardCount: 1,
    incarnation: 0,
  }
  for (let left = count; left > 0; left -= 1) {
    const key = reader.cstring(64)
    const length = reader.u32()
    if (length > MAX_VALUE_BYTES) {
      throw new ZenithError('invalid_argument', `feedback value "${key}" has ${length} bytes`)
    }
    const value = new ByteReader(reader.bytes(length), 0, `feedback value "${key}"`)
    if (key === 'current_timeline_size') feedback.currentTimelineSizeBytes = value.u64()
    else if (key === 'ps_writelsn') feedback.lastReceivedLsn = value.u64()
    else if (key === 'ps_flushlsn') feedback.diskConsistentLsn = value.u64()
    else if (key === 'ps_applylsn') feedback.remoteConsistentLsn = value.u64()
    else if (key === 'ps_replytime') feedback.replyTimeUs = value.bigI64()
    else if (key === 'shard_number') feedback.shardNumber = value.u32()
    else if (key === 'shard_count') feedback.shardCount = value.u32()
    else if (key === 'ps_incarnation') feedback.incarnation = value.u64()
  }
  checkFeedback(feedback)
  return feedback
}

/** Positions that contradict one another come from a fault, and no WAL may be removed on their word. */
function checkFeedback(feedback: PageserverFeedback): void {
  const { shardNumber, shardCount } = feedback
  if (shardCount > MAX_SHARDS || shardNumber >= shardCount) {
    throw new ZenithError('invalid_argument', `there is no shard ${shardNumber} of ${shardCount}`)
  }
  const { lastReceivedLsn, diskConsistentLsn, remoteConsistentLsn } = feedback
  if (lastReceivedLsn >= diskConsistentLsn && diskConsistentLsn >= remoteConsistentLsn) return
  const [received, disk, remote] = [lastReceivedLsn, diskConsistentLsn, remoteConsistentLsn]
  throw new ZenithError(
    'invalid_argument',
    `a page server has received WAL up to ${formatLsn(received)}, and yet says that it has it ` +
      `on disk up to ${formatLsn(disk)} and in object storage up to ${formatLsn(remote)}`,
  )
}

/** As acks carry it: `n u16 | n x feedback`. */
export function writeFeedbacks(out: ByteWriter, feedbacks: readonly PageserverFeedback[]): void {
  out.u16(feedbacks.length)
  for (const feedback of feedbacks) writeFeedback(out, feedback)
}

/** Throws `invalid_argument` for more than there can be, and as `readFeedback`. */
export function readFeedbacks(reader: ByteReader): PageserverFeedback[] {
  const count = reader.u16()
  if (count > MAX_SHARDS) {
    throw new ZenithError('invalid_argument', `feedback of ${count} shards`)
  }
  const feedbacks: PageserverFeedback[] = []
  for (let left = count; left > 0; left -= 1) {
    const feedback = readFeedback(reader)
    if (feedback !== null) feedbacks.push(feedback)
  }
  return feedbacks
}
