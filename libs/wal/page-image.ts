import { zstdDecompressSync } from 'node:zlib'
import { ZenithError } from '../errors.ts'
import { formatLsn } from '../lsn.ts'
import type { DecodedRecord } from './decoded-record.ts'
import { decompressLz4, decompressPglz } from './decompress.ts'
import {
  BKPIMAGE_COMPRESS_LZ4,
  BKPIMAGE_COMPRESS_PGLZ,
  BKPIMAGE_COMPRESS_ZSTD,
  BKPIMAGE_COMPRESSED,
} from './format.ts'

const PAGE_SIZE = 8192
const scratch = Buffer.alloc(PAGE_SIZE)

/**
 * Writes the page that block reference `index` carries as an image to the first 8192 bytes of
 * `page`: decompressed, hole filled with zeros. The page's LSN is left as logged; redo sets it.
 * Throws `corrupt` when the image does not decompress. Follows RestoreBlockImage (xlogreader.c).
 */
export function restoreImage(record: DecodedRecord, index: number, page: Buffer): void {
  const info = record.imageInfo[index] as number
  const start = record.imageOffset[index] as number
  const end = start + (record.imageLength[index] as number)
  const holeLength = record.holeLength[index] as number
  const holeOffset = record.holeOffset[index] as number
  let source = record.buffer
  let from = start
  if ((info & BKPIMAGE_COMPRESSED) !== 0) {
    if (!decompress(source, start, end, info, PAGE_SIZE - holeLength)) {
      throw new ZenithError(
        'corrupt',
        `WAL record at ${formatLsn(record.startLsn)} has an image of block ` +
          `${record.block[index]} that does not decompress`,
      )
    }
    source = scratch
    from = 0
  }
  if (holeLength === 0) {
    source.copy(page, 0, from, from + PAGE_SIZE)
    return
  }
  source.copy(page, 0, from, from + holeOffset)
  page.fill(0, holeOffset, holeOffset + holeLength)
  source.copy(page, holeOffset + holeLength, from + holeOffset, from + PAGE_SIZE - holeLength)
}

/** Decompresses into `scratch`; false when the input is damaged. */
function decompress(
  input: Buffer,
  start: number,
  end: number,
  info: number,
  outputLength: number,
): boolean {
  if ((info & BKPIMAGE_COMPRESS_PGLZ) !== 0) {
    return decompressPglz(input, start, end, scratch, outputLength)
  }
  if ((info & BKPIMAGE_COMPRESS_LZ4) !== 0) {
    return decompressLz4(input, start, end, scratch, outputLength)
  }
  if ((info & BKPIMAGE_COMPRESS_ZSTD) === 0) return false
  try {
    const output = zstdDecompressSync(input.subarray(start, end), { maxOutputLength: PAGE_SIZE })
    output.copy(scratch)
    return output.length === outputLength
  } catch {
    return false
  }
}
