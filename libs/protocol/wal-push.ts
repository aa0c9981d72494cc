/**
 * WAL push: the proposer (compute) to an acceptor (safekeeper), protocol version 5. One message per
 * CopyData payload inside CopyBoth, after the query `START_WAL_PUSH (proto_version '5')`. Big endian
 * throughout; frames, order and meaning are drawn in `docs/protocols/wal-push.md`.
 *
 * ```
 * proposer -> acceptor
 *  'g' greeting: tenant cstr | timeline cstr | conf | pg_version u32 | system_id u64 | seg_size u32
 *                | proposer_id 16 bytes | connection_ordinal u32
 *  'v' vote request: generation u32 | term u64
 *  'e' elected: generation u32 | term u64 | start_streaming_at u64 | n u32 | n x (term u64, lsn u64)
 *  'a' append: generation u32 | term u64 | begin u64 | end u64 | commit u64 | truncate u64 | flags u8
 *              | crc32c u32 of the 46 bytes before | end - begin WAL bytes
 * acceptor -> proposer
 *  'g' greeting: node_id u64 | incarnation 16 bytes | conf | term u64 | last_log_term u64 | flush u64
 *  'v' vote: generation u32 | term u64 | given u8 | flush u64 | truncate u64 | n u32 | n x (term, lsn)
 *  'a' ack: generation u32 | term u64 | flush u64 | commit u64 | hs_ts i64 | hs_xmin u64
 *           | hs_catalog_xmin u64 | held_us u32 | sync_us u32
 *           | n u16 | n x feedback (see wal-stream.ts), one per shard
 * conf: generation u32 | n u32 | n x member | m u32 | m x member      (m = 0: not a joint one)
 * member: node_id u64 | host cstr | pg_port u16 | http_port u16
 * ```
 */
import { ZenithError } from '../errors.ts'
import { type Lsn, readLsnBE, writeLsnBE } from '../lsn.ts'
import { crc32c } from '../wal/crc32c.ts'
import { ByteReader, ByteWriter } from './byte-reader.ts'
import { isTermHistory, type TermEntry } from './term-history.ts'
import { type PageserverFeedback, readFeedbacks, writeFeedbacks } from './wal-stream.ts'

export const WAL_PUSH_VERSION = 5
export const START_WAL_PUSH = `START_WAL_PUSH (proto_version '${WAL_PUSH_VERSION}')`
/** WAL bytes in one append at most: what a stock walsender sends in one message. */
export const MAX_APPEND_BYTES = 128 * 1024
export const APPEND_HEADER_SIZE = 50
const APPEND_CRC_OFFSET = 46
/** Of an ack without feedback. */
const ACK_SIZE = 63

const MAX_MEMBERS = 64
const MAX_HISTORY = 1_000_000
const MAX_HOST_BYTES = 255

export interface Member {
  id: number
  host: string
  pgPort: number
  httpPort: number
}

/** Who holds the timeline. With `newMembers` both sets must agree (a change is under way). */
export interface MemberConfiguration {
  generation: number
  members: Member[]
  newMembers: Member[] | null
}

export interface ProposerGreeting {
  kind: 'greeting'
  tenantId: string
  timelineId: string
  configuration: MemberConfiguration
  pgVersion: number
  /** 0 when the proposer has no Postgres (sync mode). */
  systemId: bigint
  walSegmentSize: number
  /** Random per proposer life, hex. */
  proposerId: string
  /** Counts this proposer's connections to this acceptor, so that an older one can be told. */
  ordinal: number
}

export interface VoteRequest {
  kind: 'vote'
  generation: number
  term: number
}

export interface Elected {
  kind: 'elected'
  generation: number
  term: number
  startStreamingAt: Lsn
  history: TermEntry[]
}

export interface Append {
  kind: 'append'
  generation: number
  term: number
  beginLsn: Lsn
  endLsn: Lsn
  commitLsn: Lsn
  truncateLsn: Lsn
  /** An ack is wanted even when nothing moves (heartbeat). */
  replyRequested: boolean
  wal: Buffer
}

