/**
 * Names in the archive of a sparse base backup (`docs/protocols/base-backup.md`).
 *
 * A WAL segment is 16 MiB of zeros but for one to three pages, and a compute starts faster when
 * only those travel: as entries `pg_wal/<segment>.part-<offset, 6 hex digits>`. Whoever unpacks
 * makes the segment, 16 MiB long, and puts each part at its offset.
 */
import { parseSegmentFileName, segmentFileName, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'

const PART_NAME = /^pg_wal\/([0-9A-F]{24})\.part-([0-9a-f]{6})$/

/** Name of the entry for bytes at `offset` of a WAL segment. */
export function walPartName(segment: number, offset: number): string {
  return `pg_wal/${segmentFileName(1, segment)}.part-${offset.toString(16).padStart(6, '0')}`
}

export interface WalPartPlace {
  /** `pg_wal/<segment>`, the file that the part belongs to. */
  file: string
  offset: number
  /** Length of the whole file. */
  fileSizeBytes: number
}

/** Where the contents of a part entry belong; null for every other entry. */
export function parseWalPartName(name: string): WalPartPlace | null {
  const [, segment, offset] = PART_NAME.exec(name) ?? []
  if (!segment || !offset || parseSegmentFileName(segment) === null) return null
  return {
    file: `pg_wal/${segment}`,
    offset: Number.parseInt(offset, 16),
    fileSizeBytes: WAL_SEGMENT_SIZE,
  }
}
