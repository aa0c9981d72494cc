/** The folder of one timeline: how it is made, and what a process that starts finds in it. */
import { rename } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import { formatLsn } from '#libs/lsn.ts'
import type { ControlState } from './control-state.ts'
import { removeLeftovers } from './offload/residence.ts'
import { ControlFile } from './store/control-file.ts'
import { makeEmptyFolder, syncDirectory } from './store/files.ts'
import { SegmentDisk } from './store/segment-disk.ts'
import { type RecoveredWal, recoverWal } from './store/wal-recovery.ts'
import type { TimelineContext } from './timeline-context.ts'

export interface TimelineFiles {
  readonly directory: string
  readonly controlFile: ControlFile
  readonly recovered: RecoveredWal
}

/** Builds the whole folder under a temporary name, then renames it: it exists whole or not at all. */
export async function createTimelineFiles(
  directory: string,
  control: ControlState,
  context: TimelineContext,
): Promise<TimelineFiles> {
  const parent = dirname(directory)
  const building = `${parent}/creating-${basename(directory)}`
  await makeEmptyFolder(building)
  const controlFile = new ControlFile(building, context.reserve)
  await Promise.all([syncDirectory(dirname(parent)), controlFile.create(control)])
  await rename(building, directory)
  await syncDirectory(parent)
  controlFile.moved(directory)
  return { directory, controlFile, recovered: { flushLsn: control.startLsn, segments: null } }
}

/** Reads a folder, and finds the end of its log. Throws `corrupt` when its files cannot be trusted. */
export async function openTimelineFiles(
  directory: string,
  context: TimelineContext,
  afterCleanStop: boolean,
): Promise<TimelineFiles> {
  const controlFile = new ControlFile(directory, context.reserve)
  const control = await controlFile.read()
  const disk = segmentDisk(directory, controlFile, context)
  if (control.eviction !== null && context.offload === null) {
    throw new ZenithError(
      'precondition_failed',
      `the WAL of timeline ${control.timelineId} is in object storage only`,
      { hint: 'Set object_store of this safekeeper to the one it had before.' },
    )
  }
  const recovered =
    control.eviction === null
      ? await recoverWal(disk, control, afterCleanStop)
      : { flushLsn: control.eviction.flushLsn, segments: null }
  await removeLeftovers(disk)
  context.log.info(
    {
      timeline: control.timelineId,
      term: control.term,
      commitLsn: formatLsn(control.commitLsn),
      flushLsn: formatLsn(recovered.flushLsn),
    },
    'timeline opened',
  )
  return { directory, controlFile, recovered }
}

/** The files of a timeline whose control file has been read or written. */
export function segmentDisk(
  directory: string,
  controlFile: ControlFile,
  { spares }: Pick<TimelineContext, 'spares'>,
): SegmentDisk {
  return new SegmentDisk(directory, { spares, controlFile, start: controlFile.stored })
}
