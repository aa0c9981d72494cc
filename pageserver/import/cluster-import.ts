/**
 * Turns an opened backup into a timeline: its files become image layers as of where redo begins, then
 * WAL is taken in as always. Pages may be newer than their LSN says, as in every backup of a running
 * server; redo skips what a page has already, and the first record of each page after the start
 * carries all of it. So nobody may read before the end of the backup, and until then the timeline is
 * a draft, of which a crash leaves nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { PostgresSource } from '#libs/api/node-info.ts'
import { assert, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { type ControlFile, DB_STATE } from '#libs/pg/control-file.ts'
import { type CheckpointState, initialCheckpointState } from '../ingest/checkpoint-state.ts'
import { WalIngest } from '../ingest/wal-ingest.ts'
import type { DraftPlace } from '../tenants/tenant.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { IngestFailure, WalStream } from '../wal-receiver/wal-stream.ts'
import { BoundedSink } from './bounded-sink.ts'
import type { OpenBackup } from './backup-folder.ts'
import { clusterBytes, clusterPieces } from './cluster-files.ts'
import { writeClusterImages } from './cluster-images.ts'
import { importLsn } from './data-folder-import.ts'
import type { ImportProgress } from './import-progress.ts'
import { type WalExtent, WalFiles } from './wal-files.ts'

const TICK_MS = 5_000
const LOOK_MS = 100
const SILENT_LIMIT_MS = 30_000
const RETRY_MS = 1_000
const MAX_RETRIES = 60

/** Where a backup begins, and what is known beforehand of its WAL. */
export interface ImportPlan {
  backup: OpenBackup
  /** The files are keyed at this LSN, where redo begins. */
  startLsn: Lsn
  state: CheckpointState
  /** Null: WAL comes from elsewhere, or there is none to take in. */
  extent: WalExtent | null
}

export interface ImportRun {
  progress: ImportProgress
  signal: AbortSignal
}

/** For WAL in files: reads all of it first, so that a backup that cannot become whole is refused. */
export async function planFromFiles(backup: OpenBackup, run: ImportRun): Promise<ImportPlan> {
  const { label, control } = backup
  if (label === null) return stoppedPlan(backup)
  run.progress.begin('checking', null)
  const extent = await new WalFiles(backup.walFolders).extent(label, run.signal)
  const state = stateAtRedo({ ...control, checkpoint: extent.checkpoint }, label.startLsn)
  return { backup, startLsn: label.startLsn, state, extent }
}

/**
 * The same, but no WAL from `endLsn` on is taken in, since other shards have no more. Throws `corrupt`
 * when there is less here, or less than makes the backup consistent.
 */
export function endingAt(plan: ImportPlan, endLsn: Lsn): ImportPlan {
  const { extent, startLsn } = plan
  const [first, last] = [extent?.consistentLsn ?? startLsn, extent?.endLsn ?? startLsn]
  if (endLsn < first || endLsn > last) {
    throw new ZenithError(
      'corrupt',
      `the backup here can end from ${formatLsn(first)} to ${formatLsn(last)}, and other shards end at ${formatLsn(endLsn)}`,
      { hint: 'All pageservers must find the same backup and WAL at the path that is named.' },
    )
  }
  return extent === null ? plan : { ...plan, extent: { ...extent, endLsn } }
}

/**
 * For WAL that is streamed. The copy of pg_control may know of a later checkpoint than the one with
 * which the backup began; counters only rise, and that checkpoint comes in the WAL, too.
 */
export function planFromStream(backup: OpenBackup): ImportPlan {
  const { label, control } = backup
  assert(label !== null, 'a running server was backed up')
  const state = stateAtRedo(control, label.startLsn)
  return { backup, startLsn: label.startLsn, state, extent: null }
}

function stoppedPlan(backup: OpenBackup): ImportPlan {
  const startLsn = importLsn(backup.control)
  const state = initialCheckpointState(backup.control, startLsn)
  return { backup, startLsn, state, extent: null }
}

/** Which record ends at redo is not known, and no checkpoint is complete there. */
function stateAtRedo(control: ControlFile, redoLsn: Lsn): CheckpointState {
  const running = { ...control, state: DB_STATE.inProduction }
  return { ...initialCheckpointState(running, redoLsn), tipLsn: 0, tipRecordLsn: 0 }
}

