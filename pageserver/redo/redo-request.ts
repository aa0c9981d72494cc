/**
 * The pipe protocol of the WAL redo process (pgxn/zenith_walredo), little endian.
 *
 *     greeting: u32 0x3152575A ("ZWR1") | u32 8192, once
 *     request:  u32 bytes that follow | u32 spc | u32 db | u32 rel | u32 fork | u32 block
 *               | u32 flags (1 = base image follows) | u32 record count | [8192 base]
 *               | per record: u64 end LSN | u32 length | bytes
 *     reply:    u8 status (0 ok, 1 the page did not exist for one of the records)
 *               | u24 images of wal_consistency_checking compared with the page | 8192 page
 */
import { formatLsn, writeLsnLE } from '#libs/lsn.ts'

export const PAGE_SIZE = 8192
const GREETING_SIZE = 8
const GREETING_MAGIC = 0x3152575a
const REPLY_HEADER_SIZE = 4
export const REPLY_OK = 0
export const REPLY_STATUS_MASK = 0xff
export const REPLY_CHECKED_SHIFT = 8
const REQUEST_HEADER_SIZE = 32
const RECORD_HEADER_SIZE = 12
const FLAG_BASE = 1

/** Which page: tablespace, database, relation (its relfilenumber), fork, block. */
export type PageTag = { spc: number; db: number; rel: number; fork: number; blk: number }

/** One page to rebuild, and who waits for it. */
export class RedoRequest {
  readonly tag: PageTag
  readonly base: Buffer | null
  readonly endLsns: readonly number[]
  readonly records: readonly Buffer[]
  /** Bytes on the pipe. */
  readonly sizeBytes: number
  readonly promise: Promise<Buffer>
  resolve!: (page: Buffer) => void
  reject!: (error: Error) => void
  /** `performance.now()` of the call. */
  readonly queuedAtMs: number
  /** How many processes died while working on this request, as far as that can be told. */
  deaths = 0

  constructor(
    tag: PageTag,
    base: Buffer | null,
    endLsns: readonly number[],
    records: readonly Buffer[],
    queuedAtMs: number,
  ) {
    this.tag = tag
    this.base = base
    this.endLsns = endLsns
    this.records = records
    this.queuedAtMs = queuedAtMs
    let sizeBytes = REQUEST_HEADER_SIZE + (base === null ? 0 : PAGE_SIZE)
    for (const record of records) sizeBytes += RECORD_HEADER_SIZE + record.length
    this.sizeBytes = sizeBytes
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
  }

  /** For messages: `block 7 of relation 1663/5/16384 fork 0 (3 records, 0/1500028 to 0/15000F8)`. */
  describe(): string {
    const { spc, db, rel, fork, blk } = this.tag
    const first = this.endLsns[0]
    const last = this.endLsns[this.endLsns.length - 1]
    const count = this.records.length === 1 ? '1 record' : `${this.records.length} records`
    const span =
      first === undefined || last === undefined
        ? 'no records'
        : `${count}, ${formatLsn(first)} to ${formatLsn(last)}`
    return `block ${blk} of relation ${spc}/${db}/${rel} fork ${fork} (${span})`
  }
}

/** All requests in one buffer, so that a batch costs one write. */
export function encodeRequests(requests: readonly RedoRequest[]): Buffer {
  let sizeBytes = 0
  for (const request of requests) sizeBytes += request.sizeBytes
  const buffer = Buffer.allocUnsafe(sizeBytes)
  let at = 0
  for (const request of requests) at = encodeRequest(request, buffer, at)
  return buffer
}

function encodeRequest(request: RedoRequest, buffer: Buffer, start: number): number {
  const { tag, base, endLsns, records } = request
  buffer.writeUInt32LE(request.sizeBytes - 4, start)
  buffer.writeUInt32LE(tag.spc, start + 4)
  buffer.writeUInt32LE(tag.db, start + 8)
  buffer.writeUInt32LE(tag.rel, start + 12)
  buffer.writeUInt32LE(tag.fork, start + 16)
  buffer.writeUInt32LE(tag.blk, start + 20)
  buffer.writeUInt32LE(base === null ? 0 : FLAG_BASE, start + 24)
  buffer.writeUInt32LE(records.length, start + 28)
  let at = start + REQUEST_HEADER_SIZE
  if (base !== null) at += base.copy(buffer, at, 0, PAGE_SIZE)
  for (let i = 0; i < records.length; i++) {
    const record = records[i] as Buffer
    writeLsnLE(buffer, endLsns[i] as number, at)
    buffer.writeUInt32LE(record.length, at + 8)
    at += RECORD_HEADER_SIZE
    at += record.copy(buffer, at)
  }
  return at
}

/**
 * Cuts the stream of replies into pages. Every page is a buffer of its own, so that keeping one
 * does not keep the chunk it came in.
 */
export class ReplyReader {
  readonly #onGreeting: (valid: boolean) => void
  readonly #onReply: (status: number, page: Buffer) => void
  readonly #header = Buffer.alloc(GREETING_SIZE)
  #headerFilled = 0
  #headerSize = GREETING_SIZE
  #greeted = false
  #page: Buffer | null = null
  #pageFilled = 0

  constructor(
    onGreeting: (valid: boolean) => void,
    onReply: (status: number, page: Buffer) => void,
  ) {
    this.#onGreeting = onGreeting
    this.#onReply = onReply
  }

  push(chunk: Buffer): void {
    let at = 0
    while (at < chunk.length) {
      if (this.#page === null) {
        at += this.#pushHeader(chunk, at)
        continue
      }
      const take = Math.min(PAGE_SIZE - this.#pageFilled, chunk.length - at)
      chunk.copy(this.#page, this.#pageFilled, at, at + take)
      this.#pageFilled += take
      at += take
      if (this.#pageFilled < PAGE_SIZE) continue
      const page = this.#page
      this.#page = null
      this.#headerFilled = 0
      this.#onReply(this.#header.readUInt32LE(0), page)
    }
  }

  #pushHeader(chunk: Buffer, at: number): number {
    const take = Math.min(this.#headerSize - this.#headerFilled, chunk.length - at)
    chunk.copy(this.#header, this.#headerFilled, at, at + take)
    this.#headerFilled += take
    if (this.#headerFilled < this.#headerSize) return take
    if (this.#greeted) {
      this.#page = Buffer.allocUnsafeSlow(PAGE_SIZE)
      this.#pageFilled = 0
      return take
    }
    this.#greeted = true
    this.#headerFilled = 0
    this.#headerSize = REPLY_HEADER_SIZE
    const valid =
      this.#header.readUInt32LE(0) === GREETING_MAGIC && this.#header.readUInt32LE(4) === PAGE_SIZE
    this.#onGreeting(valid)
    return take
  }
}
