/**
 * Finds where records end in a stream of WAL bytes, in bounded memory: it follows page headers and
 * `xl_tot_len`, checks each record's CRC, and keeps nothing of a record but its 24-byte header. That
 * is all a safekeeper needs: votes, acks and commits name only ends of whole, valid records.
 *
 * Starts at a record boundary anywhere in a segment (a page start counts: the page header comes
 * first), takes any slicing of the stream, and stops for good at the first byte that cannot be
 * right. Follows XLogReadRecord and XLogReaderValidatePageHeader of Postgres' xlogreader.c, with
 * two differences: padding after a record belongs to it, and a record counts as whole only when its
 * padding is here; after XLOG_SWITCH the rest of the segment (zeros, page headers included) is
 * that padding.
 */
import { errorMessage } from '../errors.ts'
import { formatLsn, type Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE, walHeaderSize } from '../lsn.ts'
import { crc32c, recordCrc } from './crc32c.ts'
import {
  MAX_BUILTIN_RMGR,
  MAX_RECORD_SIZE,
  MIN_CUSTOM_RMGR,
  RECORD_CRC_OFFSET,
  RECORD_HEADER_SIZE,
  RMGR,
  XLOG_INFO,
  XLP_FIRST_IS_CONTRECORD,
  XLP_FIRST_IS_OVERWRITE_CONTRECORD,
  XLR_RMGR_INFO_MASK,
} from './format.ts'
import { checkPageHeader, PAGE_INFO_OFFSET, PAGE_REM_LEN_OFFSET } from './page-header.ts'

const TWO_32 = 4294967296

type Phase = 'between' | 'header' | 'body' | 'padding'

export class RecordScanner {
  #at: Lsn
  #recordEnd: Lsn
  #damage: string | null = null
  #phase: Phase = 'between'
  readonly #pageHeader = Buffer.alloc(40)
  readonly #header = Buffer.alloc(RECORD_HEADER_SIZE)
  /** Bytes of the current record seen, and its total length (0 while unknown). */
  #seen = 0
  #length = 0
  #crc = 0
  #recordStart: Lsn = 0
  /** Start of the record before; -1 while unknown. */
  #previousStart: Lsn = -1
  #paddingEnd: Lsn = 0
  #switchedFrom: Lsn | null = null

  /** `startLsn` is a record boundary: the end of a record, before any page header that follows it. */
  constructor(startLsn: Lsn) {
    this.#at = startLsn
    this.#recordEnd = startLsn
  }

  /** End of the bytes taken so far. */
  get lsn(): Lsn {
    return this.#at
  }

  /** End of the last whole valid record, padding included (8-aligned). */
  get recordEndLsn(): Lsn {
    return this.#recordEnd
  }

  /** If the newest record is a switch to the next segment: the end of the record before it. */
  get switchedFromLsn(): Lsn | null {
    return this.#switchedFrom
  }

  /** Why the scan stopped for good; null while all is well. */
  get damage(): string | null {
    return this.#damage
  }

