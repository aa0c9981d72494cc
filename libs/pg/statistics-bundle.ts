/**
 * The statistics files of a stopped server as one block of bytes: `pg_stat/pgstat.stat` and what
 * extensions such as pg_stat_statements leave beside it. The bytes are
 *
 *   zenith-statistics 1 <crc32 of the rest, 8 hex>\n
 *   zstd of: for each file  path length u16 | content length u32 | path | content   (little-endian)
 */
import { ZenithError } from '#libs/errors.ts'

// An import would evaluate all exports of the module; a compute needs this only at its end.
const zlib = process.getBuiltinModule('node:zlib')

export interface StatisticsFile {
  /** Relative to the data folder, directly in `pg_stat/`. */
  readonly path: string
  readonly content: Buffer
}

/** Larger bundles are not kept: about 200,000 tables, or 50,000 long statements. */
export const MAX_BUNDLE_BYTES = 24 * 1024 * 1024
const MAX_UNPACKED_BYTES = 512 * 1024 * 1024
const HEADER = /^zenith-statistics 1 ([0-9a-f]{8})$/
const PATH = /^pg_stat\/[A-Za-z0-9_][A-Za-z0-9_.-]*$/
const ENTRY_HEADER_BYTES = 6

/** True for a name that a bundle may hold. */
export function isStatisticsPath(path: string): boolean {
  return PATH.test(path)
}

export function packStatistics(files: readonly StatisticsFile[]): Buffer {
  const parts = files.flatMap(({ path, content }) => {
    const name = Buffer.from(path)
    const header = Buffer.alloc(ENTRY_HEADER_BYTES)
    header.writeUInt16LE(name.length, 0)
    header.writeUInt32LE(content.length, 2)
    return [header, name, content]
  })
  const body = zlib.zstdCompressSync(Buffer.concat(parts))
  const crc = zlib.crc32(body).toString(16).padStart(8, '0')
  return Buffer.concat([Buffer.from(`zenith-statistics 1 ${crc}\n`), body])
}

/** Throws `corrupt` for anything that `packStatistics` cannot have made. */
export function unpackStatistics(bundle: Buffer): StatisticsFile[] {
  const lineEnd = bundle.indexOf('\n')
  const crc = HEADER.exec(bundle.toString('latin1', 0, Math.max(lineEnd, 0)))?.[1]
  const body = bundle.subarray(lineEnd + 1)
  if (crc === undefined) throw damaged('its first line is wrong')
  if (Number.parseInt(crc, 16) !== zlib.crc32(body)) throw damaged('its checksum is wrong')
  const bytes = zlib.zstdDecompressSync(body, { maxOutputLength: MAX_UNPACKED_BYTES })
  const files: StatisticsFile[] = []
  for (let at = 0; at < bytes.length; ) {
    if (at + ENTRY_HEADER_BYTES > bytes.length) throw damaged('it ends in the middle')
    const nameEnd = at + ENTRY_HEADER_BYTES + bytes.readUInt16LE(at)
    const end = nameEnd + bytes.readUInt32LE(at + 2)
    if (end > bytes.length) throw damaged('it ends in the middle')
    const path = bytes.toString('utf8', at + ENTRY_HEADER_BYTES, nameEnd)
    if (!isStatisticsPath(path)) throw damaged(`it holds ${JSON.stringify(path)}`)
    files.push({ path, content: bytes.subarray(nameEnd, end) })
    at = end
  }
  return files
}

function damaged(how: string): ZenithError {
  return new ZenithError('corrupt', `a bundle of statistics is damaged: ${how}`)
}