export type ProposerMessage = ProposerGreeting | VoteRequest | Elected | Append

export interface AcceptorGreeting {
  kind: 'greeting'
  nodeId: number
  /** Random per data folder, hex: tells a wiped safekeeper from the old member. */
  incarnation: string
  configuration: MemberConfiguration
  term: number
  /** Where the log ends at present, so that a proposer can look before it asks for votes. */
  lastLogTerm: number
  flushLsn: Lsn
}

export interface VoteReply {
  kind: 'vote'
  generation: number
  term: number
  given: boolean
  flushLsn: Lsn
  truncateLsn: Lsn
  history: TermEntry[]
}

export interface HotStandbyFeedback {
  timestampUs: bigint
  xmin: bigint
  catalogXmin: bigint
}

/** With `flushLsn` 0 and a term above the proposer's: "you are deposed". */
export interface Ack {
  kind: 'ack'
  generation: number
  term: number
  flushLsn: Lsn
  /** The commit LSN that is durable in the control file; it lags. */
  commitLsn: Lsn
  hotStandby: HotStandbyFeedback
  /** Microseconds from reading the newest covered append to this ack, and those of them in the disk. */
  heldUs: number
  syncUs: number
  /** Of each shard, the newest; empty when nothing changed since the ack before on this connection. */
  feedback: readonly PageserverFeedback[]
}

export type AcceptorMessage = AcceptorGreeting | VoteReply | Ack

export const NO_HOT_STANDBY: HotStandbyFeedback = { timestampUs: 0n, xmin: 0n, catalogXmin: 0n }

const TAG_GREETING = 0x67
const TAG_VOTE = 0x76
const TAG_ELECTED = 0x65
const TAG_APPEND = 0x61

function writeMembers(out: ByteWriter, members: readonly Member[]): void {
  out.u32(members.length)
  for (const member of members) {
    out.u64(member.id).cstring(member.host).u16(member.pgPort).u16(member.httpPort)
  }
}

function readMembers(reader: ByteReader): Member[] {
  const members: Member[] = []
  for (let left = reader.count(MAX_MEMBERS, 13); left > 0; left -= 1) {
    const member = {
      id: reader.u64(),
      host: reader.cstring(MAX_HOST_BYTES),
      pgPort: reader.u16(),
      httpPort: reader.u16(),
    }
    if (members.some((other) => other.id === member.id)) {
      throw new ZenithError('invalid_argument', `safekeeper ${member.id} is listed twice`)
    }
    members.push(member)
  }
  return members
}

export function writeConfiguration(out: ByteWriter, configuration: MemberConfiguration): void {
  out.u32(configuration.generation)
  writeMembers(out, configuration.members)
  writeMembers(out, configuration.newMembers ?? [])
}

export function readConfiguration(reader: ByteReader): MemberConfiguration {
  const generation = reader.u32()
  const members = readMembers(reader)
  const newMembers = readMembers(reader)
  return { generation, members, newMembers: newMembers.length === 0 ? null : newMembers }
}

export function writeHistory(out: ByteWriter, history: readonly TermEntry[]): void {
  out.u32(history.length)
  for (const entry of history) out.u64(entry.term).u64(entry.startLsn)
}

export function readHistory(reader: ByteReader): TermEntry[] {
  const history: TermEntry[] = []
  for (let left = reader.count(MAX_HISTORY, 16); left > 0; left -= 1) {
    history.push({ term: reader.u64(), startLsn: reader.u64() })
  }
  if (!isTermHistory(history)) {
    throw new ZenithError('invalid_argument', 'a term history must rise in term and position')
  }
  return history
}

/**
 * Writes the 50-byte header of an append at the start of `target`; the WAL bytes follow it in the
 * same CopyData. Apart from `encodeProposerMessage` so that WAL is sent from where it lies.
 */
