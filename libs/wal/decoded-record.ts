/**
 * One WAL record taken apart: header fields, block references, where images, block data and main
 * data lie. The object is reused: `decode` overwrites it, and nothing is allocated per record.
 * Offsets point into the buffer given to `decode`. Follows DecodeXLogRecord (xlogreader.c).
 *
 *   header (24) | block headers | data header | image and data of each block | main data
 *   block header: id u8 | fork_flags u8 | data length u16 | [image header] | [relation 12] | block u32
 *   image header: length u16 | hole offset u16 | info u8 | [hole length u16 when compressed with hole]
 */
import { ZenithError } from '../errors.ts'
import { formatLsn, type Lsn } from '../lsn.ts'
import {
  BKPBLOCK_FORK_MASK,
  BKPBLOCK_HAS_DATA,
  BKPBLOCK_HAS_IMAGE,
  BKPBLOCK_SAME_REL,
  BKPBLOCK_WILL_INIT,
  BKPIMAGE_APPLY,
  BKPIMAGE_COMPRESSED,
  BKPIMAGE_HAS_HOLE,
  BLOCK_ID_DATA_LONG,
  BLOCK_ID_DATA_SHORT,
  BLOCK_ID_ORIGIN,
  BLOCK_ID_TOPLEVEL_XID,
  INIT_FORK,
  MAX_BLOCK_ID,
  RECORD_HEADER_SIZE,
} from './format.ts'

const PAGE_SIZE = 8192
const SLOTS = MAX_BLOCK_ID + 1

export class DecodedRecord {
  buffer: Buffer = Buffer.alloc(0)
  offset = 0
  length = 0
  /** For error messages only. */
  startLsn: Lsn = 0
  xid = 0
  info = 0
  rmid = 0
  /** Replication origin; 0 when the record has none. */
  originId = 0
  toplevelXid = 0
  mainOffset = 0
  mainLength = 0

  /** Block references in the order of the record; ids may have gaps. */
  blockCount = 0
  readonly blockId = new Uint8Array(SLOTS)
  readonly spc = new Uint32Array(SLOTS)
  readonly db = new Uint32Array(SLOTS)
  readonly rel = new Uint32Array(SLOTS)
  readonly fork = new Uint8Array(SLOTS)
  readonly block = new Uint32Array(SLOTS)
  /** BKPBLOCK_ bits without the fork. */
  readonly flags = new Uint8Array(SLOTS)
  readonly dataOffset = new Uint32Array(SLOTS)
  readonly dataLength = new Uint32Array(SLOTS)
  readonly imageOffset = new Uint32Array(SLOTS)
  readonly imageLength = new Uint32Array(SLOTS)
  readonly imageInfo = new Uint8Array(SLOTS)
  readonly holeOffset = new Uint16Array(SLOTS)
  readonly holeLength = new Uint16Array(SLOTS)

