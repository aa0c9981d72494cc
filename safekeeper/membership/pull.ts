/**
 * Copies a timeline from another safekeeper into a folder under a temporary name. Nothing here votes or
 * acknowledges until the folder is renamed, so a copy that breaks off anywhere leaves nothing behind.
 *
 * The donor's durable state is read first: term, last log term, end of the log. The WAL is then read
 * pinned to that term, and the state again at the end: as long as term and last log term are the
 * same, nothing that was copied has been cut, so all of it is one leader's log (I6).
 */
import { mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn, parseLsn, segmentOffset } from '#libs/lsn.ts'
import type { SessionTarget } from '#libs/pgwire/session-target.ts'
import { allMembers, configurationProblem } from '#libs/protocol/quorum.ts'
import { cutHistory } from '#libs/protocol/term-history.ts'
import type { Member, MemberConfiguration } from '#libs/protocol/wal-push.ts'
import { type ControlState, decodeControlState } from '../control-state.ts'
import { ControlFile } from '../store/control-file.ts'
import { syncDirectory } from '../store/files.ts'
import type { SegmentDisk } from '../store/segment-disk.ts'
import { recoverWal } from '../store/wal-recovery.ts'
import { WalStore } from '../store/wal-store.ts'
import type { TimelineContext } from '../timeline-context.ts'
import { segmentDisk } from '../timeline-files.ts'
import { readFromDonor } from './donor-stream.ts'

/** Received WAL that is not durable yet; beyond it reading waits. */
const MAX_BACKLOG_BYTES = 16 * 1024 * 1024

/** A log that a copy has to reach; compares by last log term, then flush. */
export interface CopyMinimum {
  readonly term: number
  readonly lastLogTerm: number
  readonly flushLsn: Lsn
}

export interface PullOrder {
  readonly target: SessionTarget
  readonly donors: readonly Member[]
  readonly configuration: MemberConfiguration
  readonly minimum: CopyMinimum | null
}

export interface PullContext {
  /** Folder that is built; its parent is the tenant's. */
  readonly directory: string
  readonly timeline: TimelineContext
  readonly log: Logger
  readonly signal: AbortSignal
  readonly progress: (copiedBytes: number, totalBytes: number) => void
}

/** Throws `invalid_argument` for members that nobody may follow, or without this safekeeper. */
export function checkOrder({ configuration }: PullOrder, nodeId: number): void {
  const problem = configurationProblem(configuration)
  if (problem !== null) throw new ZenithError('invalid_argument', problem)
  if (allMembers(configuration).some(({ id }) => id === nodeId)) return
  throw new ZenithError(
    'invalid_argument',
    `members of generation ${configuration.generation} do not include safekeeper ${nodeId}`,
  )
}

/**
 * Builds the copy from the first donor that can give it; durable when this returns. Throws the last
 * donor's reason when none could.
 */
export async function buildCopy(order: PullOrder, context: PullContext): Promise<void> {
  let last: unknown
  for (const donor of order.donors) {
    try {
      return await copyFrom(donor, order, context)
    } catch (error) {
      last = error
      await rm(context.directory, { recursive: true, force: true })
      if (context.signal.aborted) break
      context.log.warn({ donor: donor.id, reason: errorMessage(error) }, 'cannot copy from there')
    }
  }
  throw last
}

interface DonorState {
  control: ControlState
  flushLsn: Lsn
  lastLogTerm: number
}

async function donorState(donor: Member, target: SessionTarget): Promise<DonorState> {
  const answer = await callSafekeeper(`http://${donor.host}:${donor.httpPort}`, 'control', {
    params: { ...target },
    timeoutMs: 10_000,
  })
  return {
    control: decodeControlState(Buffer.from(answer.control, 'base64')),
    flushLsn: parseLsn(answer.flushLsn),
    lastLogTerm: answer.lastLogTerm,
  }
}