export function writeAppendHeader(target: Buffer, append: Omit<Append, 'kind' | 'wal'>): void {
  target[0] = TAG_APPEND
  target.writeUInt32BE(append.generation, 1)
  writeLsnBE(target, append.term, 5)
  writeLsnBE(target, append.beginLsn, 13)
  writeLsnBE(target, append.endLsn, 21)
  writeLsnBE(target, append.commitLsn, 29)
  writeLsnBE(target, append.truncateLsn, 37)
  target[45] = append.replyRequested ? 1 : 0
  target.writeUInt32BE(crc32c(target, 0, APPEND_CRC_OFFSET), APPEND_CRC_OFFSET)
}

export function encodeProposerMessage(message: ProposerMessage): Buffer {
  const out = new ByteWriter()
  switch (message.kind) {
    case 'greeting':
      out.u8(TAG_GREETING).cstring(message.tenantId).cstring(message.timelineId)
      writeConfiguration(out, message.configuration)
      out.u32(message.pgVersion).bigU64(message.systemId).u32(message.walSegmentSize)
      out.bytes(Buffer.from(message.proposerId, 'hex')).u32(message.ordinal)
      break
    case 'vote':
      out.u8(TAG_VOTE).u32(message.generation).u64(message.term)
      break
    case 'elected':
      out.u8(TAG_ELECTED).u32(message.generation).u64(message.term).u64(message.startStreamingAt)
      writeHistory(out, message.history)
      break
    case 'append': {
      const header = Buffer.alloc(APPEND_HEADER_SIZE)
      writeAppendHeader(header, message)
      out.bytes(header).bytes(message.wal)
    }
  }
  return out.finish()
}

function decodeAppend(payload: Buffer): Append {
  if (payload.length < APPEND_HEADER_SIZE) {
    throw new ZenithError('invalid_argument', 'an append message is cut short')
  }
  if (crc32c(payload, 0, APPEND_CRC_OFFSET) !== payload.readUInt32BE(APPEND_CRC_OFFSET)) {
    throw new ZenithError('invalid_argument', 'the header of an append message has a wrong CRC')
  }
  const beginLsn = readLsnBE(payload, 13)
  const endLsn = readLsnBE(payload, 21)
  const wal = payload.subarray(APPEND_HEADER_SIZE)
  if (endLsn - beginLsn !== wal.length || wal.length > MAX_APPEND_BYTES) {
    throw new ZenithError(
      'invalid_argument',
      `an append message says ${endLsn - beginLsn} bytes and carries ${wal.length}`,
    )
  }
  return {
    kind: 'append',
    generation: payload.readUInt32BE(1),
    term: readLsnBE(payload, 5),
    beginLsn,
    endLsn,
    commitLsn: readLsnBE(payload, 29),
    truncateLsn: readLsnBE(payload, 37),
    replyRequested: payload[45] === 1,
    wal,
  }
}

/**
 * Decodes a message from a proposer; an append's `wal` is a view of the payload. Throws
 * `invalid_argument` for an unknown tag, cut or over-long message, or impossible contents.
 */
export function decodeProposerMessage(payload: Buffer): ProposerMessage {
  const tag = payload[0]
  if (tag === TAG_APPEND) return decodeAppend(payload)
  const reader = new ByteReader(payload, 1, 'a WAL push message')
  if (tag === TAG_VOTE) {
    const message: VoteRequest = { kind: 'vote', generation: reader.u32(), term: reader.u64() }
    reader.end()
    return message
  }
  if (tag === TAG_ELECTED) {
    const message: Elected = {
      kind: 'elected',
      generation: reader.u32(),
      term: reader.u64(),
      startStreamingAt: reader.u64(),
      history: readHistory(reader),
    }
    reader.end()
    return message
  }
  if (tag === TAG_GREETING) {
    const message: ProposerGreeting = {
      kind: 'greeting',
      tenantId: reader.cstring(32),
      timelineId: reader.cstring(32),
      configuration: readConfiguration(reader),
      pgVersion: reader.u32(),
      systemId: reader.bigU64(),
      walSegmentSize: reader.u32(),
      proposerId: reader.bytes(16).toString('hex'),
      ordinal: reader.u32(),
    }
    reader.end()
    return message
  }
  throw new ZenithError('invalid_argument', `WAL push message with unknown tag ${tag}`)
}