/** Writes the images and begins the draft with them. */
export async function beginWithFiles(
  timeline: Timeline,
  place: DraftPlace,
  plan: ImportPlan,
  { progress, signal }: ImportRun,
): Promise<void> {
  const { folder, control } = plan.backup
  const step = progress.begin('copying', await clusterBytes(folder))
  const pieces = clusterPieces(folder, control, plan.state)
  const entries = await writeClusterImages(pieces, plan.startLsn, place, (bytes) => {
    signal.throwIfAborted()
    step.add(bytes)
  })
  timeline.beginDraft(entries, plan.startLsn)
}

/** Takes in all WAL of the files; returns from where on the timeline is consistent. */
export async function replayFiles(
  timeline: Timeline,
  plan: ImportPlan,
  run: ImportRun,
): Promise<Lsn> {
  const { extent, startLsn, backup } = plan
  if (extent === null) return startLsn
  const step = run.progress.begin('replaying', extent.endLsn - startLsn)
  const ticking = setInterval(() => timeline.tick(Date.now()), TICK_MS)
  try {
    const ingest = await WalIngest.open(timeline)
    const wal = new WalFiles(backup.walFolders).bytes(startLsn, run.signal, extent.endLsn)
    for await (const chunk of wal) {
      await ingest.ingest(chunk, ingest.nextLsn)
      step.add(chunk.length)
    }
  } finally {
    clearInterval(ticking)
  }
  if (timeline.lastRecordLsn !== extent.endLsn) {
    throw new ZenithError(
      'corrupt',
      `no record ends at ${formatLsn(extent.endLsn)}, only at ${formatLsn(timeline.lastRecordLsn)}`,
      { hint: 'The WAL was changed while it was read. Import what does not change.' },
    )
  }
  return extent.consistentLsn
}

export interface StreamTarget {
  tenantId: TenantId
  timelineId: TimelineId
  source: PostgresSource
  endLsn: Lsn
  /** No WAL after `endLsn` is taken in. */
  exact: boolean
}

/** Streams WAL from the primary up to an LSN at least; bridges lost connections. */
export async function replayStream(
  timeline: Timeline,
  target: StreamTarget,
  { progress, signal }: ImportRun,
): Promise<void> {
  const { endLsn } = target
  const step = progress.begin('replaying', endLsn - timeline.lastRecordLsn)
  for (let retries = 0; timeline.lastRecordLsn < endLsn; retries += 1) {
    signal.throwIfAborted()
    const before = timeline.lastRecordLsn
    const error = await streamUntil(timeline, target, signal, (bytes) => step.add(bytes))
    if (error instanceof IngestFailure) throw error.cause
    if (timeline.lastRecordLsn > before) retries = 0
    if (timeline.lastRecordLsn >= endLsn) return
    if (retries >= MAX_RETRIES) {
      throw error ?? new ZenithError('unavailable', 'the server sends no WAL')
    }
    await sleep(RETRY_MS, undefined, { signal })
  }
}

async function streamUntil(
  timeline: Timeline,
  target: StreamTarget,
  signal: AbortSignal,
  onBytes: (bytes: number) => void,
): Promise<Error | null> {
  let stream: WalStream
  try {
    const ingest = await WalIngest.open(timeline)
    const sink = target.exact ? new BoundedSink(ingest, target.endLsn) : ingest
    stream = await WalStream.open({ ...target, timeline, sink, onBytes })
  } catch (error) {
    return error as Error
  }
  let tickedAt = Date.now()
  const looking = setInterval(() => {
    const now = Date.now()
    stream.sendFeedback(now)
    if (now - tickedAt > TICK_MS) {
      tickedAt = now
      timeline.tick(now)
    }
    const reached = timeline.lastRecordLsn >= target.endLsn
    if (reached || signal.aborted || stream.silentMs > SILENT_LIMIT_MS) void stream.close()
  }, LOOK_MS)
  const error = await stream.ended
  await stream.close()
  clearInterval(looking)
  // A record that was not whole comes again with the next connection.
  timeline.dropUnpublished()
  return error
}
