/**
 * What a boot does with the files it finds of one timeline. Pure, in three steps:
 *
 * 1. `surveyFiles` tells leftovers from segments, and refuses what cannot be trusted.
 * 2. The shell scans records from the stored commit position on, and looks behind the end it found
 *    (`tailToCheck`): an interrupted write may have left bytes there in any combination.
 * 3. `planBoot` gives the effects, in order; they are performed as those of `SegmentPlan` are.
 *
 * What was read may have been in memory only, for instance after a write that failed. So everything
 * between the stored commit position (known to be on disk) and the end is written once more, in
 * place, with the bytes that it has: that makes the pages dirty again, and the sync reports the truth.
 * It needs no space on the disk, and at worst does what every append does to the sector it shares
 * with the one before. Zeros behind the end are on disk already unless the control file says that
 * the tail is dirty: then all of it is zeroed once more. The mark is set before anything is cut.
 */
import { ZenithError } from '#libs/errors.ts'
import {
  formatLsn,
  type Lsn,
  parseSegmentFileName,
  segmentNumber,
  WAL_PAGE_SIZE,
  WAL_SEGMENT_SIZE,
} from '#libs/lsn.ts'
import type { RecordScanner } from '#libs/wal/record-scanner.ts'
import type { ControlState } from '../control-state.ts'
import {
  MAX_WRITE_BYTES,
  newestSegmentOf,
  PARTIAL_SUFFIX,
  segmentName,
  type SegmentRange,
  segmentStart,
  type StoreEffect,
} from './segment-plan.ts'

export type BootControl = Pick<
  ControlState,
  'startLsn' | 'localStartLsn' | 'commitLsn' | 'dirtyTail'
>

export interface FoundFile {
  name: string
  /** Names with the same number are one file. */
  inode: number
  sizeBytes: number
}

/** A segment file that counts; when it has both names, the one without `.partial`. */
export interface FoundSegment {
  segment: number
  name: string
  partial: boolean
  sizeBytes: number
  inode: number
  /** The other name exists too; `sameFile` when both are one. */
  bothNames: boolean
  sameFile: boolean
}

export interface Survey {
  /** Oldest first. */
  segments: FoundSegment[]
  /** Names of files that can go: WAL below the local start, whose removal had begun. */
  leftovers: string[]
}

/** Throws `corrupt` when WAL below the stored commit position is missing or cut short. */
export function surveyFiles(files: readonly FoundFile[], control: BootControl): Survey {
  const found = new Map<number, FoundSegment>()
  const leftovers: string[] = []
  const firstKept = segmentNumber(control.localStartLsn)
  for (const { name, sizeBytes, inode } of files) {
    const partial = name.endsWith(PARTIAL_SUFFIX)
    const parsed = parseSegmentFileName(partial ? name.slice(0, -PARTIAL_SUFFIX.length) : name)
    if (!parsed) continue
    const { segment } = parsed
    const other = found.get(segment)
    if (segment < firstKept) {
      leftovers.push(name)
      continue
    }
    const bothNames = other !== undefined
    const sameFile = other?.inode === inode
    const file = { segment, name, partial, sizeBytes, inode, bothNames, sameFile }
    found.set(segment, partial && other ? { ...other, bothNames, sameFile } : file)
  }
  const segments = [...found.values()].sort((a, b) => a.segment - b.segment)
  checkComplete(found, control)
  return { segments, leftovers }
}

function checkComplete(found: ReadonlyMap<number, FoundSegment>, control: BootControl): void {
  const last = newestSegmentOf(control.commitLsn, control.startLsn)
  for (let segment = segmentNumber(control.localStartLsn); segment <= last; segment += 1) {
    const file = found.get(segment)
    const neededEnd = Math.min(control.commitLsn - segmentStart(segment), WAL_SEGMENT_SIZE)
    const what =
      file === undefined
        ? `the segment ${segmentName(segment, false)} is gone`
        : file.sizeBytes < neededEnd
          ? `${file.name} has only ${file.sizeBytes} bytes`
          : file.sizeBytes > WAL_SEGMENT_SIZE
            ? `${file.name} is larger than a segment`
            : null
    if (what === null) continue
    const range = `${formatLsn(control.localStartLsn)} to ${formatLsn(control.commitLsn)}`
    throw new ZenithError('corrupt', `${what}, but WAL from ${range} was stored here`, {
      hint: 'Restore the segment, or remove the timeline here and have it copied from another safekeeper.',
    })
  }
}

/** What a scan of the records found. */
export interface ScanResult {
  /** End of the last whole valid record. */
  flushLsn: Lsn
  /** Where the scan met the first byte that cannot follow. */
  stoppedLsn: Lsn
}

/**
 * What a scan over `files` has found. A switch whose segment has no full name yet is not whole: its
 * zeros may be those that were there from the start.
 */