/** An ack without feedback, of which there is one for each synced write: 63 bytes, no writer. */
function shortAck(ack: Ack): Buffer {
  const target = Buffer.allocUnsafe(ACK_SIZE)
  target[0] = TAG_APPEND
  target.writeUInt32BE(ack.generation, 1)
  writeLsnBE(target, ack.term, 5)
  writeLsnBE(target, ack.flushLsn, 13)
  writeLsnBE(target, ack.commitLsn, 21)
  const { timestampUs, xmin, catalogXmin } = ack.hotStandby
  target.writeBigInt64BE(timestampUs, 29)
  target.writeBigUInt64BE(xmin, 37)
  target.writeBigUInt64BE(catalogXmin, 45)
  target.writeUInt32BE(ack.heldUs, 53)
  target.writeUInt32BE(ack.syncUs, 57)
  target.writeUInt16BE(0, 61)
  return target
}

export function encodeAcceptorMessage(message: AcceptorMessage): Buffer {
  const out = new ByteWriter()
  switch (message.kind) {
    case 'greeting':
      out.u8(TAG_GREETING).u64(message.nodeId).bytes(Buffer.from(message.incarnation, 'hex'))
      writeConfiguration(out, message.configuration)
      out.u64(message.term).u64(message.lastLogTerm).u64(message.flushLsn)
      break
    case 'vote':
      out
        .u8(TAG_VOTE)
        .u32(message.generation)
        .u64(message.term)
        .u8(message.given ? 1 : 0)
      out.u64(message.flushLsn).u64(message.truncateLsn)
      writeHistory(out, message.history)
      break
    case 'ack':
      if (message.feedback.length === 0) return shortAck(message)
      out.u8(TAG_APPEND).u32(message.generation).u64(message.term)
      out.u64(message.flushLsn).u64(message.commitLsn)
      out.bigI64(message.hotStandby.timestampUs)
      out.bigU64(message.hotStandby.xmin).bigU64(message.hotStandby.catalogXmin)
      out.u32(message.heldUs).u32(message.syncUs)
      writeFeedbacks(out, message.feedback)
  }
  return out.finish()
}

/** Decodes a message from an acceptor. Throws as `decodeProposerMessage`. */
export function decodeAcceptorMessage(payload: Buffer): AcceptorMessage {
  const reader = new ByteReader(payload, 1, 'a WAL push reply')
  const tag = payload[0]
  let message: AcceptorMessage
  if (tag === TAG_APPEND) {
    message = {
      kind: 'ack',
      generation: reader.u32(),
      term: reader.u64(),
      flushLsn: reader.u64(),
      commitLsn: reader.u64(),
      hotStandby: {
        timestampUs: reader.bigI64(),
        xmin: reader.bigU64(),
        catalogXmin: reader.bigU64(),
      },
      heldUs: reader.u32(),
      syncUs: reader.u32(),
      feedback: readFeedbacks(reader),
    }
  } else if (tag === TAG_VOTE) {
    message = {
      kind: 'vote',
      generation: reader.u32(),
      term: reader.u64(),
      given: reader.u8() === 1,
      flushLsn: reader.u64(),
      truncateLsn: reader.u64(),
      history: readHistory(reader),
    }
  } else if (tag === TAG_GREETING) {
    message = {
      kind: 'greeting',
      nodeId: reader.u64(),
      incarnation: reader.bytes(16).toString('hex'),
      configuration: readConfiguration(reader),
      term: reader.u64(),
      lastLogTerm: reader.u64(),
      flushLsn: reader.u64(),
    }
  } else {
    throw new ZenithError('invalid_argument', `WAL push reply with unknown tag ${tag}`)
  }
  reader.end()
  return message
}
