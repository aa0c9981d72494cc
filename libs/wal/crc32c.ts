/**
 * CRC-32C (Castagnoli) as Postgres uses it for WAL records, pg_control and two-phase files.
 *
 * Two ways, same result: slicing-by-8 tables here for short inputs, the native function for long
 * ones, where the cost of crossing into native code and of making a view no longer shows.
 */
import { crc32c as nativeCrc32c } from '@node-rs/crc32'
import { RECORD_CRC_OFFSET, RECORD_HEADER_SIZE } from './format.ts'

const POLYNOMIAL = 0x82f63b78
const NATIVE_FROM_BYTES = 1024

const TABLES = buildTables()
const T0 = TABLES.subarray(0, 256)
const T1 = TABLES.subarray(256, 512)
const T2 = TABLES.subarray(512, 768)
const T3 = TABLES.subarray(768, 1024)
const T4 = TABLES.subarray(1024, 1280)
const T5 = TABLES.subarray(1280, 1536)
const T6 = TABLES.subarray(1536, 1792)
const T7 = TABLES.subarray(1792, 2048)

function buildTables(): Int32Array {
  const tables = new Int32Array(8 * 256)
  for (let byte = 0; byte < 256; byte += 1) {
    let crc = byte
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ ((crc & 1) === 0 ? 0 : POLYNOMIAL)
    tables[byte] = crc
  }
  for (let slice = 1; slice < 8; slice += 1) {
    for (let byte = 0; byte < 256; byte += 1) {
      const previous = tables[(slice - 1) * 256 + byte] as number
      tables[slice * 256 + byte] = (previous >>> 8) ^ (tables[previous & 0xff] as number)
    }
  }
  return tables
}

/** Continues an inverted CRC over bytes [start, end): the loop without the final inversion. */
function update(state: number, bytes: Uint8Array, start: number, end: number): number {
  let crc = state
  let at = start
  for (const last = end - 8; at <= last; at += 8) {
    crc =
      (T7[((bytes[at] as number) ^ crc) & 0xff] as number) ^
      (T6[((bytes[at + 1] as number) ^ (crc >>> 8)) & 0xff] as number) ^
      (T5[((bytes[at + 2] as number) ^ (crc >>> 16)) & 0xff] as number) ^
      (T4[(bytes[at + 3] as number) ^ (crc >>> 24)] as number) ^
      (T3[bytes[at + 4] as number] as number) ^
      (T2[bytes[at + 5] as number] as number) ^
      (T1[bytes[at + 6] as number] as number) ^
      (T0[bytes[at + 7] as number] as number)
  }
  for (; at < end; at += 1) {
    crc = (crc >>> 8) ^ (T0[((bytes[at] as number) ^ crc) & 0xff] as number)
  }
  return crc
}

/** CRC-32C of bytes [start, end), unsigned. `seed` is the CRC of what came before, 0 at first. */
export function crc32c(bytes: Uint8Array, start = 0, end: number = bytes.length, seed = 0): number {
  if (end - start >= NATIVE_FROM_BYTES) return nativeCrc32c(bytes.subarray(start, end), seed)
  return ~update(~seed, bytes, start, end) >>> 0
}

/**
 * CRC of the WAL record of `length` bytes at `offset`: first what follows the 24-byte header, then
 * the header up to the CRC field (ValidXLogRecord).
 */
export function recordCrc(bytes: Uint8Array, offset: number, length: number): number {
  const body = offset + RECORD_HEADER_SIZE
  const end = offset + length
  if (length >= NATIVE_FROM_BYTES) {
    const state = nativeCrc32c(bytes.subarray(body, end))
    return ~update(~state, bytes, offset, offset + RECORD_CRC_OFFSET) >>> 0
  }
  return ~update(update(-1, bytes, body, end), bytes, offset, offset + RECORD_CRC_OFFSET) >>> 0
}

/** The next state after two words, of which `x` has the state in it. */
function afterWords(x: number, y: number): number {
  return (
    (T7[x & 0xff] as number) ^
    (T6[(x >>> 8) & 0xff] as number) ^
    (T5[(x >>> 16) & 0xff] as number) ^
    (T4[x >>> 24] as number) ^
    (T3[y & 0xff] as number) ^
    (T2[(y >>> 8) & 0xff] as number) ^
    (T1[(y >>> 16) & 0xff] as number) ^
    (T0[y >>> 24] as number)
  )
}

/** The next state after one word, which has the state in it. */
function afterWord(x: number): number {
  return (
    (T3[x & 0xff] as number) ^
    (T2[(x >>> 8) & 0xff] as number) ^
    (T1[(x >>> 16) & 0xff] as number) ^
    (T0[x >>> 24] as number)
  )
}

function updateView(state: number, view: DataView, start: number, end: number): number {
  let crc = state
  let at = start
  for (const last = end - 8; at <= last; at += 8) {
    crc = afterWords(view.getInt32(at, true) ^ crc, view.getInt32(at + 4, true))
  }
  if (at + 4 <= end) {
    crc = afterWord(view.getInt32(at, true) ^ crc)
    at += 4
  }
  for (; at < end; at += 1) {
    crc = (crc >>> 8) ^ (T0[(view.getUint8(at) ^ crc) & 0xff] as number)
  }
  return crc
}

/**
 * Whether the CRC of two short WAL records of the same buffer is right: 0 = both, 1 = not that of the
 * first, 2 = not that of the second, 3 = neither. Each step of a CRC waits for the one before, so two at
 * a time take little longer than one.
 */
export function wrongOfTwoRecords(
  view: DataView,
  offset: number,
  length: number,
  otherOffset: number,
  otherLength: number,
): number {
  const end = offset + length
  const otherEnd = otherOffset + otherLength
  let at = offset + RECORD_HEADER_SIZE
  let otherAt = otherOffset + RECORD_HEADER_SIZE
  let crc = -1
  let other = -1
  for (let pairs = Math.min(end - at, otherEnd - otherAt) >>> 3; pairs > 0; pairs -= 1) {
    crc = afterWords(view.getInt32(at, true) ^ crc, view.getInt32(at + 4, true))
    other = afterWords(view.getInt32(otherAt, true) ^ other, view.getInt32(otherAt + 4, true))
    at += 8
    otherAt += 8
  }
  crc = updateView(crc, view, at, end)
  other = updateView(other, view, otherAt, otherEnd)
  at = offset
  otherAt = otherOffset
  for (let pairs = 0; pairs < 2; pairs += 1) {
    crc = afterWords(view.getInt32(at, true) ^ crc, view.getInt32(at + 4, true))
    other = afterWords(view.getInt32(otherAt, true) ^ other, view.getInt32(otherAt + 4, true))
    at += 8
    otherAt += 8
  }
  crc = ~afterWord(view.getInt32(at, true) ^ crc)
  other = ~afterWord(view.getInt32(otherAt, true) ^ other)
  const isWrong = crc !== view.getInt32(offset + RECORD_CRC_OFFSET, true) ? 1 : 0
  return isWrong | (other !== view.getInt32(otherOffset + RECORD_CRC_OFFSET, true) ? 2 : 0)
}

/** Records shorter than this are checked by `wrongOfTwoRecords`, two at a time. */
export const SHORT_RECORD_BYTES = NATIVE_FROM_BYTES
