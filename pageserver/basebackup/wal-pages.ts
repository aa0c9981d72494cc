/**
 * WAL made for a base backup: records laid out in pages as XLogInsert would, across page and
 * segment ends.
 */
import {
  alignLsn,
  type Lsn,
  segmentNumber,
  segmentOffset,
  skipWalHeader,
  WAL_PAGE_SIZE,
  walHeaderSize,
  walPageOffset,
  writeLsnLE,
} from '#libs/lsn.ts'
import { recordCrc } from '#libs/wal/crc32c.ts'
import {
  BLOCK_ID_DATA_LONG,
  BLOCK_ID_DATA_SHORT,
  RECORD_CRC_OFFSET,
  RECORD_HEADER_SIZE,
} from '#libs/wal/format.ts'
import { writePageHeader } from '#libs/wal/page-header.ts'

const SHORT_DATA_LIMIT = 255

/** Whole WAL pages at a place of a segment file; everything else in the segment is zero. */
export interface WalPart {
  segment: number
  offset: number
  bytes: Buffer
}

/** Bytes of WAL between two places that are not page headers. */
export function walPayload(from: Lsn, to: Lsn): number {
  let bytes = 0
  for (let at = from; at < to; ) {
    const pageEnd = at - walPageOffset(at) + WAL_PAGE_SIZE
    bytes += Math.max(0, Math.min(to, pageEnd) - skipWalHeader(at))
    at = pageEnd
  }
  return bytes
}

/** A record without blocks: header, main data, checksum. */
export function encodeRecord(options: {
  rmid: number
  info: number
  previousRecordLsn: Lsn
  data: Buffer
}): Buffer {
  const { data } = options
  const dataHeader = dataHeaderSize(data.length)
  const record = Buffer.alloc(RECORD_HEADER_SIZE + dataHeader + data.length)
  record.writeUInt32LE(record.length, 0)
  writeLsnLE(record, options.previousRecordLsn, 8)
  record[16] = options.info
  record[17] = options.rmid
  if (dataHeader === 2) {
    record[RECORD_HEADER_SIZE] = BLOCK_ID_DATA_SHORT
    record[RECORD_HEADER_SIZE + 1] = data.length
  } else if (dataHeader === 5) {
    record[RECORD_HEADER_SIZE] = BLOCK_ID_DATA_LONG
    record.writeUInt32LE(data.length, RECORD_HEADER_SIZE + 1)
  }
  data.copy(record, RECORD_HEADER_SIZE + dataHeader)
  record.writeUInt32LE(recordCrc(record, 0, record.length), RECORD_CRC_OFFSET)
  return record
}

/**
 * Length of the main data of a record that is `recordLength` bytes long, which is a multiple of 8
 * (there is no data for which a record is 25, or 282 to 284 bytes long).
 */
export function dataLengthOf(recordLength: number): number {
  const rest = recordLength - RECORD_HEADER_SIZE
  if (rest === 0) return 0
  return rest - 2 <= SHORT_DATA_LIMIT ? rest - 2 : rest - 5
}

function dataHeaderSize(dataLength: number): number {
  if (dataLength === 0) return 0
  return dataLength <= SHORT_DATA_LIMIT ? 2 : 5
}

export class WalPages {
  readonly #systemId: bigint
  readonly #pages = new Map<Lsn, Buffer>()

  constructor(systemId: bigint) {
    this.#systemId = systemId
  }

  /**
   * Puts a record at `recordLsn`, behind a page header if there is one at that place, and returns
   * where the next one goes. What lies before it on its page is marked as the tail of another
   * record, unless a record was put there.
   */
  put(recordLsn: Lsn, record: Buffer): Lsn {
    const segmentStart = recordLsn - segmentOffset(recordLsn)
    const firstPage = recordLsn - walPageOffset(recordLsn)
    // Readers check the first page of a segment before any other page of it.
    if (segmentStart !== firstPage) this.#page(segmentStart, 0)
    this.#page(firstPage, walPageOffset(recordLsn) - walHeaderSize(firstPage))
    let at = recordLsn
    let written = 0
    while (written < record.length) {
      const pageLsn = at - walPageOffset(at)
      const page = this.#page(pageLsn, record.length - written)
      at = Math.max(at, pageLsn + walHeaderSize(pageLsn))
      const taken = record.copy(page, walPageOffset(at), written)
      written += taken
      at += taken
    }
    return alignLsn(at)
  }

  /** Ordered by position. */
  parts(): WalPart[] {
    const sorted = [...this.#pages].toSorted(([left], [right]) => left - right)
    return sorted.map(([pageLsn, bytes]) => ({
      segment: segmentNumber(pageLsn),
      offset: segmentOffset(pageLsn),
      bytes,
    }))
  }

  /** `remainingLength` bytes at the start of a new page are marked as the tail of a record. */
  #page(pageLsn: Lsn, remainingLength: number): Buffer {
    const known = this.#pages.get(pageLsn)
    if (known !== undefined) return known
    const page = Buffer.alloc(WAL_PAGE_SIZE)
    writePageHeader(page, 0, { pageLsn, systemId: this.#systemId, remainingLength })
    this.#pages.set(pageLsn, page)
    return page
  }
}