  /**
   * Decodes the record of `length` bytes at `offset`; `view` covers the same bytes as `buffer`.
   * Throws `corrupt` when lengths or flags contradict each other.
   */
  decode(buffer: Buffer, view: DataView, offset: number, length: number, startLsn: Lsn): void {
    this.buffer = buffer
    this.offset = offset
    this.length = length
    this.startLsn = startLsn
    this.xid = view.getUint32(offset + 4, true)
    this.info = view.getUint8(offset + 16)
    this.rmid = view.getUint8(offset + 17)
    this.originId = 0
    this.toplevelXid = 0
    this.mainLength = 0
    const end = offset + length
    let at = offset + RECORD_HEADER_SIZE
    let payload = 0
    let count = 0
    let lastId = -1
    while (end - at > payload) {
      const id = view.getUint8(at)
      if (id <= MAX_BLOCK_ID) {
        if (id <= lastId) throw this.#corrupt(`has block reference ${id} after ${lastId}`)
        lastId = id
        // The longest block header is 27 bytes; a short record is checked byte by byte only then.
        if (end - at < 27 && end - at < blockHeaderSize(view, at, end)) throw this.#tooShort()
        const flags = view.getUint8(at + 1)
        const dataLength = view.getUint16(at + 2, true)
        at += 4
        if (((flags & BKPBLOCK_HAS_DATA) !== 0) !== dataLength > 0) {
          throw this.#corrupt(`has ${dataLength} bytes of data for block reference ${id}`)
        }
        const fork = flags & BKPBLOCK_FORK_MASK
        if (fork > INIT_FORK) throw this.#corrupt(`names the unknown fork ${fork}`)
        this.blockId[count] = id
        this.fork[count] = fork
        this.flags[count] = flags & ~BKPBLOCK_FORK_MASK
        this.dataLength[count] = dataLength
        payload += dataLength
        if ((flags & BKPBLOCK_HAS_IMAGE) === 0) {
          this.imageLength[count] = 0
          this.imageInfo[count] = 0
        } else {
          const imageLength = view.getUint16(at, true)
          const info = view.getUint8(at + 4)
          this.imageLength[count] = imageLength
          this.holeOffset[count] = view.getUint16(at + 2, true)
          this.imageInfo[count] = info
          at += 5
          const compressed = (info & BKPIMAGE_COMPRESSED) !== 0
          if (!compressed) this.holeLength[count] = PAGE_SIZE - imageLength
          else if ((info & BKPIMAGE_HAS_HOLE) === 0) this.holeLength[count] = 0
          else {
            this.holeLength[count] = view.getUint16(at, true)
            at += 2
          }
          this.#checkImage(count)
          payload += imageLength
        }
        if ((flags & BKPBLOCK_SAME_REL) === 0) {
          this.spc[count] = view.getUint32(at, true)
          this.db[count] = view.getUint32(at + 4, true)
          this.rel[count] = view.getUint32(at + 8, true)
          at += 12
        } else {
          if (count === 0) throw this.#corrupt('repeats a relation before naming one')
          this.spc[count] = this.spc[count - 1] as number
          this.db[count] = this.db[count - 1] as number
          this.rel[count] = this.rel[count - 1] as number
        }
        this.block[count] = view.getUint32(at, true)
        at += 4
        count += 1
      } else if (id === BLOCK_ID_DATA_SHORT) {
        if (end - at < 2) throw this.#tooShort()
        this.mainLength = view.getUint8(at + 1)
        payload += this.mainLength
        at += 2
        break
      } else if (id === BLOCK_ID_DATA_LONG) {
        if (end - at < 5) throw this.#tooShort()
        this.mainLength = view.getUint32(at + 1, true)
        payload += this.mainLength
        at += 5
        break
      } else if (id === BLOCK_ID_ORIGIN) {
        if (end - at < 3) throw this.#tooShort()
        this.originId = view.getUint16(at + 1, true)
        at += 3
      } else if (id === BLOCK_ID_TOPLEVEL_XID) {
        if (end - at < 5) throw this.#tooShort()
        this.toplevelXid = view.getUint32(at + 1, true)
        at += 5
      } else {
        throw this.#corrupt(`has the unknown block id ${id}`)
      }
    }
    if (end - at !== payload) throw this.#tooShort()
    this.blockCount = count
    for (let index = 0; index < count; index += 1) {
      this.imageOffset[index] = at
      at += this.imageLength[index] as number
      this.dataOffset[index] = at
      at += this.dataLength[index] as number
    }
    this.mainOffset = at
  }

  /** Index of block reference `id`, or -1. */
  indexOfBlock(id: number): number {
    for (let index = 0; index < this.blockCount; index += 1) {
      if (this.blockId[index] === id) return index
    }
    return -1
  }

  /** True when redo replaces the page by the image; other images only serve consistency checks. */
  appliesImage(index: number): boolean {
    return ((this.imageInfo[index] as number) & BKPIMAGE_APPLY) !== 0
  }

  willInit(index: number): boolean {
    return ((this.flags[index] as number) & BKPBLOCK_WILL_INIT) !== 0
  }

  #checkImage(index: number): void {
    const info = this.imageInfo[index] as number
    const hole = (info & BKPIMAGE_HAS_HOLE) !== 0
    const compressed = (info & BKPIMAGE_COMPRESSED) !== 0
    const length = this.imageLength[index] as number
    const holeOffset = this.holeOffset[index] as number
    const holeLength = this.holeLength[index] as number
    const good = hole
      ? holeOffset > 0 && holeLength > 0 && holeOffset + holeLength <= PAGE_SIZE
      : holeOffset === 0 && holeLength === 0
    if (!good || length > PAGE_SIZE || (compressed && length === PAGE_SIZE)) {
      throw this.#corrupt(
        `has a page image of ${length} bytes with a hole of ${holeLength} at ${holeOffset}`,
      )
    }
  }

  #tooShort(): ZenithError {
    return this.#corrupt(`has ${this.length} bytes, which is not what its parts add up to`)
  }

  #corrupt(what: string): ZenithError {
    return new ZenithError('corrupt', `WAL record at ${formatLsn(this.startLsn)} ${what}`)
  }
}

/** Size of the block header at `at`, or infinity when not even its fixed part is there. */
function blockHeaderSize(view: DataView, at: number, end: number): number {
  if (end - at < 4) return Number.POSITIVE_INFINITY
  const flags = view.getUint8(at + 1)
  let size = 8
  if ((flags & BKPBLOCK_SAME_REL) === 0) size += 12
  if ((flags & BKPBLOCK_HAS_IMAGE) !== 0) {
    if (end - at < 9) return Number.POSITIVE_INFINITY
    const info = view.getUint8(at + 8)
    size += 5
    if ((info & BKPIMAGE_COMPRESSED) !== 0 && (info & BKPIMAGE_HAS_HOLE) !== 0) size += 2
  }
  return size
}