  /** Takes bytes [start, end) of `bytes`, which continue the stream. False when it is damaged. */
  feed(bytes: Buffer, start = 0, end: number = bytes.length): boolean {
    let offset = start
    while (offset < end && this.#damage === null) {
      const pageOffset = this.#at % WAL_PAGE_SIZE
      const room = Math.min(end - offset, WAL_PAGE_SIZE - pageOffset)
      let taken: number
      if (this.#phase === 'padding') taken = Math.min(this.#paddingEnd - this.#at, end - offset)
      else if (pageOffset < walHeaderSize(this.#at - pageOffset)) {
        taken = this.#takePageHeader(bytes, offset, end, pageOffset)
      } else if (this.#phase === 'between') taken = this.#takeWholeOrBegin(bytes, offset, room)
      else if (this.#phase === 'header') taken = this.#takeHeader(bytes, offset, room)
      else taken = this.#takeBody(bytes, offset, room)
      offset += taken
      this.#at += taken
      if (this.#phase === 'body' && this.#seen === this.#length) this.#finishRecord()
      if (this.#phase === 'padding' && this.#at === this.#paddingEnd) {
        this.#recordEnd = this.#at
        this.#phase = 'between'
      }
    }
    return this.#damage === null
  }

  #stop(what: string): number {
    this.#damage = `WAL at ${formatLsn(this.#at)}: ${what}`
    return 0
  }

  #takePageHeader(bytes: Buffer, offset: number, end: number, pageOffset: number): number {
    const pageLsn = this.#at - pageOffset
    const size = walHeaderSize(pageLsn)
    const taken = Math.min(size - pageOffset, end - offset)
    bytes.copy(this.#pageHeader, pageOffset, offset, offset + taken)
    if (pageOffset + taken < size) return taken
    try {
      checkPageHeader(this.#pageHeader, 0, pageLsn)
    } catch (error) {
      return this.#stop(errorMessage(error))
    }
    const info = this.#pageHeader.readUInt16LE(PAGE_INFO_OFFSET)
    const remaining = this.#pageHeader.readUInt32LE(PAGE_REM_LEN_OFFSET)
    const expected = this.#phase === 'between' ? 0 : this.#length - this.#seen
    if ((info & XLP_FIRST_IS_OVERWRITE_CONTRECORD) !== 0) {
      this.#phase = 'between'
      return taken
    }
    const continues = (info & XLP_FIRST_IS_CONTRECORD) !== 0
    if (continues !== expected > 0 || (continues && remaining !== expected)) {
      return this.#stop(`the page continues a record by ${remaining} bytes, not ${expected}`)
    }
    return taken
  }

  /** The common case in one go: a record that lies whole in the buffer and on one page. */
  #takeWholeOrBegin(bytes: Buffer, offset: number, room: number): number {
    this.#recordStart = this.#at
    this.#seen = 0
    this.#length = 0
    this.#phase = 'header'
    if (room < RECORD_HEADER_SIZE) return this.#takeHeader(bytes, offset, room)
    const length = bytes.readUInt32LE(offset)
    if (length > room) return this.#takeHeader(bytes, offset, room)
    if (!this.#checkLength(length) || !this.#checkHeader(bytes, offset)) return 0
    if (recordCrc(bytes, offset, length) !== bytes.readUInt32LE(offset + RECORD_CRC_OFFSET)) {
      return this.#stop('the record has a wrong CRC')
    }
    this.#endRecord(bytes, offset, this.#at + length)
    return length
  }

  #takeHeader(bytes: Buffer, offset: number, room: number): number {
    const taken = Math.min(RECORD_HEADER_SIZE - this.#seen, room)
    bytes.copy(this.#header, this.#seen, offset, offset + taken)
    this.#seen += taken
    if (this.#length === 0 && this.#seen >= 4) {
      const length = this.#header.readUInt32LE(0)
      if (!this.#checkLength(length)) return 0
      this.#length = length
    }
    if (this.#seen < RECORD_HEADER_SIZE) return taken
    if (!this.#checkHeader(this.#header, 0)) return 0
    this.#crc = 0
    this.#phase = 'body'
    return taken
  }

  #takeBody(bytes: Buffer, offset: number, room: number): number {
    const taken = Math.min(this.#length - this.#seen, room)
    this.#crc = crc32c(bytes, offset, offset + taken, this.#crc)
    this.#seen += taken
    return taken
  }

  #checkLength(length: number): boolean {
    if (length >= RECORD_HEADER_SIZE && length <= MAX_RECORD_SIZE) return true
    this.#stop(length === 0 ? 'no record starts here' : `a record cannot have ${length} bytes`)
    return false
  }

  #checkHeader(bytes: Buffer, offset: number): boolean {
    const rmid = bytes[offset + 17] as number
    if (rmid > MAX_BUILTIN_RMGR && rmid < MIN_CUSTOM_RMGR) {
      this.#stop(`resource manager ${rmid} does not exist`)
      return false
    }
    const previous = bytes.readUInt32LE(offset + 12) * TWO_32 + bytes.readUInt32LE(offset + 8)
    // The checkpoint with which a compute starts may not know its predecessor.
    const startsCompute = rmid === RMGR.XLOG && this.#opcode(bytes, offset) === 0
    const known = this.#previousStart >= 0 && !startsCompute
    if (known ? previous !== this.#previousStart : previous >= this.#recordStart) {
      this.#stop(`the record says that the one before it is at ${formatLsn(previous)}`)
      return false
    }
    return true
  }

  #opcode(bytes: Buffer, offset: number): number {
    return (bytes[offset + 16] as number) & XLR_RMGR_INFO_MASK
  }

  #finishRecord(): void {
    const crc = crc32c(this.#header, 0, RECORD_CRC_OFFSET, this.#crc)
    if (crc !== this.#header.readUInt32LE(RECORD_CRC_OFFSET)) {
      this.#stop(`the record that starts at ${formatLsn(this.#recordStart)} has a wrong CRC`)
    } else this.#endRecord(this.#header, 0, this.#at)
  }

  #endRecord(header: Buffer, offset: number, endLsn: Lsn): void {
    this.#previousStart = this.#recordStart
    this.#phase = 'padding'
    const isSwitch =
      header[offset + 17] === RMGR.XLOG && this.#opcode(header, offset) === XLOG_INFO.SWITCH
    this.#switchedFrom = isSwitch ? this.#recordEnd : null
    const unit = isSwitch ? WAL_SEGMENT_SIZE : 8
    this.#paddingEnd = Math.ceil(endLsn / unit) * unit
  }
}
