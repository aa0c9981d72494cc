import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { assert } from '#libs/errors.ts'
import { type Lsn, parseSegmentFileName, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { IN_ARENA, RecordFramer } from '#libs/wal/record-framer.ts'

/** The WAL of a stopped server's pg_wal in [startLsn, endLsn), one piece per segment file. */
export function* readWalSegments(
  walDir: string,
  startLsn: Lsn,
  endLsn: Lsn,
): Generator<{ lsn: Lsn; bytes: Buffer }> {
  for (const name of readdirSync(walDir).sort()) {
    const parsed = parseSegmentFileName(name)
    if (parsed === null) continue
    const segmentLsn = parsed.segment * WAL_SEGMENT_SIZE
    const from = Math.max(startLsn, segmentLsn)
    const to = Math.min(endLsn, segmentLsn + WAL_SEGMENT_SIZE)
    if (from >= to) continue
    const bytes = readFileSync(join(walDir, name)).subarray(from - segmentLsn, to - segmentLsn)
    yield { lsn: from, bytes }
  }
}

export interface RecordPlace {
  startLsn: Lsn
  endLsn: Lsn
  rmid: number
  info: number
}

/** All records in the range, in order. Throws when the WAL ends inside it. */
export function listRecords(walDir: string, startLsn: Lsn, endLsn: Lsn): RecordPlace[] {
  const framer = new RecordFramer(startLsn)
  const records: RecordPlace[] = []
  for (const { bytes } of readWalSegments(walDir, startLsn, endLsn)) {
    framer.feed(bytes)
    for (let index = 0; index < framer.count; index += 1) {
      const inArena = framer.place[index] === IN_ARENA
      const buffer = inArena ? framer.arena : framer.slice
      records.push({
        startLsn: framer.startLsn[index] as number,
        endLsn: framer.endLsn[index] as number,
        rmid: framer.rmid[index] as number,
        info: buffer[(framer.offset[index] as number) + 16] as number,
      })
    }
  }
  assert(framer.recordEndLsn === endLsn, 'the WAL reaches to the end of the range')
  return records
}
