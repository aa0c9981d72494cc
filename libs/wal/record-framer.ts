/**
 * Cuts a WAL byte stream into records: page headers checked and dropped, records that straddle
 * pages, segments or slices put together, CRC and back link of every record checked.
 *
 * Works on batches: `feed` takes any slice and leaves the records completed by it in columns, so
 * that nothing is allocated per record. State lives in memory only; after a restart begin again at
 * the end of the last complete record. Follows XLogDecodeNextRecord (xlogreader.c).
 */
import { ZenithError } from '../errors.ts'
import {
  assertLsn,
  formatLsn,
  type Lsn,
  WAL_LONG_HEADER_SIZE,
  WAL_PAGE_SIZE,
  WAL_SEGMENT_SIZE,
  walHeaderSize,
} from '../lsn.ts'
import { recordCrc, SHORT_RECORD_BYTES, wrongOfTwoRecords } from './crc32c.ts'
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
import type { DecodedRecord } from './decoded-record.ts'
import { checkPageHeader, PAGE_INFO_OFFSET, PAGE_REM_LEN_OFFSET } from './page-header.ts'

const ARENA_KEPT_BYTES = 1024 * 1024
const TWO_32 = 4294967296

/** Which buffer a record of the batch lies in. */
export const IN_SLICE = 0
export const IN_ARENA = 1

export class RecordFramer {
  /** Records completed by the last `feed`; the columns below hold that many entries. */
  count = 0
  /** IN_SLICE or IN_ARENA, per record. */
  place = new Uint8Array(1024)
  rmid = new Uint8Array(1024)
  offset = new Uint32Array(1024)
  length = new Uint32Array(1024)
  xid = new Uint32Array(1024)
  startLsn = new Float64Array(1024)
  /** Aligned end of the record, the LSN of the version it makes; the segment end for a switch. */
  endLsn = new Float64Array(1024)
  slice: Buffer = Buffer.alloc(0)
  sliceView: DataView = new DataView(new ArrayBuffer(0))
  arena: Buffer = Buffer.alloc(64 * 1024)
  arenaView: DataView = viewOf(this.arena)

  #maxRecordSize: number
  /** LSN of the next byte to be fed. */
  #lsn: Lsn
  #recordEndLsn: Lsn
  #previousStart: Lsn | undefined
  /** Bytes before this LSN are padding. */
  #skipUntil = 0
  #header = Buffer.alloc(WAL_LONG_HEADER_SIZE)
  #headerGot = 0
  #arenaUsed = 0
  /** The record being put together: `#partGot` of its bytes lie at `#partOffset` in the arena. */
  #inPart = false
  #partOffset = 0
  #partGot = 0
  #partTotal = 0
  #partStart = 0
  /** A switch record is complete only when the rest of its segment has passed. */
  #switchDue = false
  #overwritten: Lsn | undefined

  /**
   * `startLsn` is the end of a record (or a page start): the first byte fed lies there. Longer
   * records than `maxRecordSize` (Postgres' own limit of 1020 MiB by default) are refused.
   */
  constructor(startLsn: Lsn, options: { maxRecordSize?: number } = {}) {
    this.#lsn = assertLsn(startLsn)
    this.#recordEndLsn = startLsn
    this.#maxRecordSize = options.maxRecordSize ?? MAX_RECORD_SIZE
  }

  /** Decodes a record of the batch; see `DecodedRecord.decode`. */
  decode(index: number, record: DecodedRecord): void {
    const inArena = this.place[index] === IN_ARENA
    record.decode(
      inArena ? this.arena : this.slice,
      inArena ? this.arenaView : this.sliceView,
      this.offset[index] as number,
      this.length[index] as number,
      this.startLsn[index] as number,
    )
  }

  /** LSN of the next byte that `feed` expects. */
  get nextLsn(): Lsn {
    return this.#lsn
  }

  /** End of the newest complete record, or where the framer started. */
  get recordEndLsn(): Lsn {
    return this.#recordEndLsn
  }

  /** Start of the newest complete record; undefined before the first. */
  get previousRecordLsn(): Lsn | undefined {
    return this.#previousStart
  }

  /** Bytes held for a record that is not complete. */
  get pendingBytes(): number {
    return this.#partGot
  }

