/**
 * Segment files of a timeline: named as Postgres names them, the unfinished one with `.partial`,
 * always of full size, zeros behind the end of the log.
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import {
  type Lsn,
  parseSegmentFileName,
  segmentFileName,
  segmentNumber,
  WAL_SEGMENT_SIZE,
} from '#libs/lsn.ts'
import { removeFile, syncDirectory } from './files.ts'

/** Postgres' own timeline number: Zenith branches by ids of its own, so it never changes. */
const WAL_TIMELINE = 1
const PARTIAL_SUFFIX = '.partial'

export function segmentPath(directory: string, segment: number, partial: boolean): string {
  return join(directory, segmentFileName(WAL_TIMELINE, segment) + (partial ? PARTIAL_SUFFIX : ''))
}

export interface SegmentFile {
  segment: number
  partial: boolean
  path: string
}

/** Segment files of a folder, oldest first. Throws `corrupt` when one has both names. */
export async function listSegments(directory: string): Promise<SegmentFile[]> {
  const found: SegmentFile[] = []
  for (const name of await readdir(directory)) {
    const partial = name.endsWith(PARTIAL_SUFFIX)
    const parsed = parseSegmentFileName(partial ? name.slice(0, -PARTIAL_SUFFIX.length) : name)
    if (parsed) found.push({ segment: parsed.segment, partial, path: join(directory, name) })
  }
  found.sort((a, b) => a.segment - b.segment)
  for (const [index, file] of found.entries()) {
    if (found[index + 1]?.segment === file.segment) {
      throw new ZenithError('corrupt', `${file.path} exists with and without .partial`, {
        hint: 'Compare both with another safekeeper and keep the right one.',
      })
    }
  }
  return found
}

/** The file that holds `lsn`, or undefined. */
export function fileOf(files: readonly SegmentFile[], lsn: Lsn): SegmentFile | undefined {
  const segment = segmentNumber(lsn)
  return files.find((file) => file.segment === segment)
}

/** A segment of a timeline as others see it: [startLsn, endLsn), whole when all of it was written. */
export interface LocalSegment {
  segment: number
  startLsn: Lsn
  endLsn: Lsn
  full: boolean
}

export async function listLocalSegments(directory: string): Promise<LocalSegment[]> {
  return (await listSegments(directory)).map((file) => ({
    segment: file.segment,
    startLsn: file.segment * WAL_SEGMENT_SIZE,
    endLsn: (file.segment + 1) * WAL_SEGMENT_SIZE,
    full: !file.partial,
  }))
}

/** Removes full segments wholly below `lsn`, oldest first; returns where WAL begins afterwards. */
export async function removeSegmentsBelow(
  directory: string,
  lsn: Lsn,
  startLsn: Lsn,
): Promise<Lsn> {
  let first: Lsn | null = null
  for (const file of await listSegments(directory)) {
    const begin = file.segment * WAL_SEGMENT_SIZE
    if (!file.partial && begin + WAL_SEGMENT_SIZE <= lsn) await removeFile(file.path)
    else first ??= begin
  }
  await syncDirectory(directory)
  return Math.max(startLsn, first ?? lsn)
}
