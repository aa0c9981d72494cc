/**
 * Page stream: how a compute asks the pageserver for pages. The frames travel as CopyData payloads
 * inside a Postgres session after the query `pagestream <tenant> <timeline>`; every integer is big
 * endian. `docs/protocols/page-stream.md` tells the rules of the conversation.
 *
 * Request header, 25 bytes:
 *
 *     0      1                9                 17                       25
 *     +------+----------------+-----------------+------------------------+
 *     | tag  | request_id u64 | request_lsn u64 | not_modified_since u64 |
 *     +------+----------------+-----------------+------------------------+
 *
 *     'E' exists   + spc u32 | db u32 | rel u32 | fork u8
 *     'N' nblocks  + spc u32 | db u32 | rel u32 | fork u8
 *     'D' dbsize   + db u32
 *     'T' tblspc   + spc u32
 *     'G' getpage  + spc u32 | db u32 | rel u32 | fork u8 | first_block u32 | count u16
 *     'S' slru     + kind u8 | segno u32
 *
 * Response header, 17 bytes: tag | request_id u64 | lsn u64
 *
 *     'e' + u8    'n' + u32    'd' + u64    'g' + first_block u32 | count u16 | count * 8192 bytes
 *     't' + u64 bytes | n u32 | n * (db u32)
 *     's' + npages u32 | npages * 8192 bytes            'x' + sqlstate 5 bytes | message cstr
 */
import { ZenithError } from '#libs/errors.ts'
import { type Lsn, readLsnBE, writeLsnBE } from '#libs/lsn.ts'

export const PAGE_SIZE = 8192
/** Blocks that one getpage request may ask for. */
export const MAX_PAGES_PER_REQUEST = 64
/** Pages in one SLRU segment file (SLRU_PAGES_PER_SEGMENT). */
export const SLRU_PAGES_PER_SEGMENT = 32
/** `request_lsn` of a request that wants the newest version: all ones on the wire. */
export const LATEST_LSN: Lsn = Number.MAX_SAFE_INTEGER

export const REQUEST_HEADER_SIZE = 25
const RESPONSE_HEADER_SIZE = 17
export const GETPAGE_REPLY_HEADER_SIZE = RESPONSE_HEADER_SIZE + 6
const SLRU_REPLY_HEADER_SIZE = RESPONSE_HEADER_SIZE + 4

const ALL_ONES = 0xffffffff
const MAX_FORK = 3
const MAX_SLRU_KIND = 3
const MAX_BLOCK = 0xfffffffe

const Tag = {
  exists: 0x45,
  nblocks: 0x4e,
  dbsize: 0x44,
  tablespace: 0x54,
  getpage: 0x47,
  slru: 0x53,
  existsReply: 0x65,
  nblocksReply: 0x6e,
  dbsizeReply: 0x64,
  tablespaceReply: 0x74,
  getpageReply: 0x67,
  slruReply: 0x73,
  errorReply: 0x78,
} as const

export interface RelationFork {
  spc: number
  db: number
  rel: number
  /** 0 main, 1 free space map, 2 visibility map, 3 init. */
  fork: number
}

interface RequestBase {
  requestId: bigint
  /** Read as of this LSN at the latest; `LATEST_LSN` for the newest version. */
  requestLsn: Lsn
  /** The sender knows of no change of the object after this LSN, and of none it must not miss. */
  notModifiedSince: Lsn
}

export type ExistsRequest = RequestBase & RelationFork & { kind: 'exists' }
export type NblocksRequest = RequestBase & RelationFork & { kind: 'nblocks' }
export type DbsizeRequest = RequestBase & { kind: 'dbsize'; db: number }
export type TablespaceRequest = RequestBase & { kind: 'tablespace'; spc: number }
export type GetPageRequest = RequestBase &
  RelationFork & { kind: 'getpage'; firstBlock: number; count: number }
export type SlruRequest = RequestBase & { kind: 'slru'; slru: number; segment: number }
export type PageStreamRequest =
  | ExistsRequest
  | NblocksRequest
  | DbsizeRequest
  | TablespaceRequest
  | GetPageRequest
  | SlruRequest

interface ResponseBase {
  requestId: bigint
  /** The LSN as of which the answer holds. */
  lsn: Lsn
}

export type PageStreamResponse = ResponseBase &
  (
    | { kind: 'exists'; exists: boolean }
    | { kind: 'nblocks'; blocks: number }
    | { kind: 'dbsize'; sizeBytes: bigint }
    | { kind: 'tablespace'; sizeBytes: bigint; databases: number[] }
    | { kind: 'getpage'; firstBlock: number; pages: Buffer[] }
    | { kind: 'slru'; pages: Buffer[] }
    | { kind: 'error'; sqlState: string; message: string }
  )