  /**
   * Takes the next bytes of the stream and replaces the batch. The slice must stay unchanged until
   * the batch is used. Throws `corrupt`, naming the LSN, on bad page headers, lengths, links or
   * CRCs; the batch then holds the good records before, and the framer is of no further use.
   */
  feed(slice: Buffer): void {
    this.count = 0
    this.slice = slice
    this.sliceView = viewOf(slice)
    this.#resetArena()
    this.#ensureColumns(Math.floor(slice.length / RECORD_HEADER_SIZE) + 2)
    const endBefore = this.#recordEndLsn
    const startBefore = this.#previousStart
    try {
      this.#frame(slice)
    } finally {
      const wrong = this.#firstWrongCrc()
      if (wrong < this.count) {
        this.count = wrong
        this.#recordEndLsn = wrong === 0 ? endBefore : (this.endLsn[wrong - 1] as number)
        this.#previousStart = wrong === 0 ? startBefore : this.startLsn[wrong - 1]
        // A damaged length is met as something else further on; what is told is the first damage.
        this.#refuse(wrong)
      }
    }
  }

  #frame(slice: Buffer): void {
    const end = slice.length
    let at = 0
    while (at < end) {
      const lsn = this.#lsn
      if (lsn < this.#skipUntil) {
        const step = Math.min(end - at, this.#skipUntil - lsn)
        at += step
        this.#lsn = lsn + step
        if (this.#switchDue && this.#lsn === this.#skipUntil) this.#finishSwitch()
        continue
      }
      const inPage = lsn % WAL_PAGE_SIZE
      if (inPage === 0 || this.#headerGot > 0) {
        at += this.#takeHeader(slice, at, end)
        continue
      }
      const room = Math.min(end - at, WAL_PAGE_SIZE - inPage)
      if (this.#inPart) {
        at += this.#extendPart(slice, at, room)
        continue
      }
      at += this.#takeRecords(slice, at, at + room)
    }
  }

  /**
   * Records that lie whole inside [at, limit) of one page, the usual case. Returns the bytes used;
   * less than all of them only when the last record is cut or its padding is still to come.
   */
  #takeRecords(slice: Buffer, at: number, limit: number): number {
    const view = this.sliceView
    let position = at
    let lsn = this.#lsn
    while (position < limit) {
      const left = limit - position
      if (left < 4) {
        this.#lsn = lsn
        this.#startPart(0)
        return position - at + this.#extendPart(slice, position, left)
      }
      const total = view.getUint32(position, true)
      if (total < RECORD_HEADER_SIZE || total > this.#maxRecordSize)
        throw this.#badLength(lsn, total)
      if (total > left) {
        this.#lsn = lsn
        this.#startPart(total)
        return position - at + this.#extendPart(slice, position, left)
      }
      const aligned = (total + 7) & ~7
      if (slice[position + 17] === RMGR.XLOG && isSwitch(slice, position)) {
        this.#lsn = lsn
        this.#startPart(total)
        return position - at + this.#extendPart(slice, position, total)
      }
      this.#emit(IN_SLICE, slice, view, position, total, lsn, lsn + aligned)
      lsn += aligned
      position += aligned
    }
    // The padding of the last record may belong to the next slice.
    const used = Math.min(position, limit) - at
    this.#lsn = lsn - (position - Math.min(position, limit))
    this.#skipUntil = lsn
    return used
  }

  #startPart(total: number): void {
    this.#inPart = true
    this.#partOffset = this.#arenaUsed
    this.#partGot = 0
    this.#partTotal = total
    this.#partStart = this.#lsn
  }

