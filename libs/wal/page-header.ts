import { ZenithError } from '../errors.ts'
import {
  formatLsn,
  type Lsn,
  readLsnLE,
  segmentOffset,
  WAL_LONG_HEADER_SIZE,
  WAL_PAGE_SIZE,
  WAL_SEGMENT_SIZE,
  WAL_SHORT_HEADER_SIZE,
  walHeaderSize,
  writeLsnLE,
} from '../lsn.ts'
import {
  WAL_PAGE_MAGIC,
  XLP_ALL_FLAGS,
  XLP_FIRST_IS_CONTRECORD,
  XLP_LONG_HEADER,
} from './format.ts'

/**
 * Header of a WAL page (XLogPageHeaderData, XLogLongPageHeaderData):
 *
 *   0 magic u16 | 2 info u16 | 4 tli u32 | 8 pageaddr u64 | 16 rem_len u32 | 20 zero u32
 *   and on the first page of a segment also 24 system id u64 | 32 segment size u32 | 36 block size u32
 */
export const PAGE_INFO_OFFSET = 2
export const PAGE_REM_LEN_OFFSET = 16

export type WalPageHeader = {
  info: number
  walTimeline: number
  pageLsn: Lsn
  remainingLength: number
  /** Only on the first page of a segment. */
  systemId: bigint | undefined
}

function corrupt(pageLsn: Lsn, what: string): ZenithError {
  return new ZenithError('corrupt', `WAL page at ${formatLsn(pageLsn)} ${what}`, {
    hint: 'The WAL of this timeline is damaged or comes from another Postgres version.',
  })
}

/**
 * Checks the header at `offset`, which must hold `walHeaderSize(pageLsn)` bytes. Throws `corrupt`
 * when the magic, flags, address or sizes cannot be those of the page at `pageLsn`.
 * Follows XLogReaderValidatePageHeader.
 */
export function checkPageHeader(buffer: Buffer, offset: number, pageLsn: Lsn): void {
  const magic = buffer.readUInt16LE(offset)
  if (magic !== WAL_PAGE_MAGIC) {
    throw corrupt(
      pageLsn,
      `has magic number ${magic.toString(16)}, not ${WAL_PAGE_MAGIC.toString(16)}`,
    )
  }
  const info = buffer.readUInt16LE(offset + PAGE_INFO_OFFSET)
  if ((info & ~XLP_ALL_FLAGS) !== 0) {
    throw corrupt(pageLsn, `has unknown flag bits ${info.toString(16)}`)
  }
  const low = buffer.readUInt32LE(offset + 8)
  const high = buffer.readUInt32LE(offset + 12)
  const address = high * 4294967296 + low
  if (address !== pageLsn) throw corrupt(pageLsn, `says that it is at ${formatLsn(address)}`)
  const long = (info & XLP_LONG_HEADER) !== 0
  if (long !== (segmentOffset(pageLsn) === 0)) {
    throw corrupt(pageLsn, long ? 'has a long header inside a segment' : 'lacks its long header')
  }
  if (long) {
    const segmentSize = buffer.readUInt32LE(offset + 32)
    const pageSize = buffer.readUInt32LE(offset + 36)
    if (segmentSize !== WAL_SEGMENT_SIZE || pageSize !== WAL_PAGE_SIZE) {
      throw corrupt(pageLsn, `says ${segmentSize}-byte segments and ${pageSize}-byte pages`)
    }
  }
}

/** Parses a header after checking it. Throws as `checkPageHeader`. */
export function readPageHeader(buffer: Buffer, offset: number, pageLsn: Lsn): WalPageHeader {
  checkPageHeader(buffer, offset, pageLsn)
  const info = buffer.readUInt16LE(offset + PAGE_INFO_OFFSET)
  return {
    info,
    walTimeline: buffer.readUInt32LE(offset + 4),
    pageLsn: readLsnLE(buffer, offset + 8),
    remainingLength: buffer.readUInt32LE(offset + PAGE_REM_LEN_OFFSET),
    systemId: (info & XLP_LONG_HEADER) === 0 ? undefined : buffer.readBigUInt64LE(offset + 24),
  }
}

export type PageHeaderFields = {
  pageLsn: Lsn
  systemId: bigint
  /** Bytes of an earlier record that begin this page; 0 when a record starts here. */
  remainingLength?: number
  walTimeline?: number
  /** Further xlp_info bits. */
  info?: number
}

/** Writes the header of the page at `pageLsn`; returns its size (24, or 40 at a segment start). */
export function writePageHeader(buffer: Buffer, offset: number, fields: PageHeaderFields): number {
  const size = walHeaderSize(fields.pageLsn)
  const remaining = fields.remainingLength ?? 0
  let info = fields.info ?? 0
  if (size === WAL_LONG_HEADER_SIZE) info |= XLP_LONG_HEADER
  if (remaining > 0) info |= XLP_FIRST_IS_CONTRECORD
  buffer.writeUInt16LE(WAL_PAGE_MAGIC, offset)
  buffer.writeUInt16LE(info, offset + PAGE_INFO_OFFSET)
  buffer.writeUInt32LE(fields.walTimeline ?? 1, offset + 4)
  writeLsnLE(buffer, fields.pageLsn, offset + 8)
  buffer.writeUInt32LE(remaining, offset + PAGE_REM_LEN_OFFSET)
  buffer.writeUInt32LE(0, offset + 20)
  if (size !== WAL_SHORT_HEADER_SIZE) {
    buffer.writeBigUInt64LE(fields.systemId, offset + 24)
    buffer.writeUInt32LE(WAL_SEGMENT_SIZE, offset + 32)
    buffer.writeUInt32LE(WAL_PAGE_SIZE, offset + 36)
  }
  return size
}
