/**
 * Log sequence numbers: byte positions in the WAL of one timeline.
 *
 * An LSN is a plain number. Postgres keeps 64 bits; a double is exact up to 2^53 bytes (8 PiB of
 * WAL), and every place where an LSN enters the system asserts that bound, so arithmetic is safe.
 * The text form is Postgres': two upper-case hex words, `%X/%X`.
 */
import { ZenithError } from './errors.ts'

export type Lsn = number

/** Bytes in one WAL page (XLOG_BLCKSZ). */
export const WAL_PAGE_SIZE = 8192
/** Bytes in one WAL segment; the only size Zenith supports. */
export const WAL_SEGMENT_SIZE = 16 * 1024 * 1024
/** Page header bytes on every WAL page but a segment's first (SizeOfXLogShortPHD). */
export const WAL_SHORT_HEADER_SIZE = 24
/** Page header bytes on the first page of a segment (SizeOfXLogLongPHD). */
export const WAL_LONG_HEADER_SIZE = 40

const TWO_32 = 4294967296
const LSN_TEXT = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/

/** Returns the LSN, or throws when it is not a whole number in [0, 2^53). */
export function assertLsn(lsn: number): Lsn {
  if (!Number.isSafeInteger(lsn) || lsn < 0) {
    throw new ZenithError('invalid_argument', `${lsn} is not a WAL position below 2^53`)
  }
  return lsn
}

/** Parses `16/B374D848`. Throws `invalid_argument` with the expected form. */
export function parseLsn(text: string): Lsn {
  const match = LSN_TEXT.exec(text.trim())
  if (!match) {
    throw new ZenithError('invalid_argument', `"${text}" is not an LSN; write it as 0/1609610`)
  }
  const [, high = '', low = ''] = match
  const lsn = Number.parseInt(high, 16) * TWO_32 + Number.parseInt(low, 16)
  if (!Number.isSafeInteger(lsn)) {
    throw new ZenithError('invalid_argument', `the LSN ${text} is out of range (below 200000/0)`)
  }
  return lsn
}

export function formatLsn(lsn: Lsn): string {
  const high = Math.floor(lsn / TWO_32)
  const low = lsn - high * TWO_32
  return `${high.toString(16).toUpperCase()}/${low.toString(16).toUpperCase()}`
}

/** Rounds up to the next multiple of 8: where the record after one ending at `lsn` starts. */
export function alignLsn(lsn: Lsn): Lsn {
  const remainder = lsn % 8
  return remainder === 0 ? lsn : lsn + 8 - remainder
}

/** Offset of `lsn` inside its WAL page. */
export function walPageOffset(lsn: Lsn): number {
  return lsn % WAL_PAGE_SIZE
}

/** Offset of `lsn` inside its segment. */
export function segmentOffset(lsn: Lsn): number {
  return lsn % WAL_SEGMENT_SIZE
}

export function segmentNumber(lsn: Lsn): number {
  return Math.floor(lsn / WAL_SEGMENT_SIZE)
}

/** Header size of the page that starts at `pageLsn`. */
export function walHeaderSize(pageLsn: Lsn): number {
  return segmentOffset(pageLsn) === 0 ? WAL_LONG_HEADER_SIZE : WAL_SHORT_HEADER_SIZE
}

/**
 * The position of the first record byte at or after `lsn`: when `lsn` is exactly a page start, the
 * page header comes first. Use only to compare with positions that Postgres reports.
 */
export function skipWalHeader(lsn: Lsn): Lsn {
  return walPageOffset(lsn) === 0 ? lsn + walHeaderSize(lsn) : lsn
}

/** Segment file name as Postgres writes it: TTTTTTTTXXXXXXXXYYYYYYYY (XLogFileName). */
export function segmentFileName(walTimeline: number, segment: number): string {
  const perId = TWO_32 / WAL_SEGMENT_SIZE
  const hex = (value: number) => value.toString(16).toUpperCase().padStart(8, '0')
  return hex(walTimeline) + hex(Math.floor(segment / perId)) + hex(segment % perId)
}

/** Inverse of `segmentFileName`; null when the name is not a segment's. */
export function parseSegmentFileName(
  name: string,
): { walTimeline: number; segment: number } | null {
  if (!/^[0-9A-F]{24}$/.test(name)) return null
  const word = (index: number) => Number.parseInt(name.slice(index * 8, index * 8 + 8), 16)
  return { walTimeline: word(0), segment: word(1) * (TWO_32 / WAL_SEGMENT_SIZE) + word(2) }
}

/** Reads eight bytes, big endian (wire protocols). Throws above 2^53. */
export function readLsnBE(buffer: Buffer, offset: number): Lsn {
  return assertLsn(buffer.readUInt32BE(offset) * TWO_32 + buffer.readUInt32BE(offset + 4))
}

/** Reads eight bytes, little endian (Postgres files on x86 and our own files). Throws above 2^53. */
export function readLsnLE(buffer: Buffer, offset: number): Lsn {
  return assertLsn(buffer.readUInt32LE(offset + 4) * TWO_32 + buffer.readUInt32LE(offset))
}

export function writeLsnBE(buffer: Buffer, lsn: Lsn, offset: number): void {
  const high = Math.floor(lsn / TWO_32)
  buffer.writeUInt32BE(high, offset)
  buffer.writeUInt32BE(lsn - high * TWO_32, offset + 4)
}

export function writeLsnLE(buffer: Buffer, lsn: Lsn, offset: number): void {
  const high = Math.floor(lsn / TWO_32)
  buffer.writeUInt32LE(lsn - high * TWO_32, offset)
  buffer.writeUInt32LE(high, offset + 4)
}
