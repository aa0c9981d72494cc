/**
 * WAL of the model: every record has 32 bytes, all lie on one page, and a record is told by its place
 * in the log and by the compute that wrote it. A log is the list of its writers, place by place.
 */
import { RMGR, XLOG_INFO } from '#libs/wal/format.ts'
import { buildPayload, buildRecord } from '../fixtures/wal-builder.ts'

/** Just behind the long header of a segment. */
export const START_LSN = 0x1000028
export const RECORD_BYTES = 32

export type Log = readonly number[]

export function endOf(log: Log): number {
  return START_LSN + log.length * RECORD_BYTES
}

/** Number of whole records below `lsn`. */
export function placesBelow(lsn: number): number {
  return (lsn - START_LSN) / RECORD_BYTES
}

const built = new Map<number, Buffer>()

export function recordBytes(place: number, writer: number): Buffer {
  const key = place * 64 + writer
  let bytes = built.get(key)
  if (bytes === undefined) {
    const main = Buffer.alloc(6)
    main.writeUInt16LE(place, 0)
    main.writeUInt16LE(writer, 2)
    const previous = START_LSN + (place - 1) * RECORD_BYTES
    bytes = buildRecord(RMGR.XLOG, XLOG_INFO.NOOP, 0, buildPayload({ main }), previous)
    built.set(key, bytes)
  }
  return bytes
}

export function logBytes(log: Log, fromPlace: number, toPlace: number): Buffer {
  const parts: Buffer[] = []
  for (let place = fromPlace; place < toPlace; place += 1) {
    parts.push(recordBytes(place, log[place] as number))
  }
  return Buffer.concat(parts)
}

/** Writers of the records in `wal`, which begins at `place`. */
export function writersOf(wal: Buffer, place: number): number[] {
  const writers: number[] = []
  for (let offset = 0; offset < wal.length; offset += RECORD_BYTES) {
    const record = wal.subarray(offset, offset + RECORD_BYTES)
    const writer = record.readUInt16LE(RECORD_BYTES - 4)
    if (!recordBytes(place + writers.length, writer).equals(record)) {
      throw new Error('a message carries bytes that nobody wrote')
    }
    writers.push(writer)
  }
  return writers
}

export function isPrefix(short: Log, long: Log): boolean {
  return short.length <= long.length && short.every((writer, place) => writer === long[place])
}