function malformed(message: string): ZenithError {
  return new ZenithError('invalid_argument', `malformed page stream frame: ${message}`)
}

function tagName(tag: number): string {
  const printable = tag > 0x20 && tag < 0x7f
  return printable ? `'${String.fromCharCode(tag)}'` : `0x${tag.toString(16)}`
}

function expectLength(frame: Buffer, expected: number, what: string): void {
  if (frame.length !== expected) {
    throw malformed(`${what} must be ${expected} bytes, got ${frame.length}`)
  }
}

function readRequestLsn(frame: Buffer, offset: number): Lsn {
  if (frame.readUInt32BE(offset) === ALL_ONES && frame.readUInt32BE(offset + 4) === ALL_ONES) {
    return LATEST_LSN
  }
  return readLsnBE(frame, offset)
}

function writeRequestLsn(frame: Buffer, lsn: Lsn, offset: number): void {
  if (lsn === LATEST_LSN) frame.fill(0xff, offset, offset + 8)
  else writeLsnBE(frame, lsn, offset)
}

/** The id of a request that does not decode, so that its error can still be answered. */
export function requestIdOf(frame: Buffer): bigint | null {
  return frame.length >= 9 ? frame.readBigUInt64BE(1) : null
}

/**
 * Decodes one request; the result keeps no reference to `frame`.
 * Throws `invalid_argument` for an unknown tag, a wrong length or a field out of its range.
 */
export function decodeRequest(frame: Buffer): PageStreamRequest {
  if (frame.length < REQUEST_HEADER_SIZE) {
    throw malformed(`a request is at least ${REQUEST_HEADER_SIZE} bytes, got ${frame.length}`)
  }
  const tag = frame[0] as number
  const base = {
    requestId: frame.readBigUInt64BE(1),
    requestLsn: readRequestLsn(frame, 9),
    notModifiedSince: readLsnBE(frame, 17),
  }
  switch (tag) {
    case Tag.exists:
      expectLength(frame, REQUEST_HEADER_SIZE + 13, 'an exists request')
      return { kind: 'exists', ...base, ...readRelation(frame) }
    case Tag.nblocks:
      expectLength(frame, REQUEST_HEADER_SIZE + 13, 'an nblocks request')
      return { kind: 'nblocks', ...base, ...readRelation(frame) }
    case Tag.dbsize:
      expectLength(frame, REQUEST_HEADER_SIZE + 4, 'a dbsize request')
      return { kind: 'dbsize', ...base, db: frame.readUInt32BE(25) }
    case Tag.tablespace:
      expectLength(frame, REQUEST_HEADER_SIZE + 4, 'a tablespace request')
      return { kind: 'tablespace', ...base, spc: frame.readUInt32BE(25) }
    case Tag.getpage:
      expectLength(frame, REQUEST_HEADER_SIZE + 19, 'a getpage request')
      return { kind: 'getpage', ...base, ...readRelation(frame), ...readBlockRange(frame) }
    case Tag.slru:
      expectLength(frame, REQUEST_HEADER_SIZE + 5, 'an SLRU request')
      return { kind: 'slru', ...base, ...readSlruSegment(frame) }
    default:
      throw malformed(`unknown request tag ${tagName(tag)}`)
  }
}

function readRelation(frame: Buffer): RelationFork {
  const fork = frame[37] as number
  if (fork > MAX_FORK) throw malformed(`fork ${fork} does not exist (0 to ${MAX_FORK})`)
  return {
    spc: frame.readUInt32BE(25),
    db: frame.readUInt32BE(29),
    rel: frame.readUInt32BE(33),
    fork,
  }
}

function readBlockRange(frame: Buffer): { firstBlock: number; count: number } {
  const firstBlock = frame.readUInt32BE(38)
  const count = frame.readUInt16BE(42)
  if (count < 1 || count > MAX_PAGES_PER_REQUEST) {
    throw malformed(`a getpage request asks for 1 to ${MAX_PAGES_PER_REQUEST} blocks, not ${count}`)
  }
  if (firstBlock + count - 1 > MAX_BLOCK) {
    throw malformed(`block ${firstBlock} + ${count} is beyond the largest block number`)
  }
  return { firstBlock, count }
}

function readSlruSegment(frame: Buffer): { slru: number; segment: number } {
  const slru = frame[25] as number
  if (slru > MAX_SLRU_KIND) throw malformed(`SLRU kind ${slru} does not exist (0 to 3)`)
  return { slru, segment: frame.readUInt32BE(26) }
}

