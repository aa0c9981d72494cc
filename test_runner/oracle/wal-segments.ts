import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Lsn, parseSegmentFileName, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'

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