async function copyFrom(donor: Member, order: PullOrder, context: PullContext): Promise<void> {
  const { target, minimum, configuration } = order
  const before = await donorState(donor, target)
  const { control, flushLsn } = before
  checkDonor(donor, before, order)
  const { directory } = context
  await mkdir(dirname(directory), { recursive: true })
  await syncDirectory(dirname(dirname(directory)))
  await rm(directory, { recursive: true, force: true })
  await mkdir(directory)
  const copy: ControlState = {
    ...control,
    configuration,
    term: Math.max(control.term, minimum?.term ?? 0),
    history: cutHistory(control.history, flushLsn),
    commitLsn: Math.min(control.commitLsn, flushLsn),
    localStartLsn: copyStart(control),
    partialBackups: [],
    eviction: null,
    dirtyTail: false,
    createdAtMs: Date.now(),
  }
  const controlFile = new ControlFile(directory, context.timeline.reserve)
  await controlFile.write(copy)
  await copyWal({ donor, order, context, controlFile, flushLsn, donorTerm: control.term })
  const after = await donorState(donor, target)
  if (after.control.term !== control.term || after.lastLogTerm !== before.lastLogTerm) {
    throw new ZenithError('unavailable', `safekeeper ${donor.id} followed another leader meanwhile`)
  }
}

interface WalCopy {
  donor: Member
  order: PullOrder
  context: PullContext
  controlFile: ControlFile
  flushLsn: Lsn
  donorTerm: number
}

async function copyWal(job: WalCopy): Promise<void> {
  const { donor, order, context, controlFile, flushLsn, donorTerm } = job
  const { stored: copy } = controlFile
  const beginLsn = copy.localStartLsn
  const disk = segmentDisk(context.directory, controlFile, context.timeline)
  const store = new WalStore({
    disk,
    slots: context.timeline.slots,
    startLsn: copy.startLsn,
    localStartLsn: beginLsn,
    endLsn: beginLsn,
    segments: null,
    onDurable: () => {},
    onFull: (error) => context.log.error({ err: error }, 'no space for a copy; trying again'),
  })
  const total = flushLsn - beginLsn
  context.progress(0, total)
  try {
    const { target } = order
    const { signal } = context
    const read = { donor, target, term: donorTerm, beginLsn, endLsn: flushLsn, signal }
    for await (const { lsn, wal } of readFromDonor(read)) {
      store.write(0, lsn, wal)
      if (store.backlogBytes > MAX_BACKLOG_BYTES) await store.flush()
      context.progress(lsn + wal.length - beginLsn, total)
    }
    await store.flush()
  } finally {
    await store.close()
  }
  await checkScanned(disk, copy, flushLsn)
}

function checkDonor(
  donor: Member,
  { control, flushLsn, lastLogTerm }: DonorState,
  order: PullOrder,
): void {
  const { target, minimum } = order
  if (control.tenantId !== target.tenantId || control.timelineId !== target.timelineId) {
    throw new ZenithError('corrupt', `safekeeper ${donor.id} answered for another timeline`)
  }
  if (minimum === null) return
  const difference = lastLogTerm - minimum.lastLogTerm || flushLsn - minimum.flushLsn
  if (difference >= 0) return
  throw new ZenithError(
    'unavailable',
    `the log of safekeeper ${donor.id} ends at ${formatLsn(flushLsn)} in term ${lastLogTerm}, ` +
      `before ${formatLsn(minimum.flushLsn)} in term ${minimum.lastLogTerm}`,
  )
}

/** What is in object storage and at the page server is left out, in whole segments. */
function copyStart(control: ControlState): Lsn {
  const settled = Math.min(control.remoteConsistentLsn, control.backupLsn, control.commitLsn)
  const first = Math.max(control.localStartLsn, settled)
  const segmentStart = first - segmentOffset(first)
  return Math.max(control.startLsn, segmentStart)
}

/** Every record that can be read from its start must be right, up to the end that was promised. */
async function checkScanned(disk: SegmentDisk, copy: ControlState, flushLsn: Lsn): Promise<void> {
  const { localStartLsn, startLsn, commitLsn } = copy
  // A later start is not the start of a record; from the commit position on there is one.
  const from = localStartLsn === startLsn ? startLsn : commitLsn
  const recovered = await recoverWal(disk, { ...copy, commitLsn: from }, true)
  if (recovered.flushLsn === flushLsn) return
  throw new ZenithError(
    'corrupt',
    `the copy is valid up to ${formatLsn(recovered.flushLsn)} only, not up to ${formatLsn(flushLsn)}`,
  )
}

/** Where a copy is built, beside the place that it gets. */
export function pullingFolder(tenantFolder: string, timelineId: string): string {
  return join(tenantFolder, `pulling-${timelineId}`)
}