/** Encodes one request, as a compute does. */
export function encodeRequest(request: PageStreamRequest): Buffer {
  switch (request.kind) {
    case 'exists':
      return encodeRelationRequest(Tag.exists, request, 13)
    case 'nblocks':
      return encodeRelationRequest(Tag.nblocks, request, 13)
    case 'dbsize': {
      const frame = encodeRequestHeader(Tag.dbsize, request, 4)
      frame.writeUInt32BE(request.db, 25)
      return frame
    }
    case 'tablespace': {
      const frame = encodeRequestHeader(Tag.tablespace, request, 4)
      frame.writeUInt32BE(request.spc, 25)
      return frame
    }
    case 'getpage': {
      const frame = encodeRelationRequest(Tag.getpage, request, 19)
      frame.writeUInt32BE(request.firstBlock, 38)
      frame.writeUInt16BE(request.count, 42)
      return frame
    }
    case 'slru': {
      const frame = encodeRequestHeader(Tag.slru, request, 5)
      frame.writeUInt8(request.slru, 25)
      frame.writeUInt32BE(request.segment, 26)
      return frame
    }
  }
}

function encodeRequestHeader(tag: number, request: RequestBase, bodySize: number): Buffer {
  const frame = Buffer.alloc(REQUEST_HEADER_SIZE + bodySize)
  frame.writeUInt8(tag, 0)
  frame.writeBigUInt64BE(request.requestId, 1)
  writeRequestLsn(frame, request.requestLsn, 9)
  writeLsnBE(frame, request.notModifiedSince, 17)
  return frame
}

function encodeRelationRequest(
  tag: number,
  request: RequestBase & RelationFork,
  bodySize: number,
): Buffer {
  const frame = encodeRequestHeader(tag, request, bodySize)
  frame.writeUInt32BE(request.spc, 25)
  frame.writeUInt32BE(request.db, 29)
  frame.writeUInt32BE(request.rel, 33)
  frame.writeUInt8(request.fork, 37)
  return frame
}

function responseHeader(tag: number, requestId: bigint, lsn: Lsn, bodySize: number): Buffer {
  const frame = Buffer.allocUnsafe(RESPONSE_HEADER_SIZE + bodySize)
  frame[0] = tag
  frame.writeBigUInt64BE(requestId, 1)
  writeLsnBE(frame, lsn, 9)
  return frame
}

export function encodeExistsReply(requestId: bigint, lsn: Lsn, exists: boolean): Buffer {
  const frame = responseHeader(Tag.existsReply, requestId, lsn, 1)
  frame[RESPONSE_HEADER_SIZE] = exists ? 1 : 0
  return frame
}

export function encodeNblocksReply(requestId: bigint, lsn: Lsn, blocks: number): Buffer {
  const frame = responseHeader(Tag.nblocksReply, requestId, lsn, 4)
  frame.writeUInt32BE(blocks, RESPONSE_HEADER_SIZE)
  return frame
}

export function encodeDbsizeReply(requestId: bigint, lsn: Lsn, sizeBytes: bigint): Buffer {
  const frame = responseHeader(Tag.dbsizeReply, requestId, lsn, 8)
  frame.writeBigUInt64BE(sizeBytes, RESPONSE_HEADER_SIZE)
  return frame
}

/** Size of all relations of a tablespace, and the databases that have some there. */
export function encodeTablespaceReply(
  requestId: bigint,
  lsn: Lsn,
  sizeBytes: bigint,
  databases: readonly number[],
): Buffer {
  const frame = responseHeader(Tag.tablespaceReply, requestId, lsn, 12 + databases.length * 4)
  frame.writeBigUInt64BE(sizeBytes, RESPONSE_HEADER_SIZE)
  frame.writeUInt32BE(databases.length, RESPONSE_HEADER_SIZE + 8)
  databases.forEach((db, index) => {
    frame.writeUInt32BE(db, RESPONSE_HEADER_SIZE + 12 + index * 4)
  })
  return frame
}

/** The 23 bytes before the pages of a getpage reply; the pages follow in the same CopyData. */
export function encodeGetPageReplyHeader(
  requestId: bigint,
  lsn: Lsn,
  firstBlock: number,
  count: number,
): Buffer {
  const frame = Buffer.allocUnsafe(GETPAGE_REPLY_HEADER_SIZE)
  writeGetPageReplyHeader(frame, 0, { requestId, lsn, firstBlock, count })
  return frame
}

export interface GetPageReplyHeader {
  requestId: bigint
  lsn: Lsn
  firstBlock: number
  count: number
}

/** Writes those 23 bytes at `offset`. */
export function writeGetPageReplyHeader(
  target: Buffer,
  offset: number,
  header: GetPageReplyHeader,
): void {
  target[offset] = Tag.getpageReply
  target.writeBigUInt64BE(header.requestId, offset + 1)
  writeLsnBE(target, header.lsn, offset + 9)
  target.writeUInt32BE(header.firstBlock, offset + 17)
  target.writeUInt16BE(header.count, offset + 21)
}