export function scanResult(scanner: RecordScanner, files: readonly FoundSegment[]): ScanResult {
  const { recordEndLsn, switchedFromLsn } = scanner
  const ended = files.find((file) => segmentStart(file.segment + 1) === recordEndLsn)
  const flushLsn = ended?.partial && switchedFromLsn !== null ? switchedFromLsn : recordEndLsn
  return { flushLsn, stoppedLsn: scanner.lsn }
}

/**
 * Where bytes behind the end can be: those of an interrupted write, and after a clean stop those of a
 * record that is not whole, which begin at once. Null when there is no file at the end of the log.
 */
export function tailToCheck(
  survey: Survey,
  control: BootControl,
  scan: ScanResult,
  afterCleanStop: boolean,
): { name: string; startLsn: Lsn; endLsn: Lsn } | null {
  const newest = newestSegmentOf(scan.flushLsn, control.startLsn)
  const file = survey.segments.find((candidate) => candidate.segment === newest)
  const ahead = afterCleanStop ? WAL_PAGE_SIZE : MAX_WRITE_BYTES
  const end = Math.min(segmentStart(newest + 1), scan.stoppedLsn + ahead)
  if (file === undefined || segmentNumber(scan.flushLsn) !== newest) return null
  return { name: file.name, startLsn: scan.flushLsn, endLsn: end }
}

export interface BootPlan {
  effects: StoreEffect[]
  segments: SegmentRange | null
}

/**
 * `tailIsZero` is what was found in `tailToCheck`. `afterCleanStop`: the process before ended in
 * order, with everything on disk. Throws `corrupt` when the names of a segment are two files and the
 * full one is not full.
 */
export function planBoot(options: {
  survey: Survey
  control: BootControl
  scan: ScanResult
  tailIsZero: boolean
  afterCleanStop: boolean
}): BootPlan {
  const { survey, control, scan, tailIsZero, afterCleanStop } = options
  const { startLsn, localStartLsn, commitLsn, dirtyTail } = control
  const newest = newestSegmentOf(scan.flushLsn, startLsn)
  const kept = survey.segments.filter((file) => file.segment <= newest)
  const later = survey.segments.filter((file) => file.segment > newest)
  const inPlace = kept.filter((file) => file.segment >= segmentNumber(commitLsn))
  const short = inPlace.some((file) => file.sizeBytes < WAL_SEGMENT_SIZE)
  for (const file of survey.segments) refuseTwo(file, scan.flushLsn)

  const effects: StoreEffect[] = survey.leftovers.map((name) => ({ kind: 'unlink', name }))
  const cut = dirtyTail || !tailIsZero || later.length > 0 || short
  if (cut && !dirtyTail) effects.push({ kind: 'mark', dirtyTail: true, localStartLsn })
  for (const { segment, name, bothNames } of later.toReversed()) {
    effects.push({ kind: 'unlink', name })
    if (bothNames) effects.push({ kind: 'unlink', name: segmentName(segment, true) })
  }
  if (later.length > 0) effects.push({ kind: 'sync-folder' })
  for (const file of kept) {
    if (file.bothNames) effects.push({ kind: 'unlink', name: segmentName(file.segment, true) })
  }
  for (const file of inPlace) {
    const begin = segmentStart(file.segment)
    const end = begin + WAL_SEGMENT_SIZE
    const from = Math.max(begin, commitLsn)
    const to = Math.min(end, scan.flushLsn)
    const { name } = file
    const trusted = afterCleanStop && !dirtyTail
    if (from < to && !trusted) effects.push({ kind: 'rewrite', name, startLsn: from, endLsn: to })
    if (cut && to < end) effects.push({ kind: 'zero', name, startLsn: to, endLsn: end })
    const right = segmentName(file.segment, to < end)
    if (name !== right) effects.push({ kind: 'rename', from: name, to: right })
  }
  // Names may be newer than what is on disk of the folder.
  if (effects.length > 0 || !afterCleanStop) effects.push({ kind: 'sync-folder' })
  if (cut) effects.push({ kind: 'mark', dirtyTail: false, localStartLsn })
  const first = kept[0]?.segment
  return { effects, segments: first === undefined ? null : { first, newest } }
}

/** A rename that both came through and did not: fine if it is one file, or the full one is full. */
function refuseTwo(file: FoundSegment, flushLsn: Lsn): void {
  if (!file.bothNames || file.sameFile || flushLsn >= segmentStart(file.segment + 1)) return
  throw new ZenithError('corrupt', `${file.name} exists with and without ${PARTIAL_SUFFIX}`, {
    hint: 'The one without ends too early. Compare both with another safekeeper, keep the right one.',
  })
}

/** Segments that a scan from the commit position may read, in order and without a gap. */
export function segmentsToScan(survey: Survey, control: BootControl): FoundSegment[] {
  const files: FoundSegment[] = []
  let wanted = segmentNumber(control.commitLsn)
  for (const file of survey.segments) {
    if (file.segment !== wanted) continue
    files.push(file)
    wanted += 1
  }
  return files
}