  /** Adds up to `room` bytes of this page to the part; returns how many it took. */
  #extendPart(slice: Buffer, at: number, room: number): number {
    let used = 0
    if (this.#partTotal === 0) {
      used = Math.min(room, 4 - this.#partGot)
      this.#copyToPart(slice, at, used)
      if (this.#partGot < 4) return used
      const total = this.arenaView.getUint32(this.#partOffset, true)
      if (total < RECORD_HEADER_SIZE || total > this.#maxRecordSize) {
        throw this.#badLength(this.#partStart, total)
      }
      this.#partTotal = total
    }
    const more = Math.min(room - used, this.#partTotal - this.#partGot)
    this.#copyToPart(slice, at + used, more)
    if (this.#partGot === this.#partTotal) this.#completePart()
    return used + more
  }

  #copyToPart(slice: Buffer, at: number, length: number): void {
    const to = this.#partOffset + this.#partGot
    this.#ensureArena(to + length)
    slice.copy(this.arena, to, at, at + length)
    this.#partGot += length
    this.#lsn += length
  }

  #completePart(): void {
    const offset = this.#partOffset
    const aligned = Math.ceil(this.#lsn / 8) * 8
    this.#skipUntil = aligned
    if (this.arena[offset + 17] === RMGR.XLOG && isSwitch(this.arena, offset)) {
      // Checked now, given out at the segment's end: until then a new writer may still continue
      // right behind the record.
      this.#check(this.arena, this.arenaView, offset, this.#partTotal, this.#partStart)
      if (isWrong(this.arena, offset, this.#partTotal)) {
        throw corrupt(this.#partStart, 'fails its checksum', 'record')
      }
      this.#skipUntil = Math.ceil(aligned / WAL_SEGMENT_SIZE) * WAL_SEGMENT_SIZE
      this.#switchDue = true
      if (this.#lsn === this.#skipUntil) this.#finishSwitch()
      return
    }
    const { arena, arenaView } = this
    this.#emit(IN_ARENA, arena, arenaView, offset, this.#partTotal, this.#partStart, aligned)
    this.#arenaUsed = offset + this.#partTotal
    this.#endPart()
  }

  #finishSwitch(): void {
    const { arena, arenaView } = this
    const offset = this.#partOffset
    this.#emit(IN_ARENA, arena, arenaView, offset, this.#partTotal, this.#partStart, this.#lsn)
    this.#arenaUsed = offset + this.#partTotal
    this.#switchDue = false
    this.#endPart()
  }

  #endPart(): void {
    this.#inPart = false
    this.#partGot = 0
    this.#partTotal = 0
  }

  /** Takes the bytes of a page header that are there; acts on it once it is complete. */
  #takeHeader(slice: Buffer, at: number, end: number): number {
    const pageLsn = this.#lsn - this.#headerGot
    const size = walHeaderSize(pageLsn)
    const step = Math.min(end - at, size - this.#headerGot)
    let header = slice
    let headerAt = at
    if (step < size) {
      slice.copy(this.#header, this.#headerGot, at, at + step)
      header = this.#header
      headerAt = 0
    }
    this.#headerGot += step
    this.#lsn += step
    if (this.#headerGot < size) return step
    this.#headerGot = 0
    checkPageHeader(header, headerAt, pageLsn)
    const info = header.readUInt16LE(headerAt + PAGE_INFO_OFFSET)
    if (!this.#inPart) {
      if ((info & XLP_FIRST_IS_CONTRECORD) !== 0) {
        throw corrupt(pageLsn, 'begins with the rest of a record, but none was open')
      }
      return step
    }
    if ((info & XLP_FIRST_IS_OVERWRITE_CONTRECORD) !== 0) {
      this.#overwritten = this.#partStart
      this.#endPart()
      return step
    }
    if ((info & XLP_FIRST_IS_CONTRECORD) === 0) {
      throw corrupt(pageLsn, `does not continue the record at ${formatLsn(this.#partStart)}`)
    }
    const remaining = header.readUInt32LE(headerAt + PAGE_REM_LEN_OFFSET)
    if (remaining !== this.#partTotal - this.#partGot) {
      throw corrupt(
        pageLsn,
        `says that ${remaining} bytes of the record at ${formatLsn(this.#partStart)} remain, ` +
          `not ${this.#partTotal - this.#partGot}`,
      )
    }
    return step
  }

  #emit(
    place: number,
    bytes: Buffer,
    view: DataView,
    offset: number,
    length: number,
    startLsn: Lsn,
    endLsn: Lsn,
  ): void {
    if (!this.#switchDue) this.#check(bytes, view, offset, length, startLsn)
    const index = this.count
    if (index === this.place.length) this.#ensureColumns(index + 1)
    this.place[index] = place
    this.rmid[index] = bytes[offset + 17] as number
    this.offset[index] = offset
    this.length[index] = length
    this.xid[index] = view.getUint32(offset + 4, true)
    this.startLsn[index] = startLsn
    this.endLsn[index] = endLsn
    this.count = index + 1
    this.#previousStart = startLsn
    this.#recordEndLsn = endLsn
  }

  #check(bytes: Buffer, view: DataView, offset: number, length: number, startLsn: Lsn): void {
    const rmid = bytes[offset + 17] as number
    if (rmid > MAX_BUILTIN_RMGR && rmid < MIN_CUSTOM_RMGR) {
      throw corrupt(startLsn, `has resource manager ${rmid}, which does not exist`, 'record')
    }
    const previous = view.getUint32(offset + 12, true) * TWO_32 + view.getUint32(offset + 8, true)
    // A compute that starts on a fresh branch may not know the record before its first.
    if (previous !== 0 && previous !== (this.#previousStart ?? previous)) {
      throw corrupt(
        startLsn,
        `links back to ${formatLsn(previous)}, but the record before it starts at ` +
          formatLsn(this.#previousStart as number),
        'record',
      )
    }
    if (this.#overwritten !== undefined) this.#checkOverwrite(bytes, offset, length, startLsn)
  }

  #refuse(index: number): never {
    throw corrupt(this.startLsn[index] as number, 'fails its checksum', 'record')
  }

  /**
   * The first record of the batch that fails its checksum, or their count. All are checked in one go,
   * which is faster than each for itself among other work.
   */
  #firstWrongCrc(): number {
    const { offset, length, place, sliceView } = this
    const count = this.count
    let waiting = -1
    let wrong = count
    for (let index = 0; index < count; index += 1) {
      if (place[index] === IN_ARENA || (length[index] as number) >= SHORT_RECORD_BYTES) {
        if (this.#hasWrongCrc(index)) wrong = Math.min(wrong, index)
      } else if (waiting < 0) waiting = index
      else {
        const which = wrongOfTwoRecords(
          sliceView,
          offset[waiting] as number,
          length[waiting] as number,
          offset[index] as number,
          length[index] as number,
        )
        if (which !== 0) wrong = Math.min(wrong, (which & 1) === 0 ? index : waiting)
        waiting = -1
      }
    }
    if (waiting >= 0 && this.#hasWrongCrc(waiting)) wrong = Math.min(wrong, waiting)
    return wrong
  }

  #hasWrongCrc(index: number): boolean {
    const bytes = this.place[index] === IN_ARENA ? this.arena : this.slice
    return isWrong(bytes, this.offset[index] as number, this.length[index] as number)
  }

  /** After an abandoned record must come the record that names it (VerifyOverwriteContrecord). */
  #checkOverwrite(bytes: Buffer, offset: number, length: number, startLsn: Lsn): void {
    const info = (bytes[offset + 16] as number) & XLR_RMGR_INFO_MASK
    const named =
      bytes[offset + 17] === RMGR.XLOG &&
      info === XLOG_INFO.OVERWRITE_CONTRECORD &&
      length >= RECORD_HEADER_SIZE + 10
        ? bytes.readUInt32LE(offset + 30) * TWO_32 + bytes.readUInt32LE(offset + 26)
        : undefined
    if (named !== this.#overwritten) {
      throw corrupt(
        startLsn,
        `does not name the abandoned record at ${formatLsn(this.#overwritten as number)}`,
        'record',
      )
    }
    this.#overwritten = undefined
  }

  #badLength(lsn: Lsn, total: number): ZenithError {
    return corrupt(lsn, `has the impossible length ${total}`, 'record')
  }

  #resetArena(): void {
    if (this.#inPart) {
      const end = this.#partOffset + this.#partGot
      if (this.#partOffset > 0) this.arena.copyWithin(0, this.#partOffset, end)
      this.#partOffset = 0
    } else if (this.arena.length > ARENA_KEPT_BYTES) {
      this.arena = Buffer.alloc(64 * 1024)
      this.arenaView = viewOf(this.arena)
    }
    this.#arenaUsed = 0
  }

  /** Grows by doubling with bytes that have really come, never by a length that a record claims. */
  #ensureArena(size: number): void {
    if (size <= this.arena.length) return
    const larger = Buffer.allocUnsafeSlow(Math.max(size, this.arena.length * 2))
    this.arena.copy(larger, 0, 0, this.#partOffset + this.#partGot)
    this.arena = larger
    this.arenaView = viewOf(larger)
  }

  #ensureColumns(size: number): void {
    if (size <= this.place.length) return
    const capacity = Math.max(size, this.place.length * 2)
    this.place = grown(this.place, new Uint8Array(capacity))
    this.rmid = grown(this.rmid, new Uint8Array(capacity))
    this.offset = grown(this.offset, new Uint32Array(capacity))
    this.length = grown(this.length, new Uint32Array(capacity))
    this.xid = grown(this.xid, new Uint32Array(capacity))
    this.startLsn = grown(this.startLsn, new Float64Array(capacity))
    this.endLsn = grown(this.endLsn, new Float64Array(capacity))
  }
}

function grown<T extends Uint8Array | Uint32Array | Float64Array>(old: T, larger: T): T {
  larger.set(old)
  return larger
}

function viewOf(buffer: Buffer): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.length)
}

function isWrong(bytes: Buffer, offset: number, length: number): boolean {
  return bytes.readUInt32LE(offset + RECORD_CRC_OFFSET) !== recordCrc(bytes, offset, length)
}

function isSwitch(bytes: Buffer, offset: number): boolean {
  return (
    bytes[offset + 17] === RMGR.XLOG &&
    ((bytes[offset + 16] as number) & XLR_RMGR_INFO_MASK) === XLOG_INFO.SWITCH
  )
}

function corrupt(lsn: Lsn, what: string, thing = 'page'): ZenithError {
  return new ZenithError('corrupt', `WAL ${thing} at ${formatLsn(lsn)} ${what}`, {
    hint: 'The WAL of this timeline is damaged here; nothing after this point can be read.',
  })
}