/** The 21 bytes before the pages of an SLRU reply; the pages follow in the same CopyData. */
export function encodeSlruReplyHeader(requestId: bigint, lsn: Lsn, npages: number): Buffer {
  const frame = responseHeader(Tag.slruReply, requestId, lsn, 4)
  frame.writeUInt32BE(npages, RESPONSE_HEADER_SIZE)
  return frame
}

/** `sqlState` is five ASCII characters; a NUL in the message would end it, so it is dropped. */
export function encodeErrorReply(
  requestId: bigint,
  lsn: Lsn,
  sqlState: string,
  message: string,
): Buffer {
  const text = Buffer.from(message.replaceAll('\0', ''), 'utf8')
  const frame = responseHeader(Tag.errorReply, requestId, lsn, 5 + text.length + 1)
  frame.write(sqlState.padEnd(5, '0').slice(0, 5), RESPONSE_HEADER_SIZE, 'latin1')
  text.copy(frame, RESPONSE_HEADER_SIZE + 5)
  frame[frame.length - 1] = 0
  return frame
}

/**
 * Decodes one response, as a client does. Pages are views into `frame`.
 * Throws `invalid_argument` for an unknown tag or a length that does not fit its counts.
 */
export function decodeResponse(frame: Buffer): PageStreamResponse {
  if (frame.length < RESPONSE_HEADER_SIZE) {
    throw malformed(`a response is at least ${RESPONSE_HEADER_SIZE} bytes, got ${frame.length}`)
  }
  const tag = frame[0] as number
  const base = { requestId: frame.readBigUInt64BE(1), lsn: readLsnBE(frame, 9) }
  switch (tag) {
    case Tag.existsReply:
      expectLength(frame, RESPONSE_HEADER_SIZE + 1, 'an exists reply')
      return { kind: 'exists', ...base, exists: frame[17] === 1 }
    case Tag.nblocksReply:
      expectLength(frame, RESPONSE_HEADER_SIZE + 4, 'an nblocks reply')
      return { kind: 'nblocks', ...base, blocks: frame.readUInt32BE(17) }
    case Tag.dbsizeReply:
      expectLength(frame, RESPONSE_HEADER_SIZE + 8, 'a dbsize reply')
      return { kind: 'dbsize', ...base, sizeBytes: frame.readBigUInt64BE(17) }
    case Tag.tablespaceReply: {
      if (frame.length < RESPONSE_HEADER_SIZE + 12)
        throw malformed('a tablespace reply is cut short')
      const count = frame.readUInt32BE(25)
      expectLength(frame, RESPONSE_HEADER_SIZE + 12 + count * 4, 'a tablespace reply')
      const databases = Array.from({ length: count }, (_, at) => frame.readUInt32BE(29 + at * 4))
      return { kind: 'tablespace', ...base, sizeBytes: frame.readBigUInt64BE(17), databases }
    }
    case Tag.getpageReply: {
      if (frame.length < GETPAGE_REPLY_HEADER_SIZE) throw malformed('a getpage reply is cut short')
      const count = frame.readUInt16BE(21)
      const pages = slicePages(frame, GETPAGE_REPLY_HEADER_SIZE, count, MAX_PAGES_PER_REQUEST)
      return { kind: 'getpage', ...base, firstBlock: frame.readUInt32BE(17), pages }
    }
    case Tag.slruReply: {
      if (frame.length < SLRU_REPLY_HEADER_SIZE) throw malformed('an SLRU reply is cut short')
      const count = frame.readUInt32BE(17)
      const pages = slicePages(frame, SLRU_REPLY_HEADER_SIZE, count, SLRU_PAGES_PER_SEGMENT)
      return { kind: 'slru', ...base, pages }
    }
    case Tag.errorReply:
      return { kind: 'error', ...base, ...readError(frame) }
    default:
      throw malformed(`unknown response tag ${tagName(tag)}`)
  }
}

function slicePages(frame: Buffer, offset: number, count: number, most: number): Buffer[] {
  if (count > most) throw malformed(`a reply carries at most ${most} pages, not ${count}`)
  expectLength(frame, offset + count * PAGE_SIZE, `a reply of ${count} pages`)
  return Array.from({ length: count }, (_, index) =>
    frame.subarray(offset + index * PAGE_SIZE, offset + (index + 1) * PAGE_SIZE),
  )
}

function readError(frame: Buffer): { sqlState: string; message: string } {
  if (frame.length < RESPONSE_HEADER_SIZE + 6 || frame[frame.length - 1] !== 0) {
    throw malformed('an error reply must end its message with a NUL')
  }
  return {
    sqlState: frame.toString('latin1', 17, 22),
    message: frame.toString('utf8', 22, frame.length - 1),
  }
}
