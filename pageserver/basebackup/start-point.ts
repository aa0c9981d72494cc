/**
 * Where a server begins in the WAL when it is started from a base backup: as of which LSN the files
 * are, what pg_control says, and which pages of WAL must lie in the folder.
 *
 * A server of its own begins at a shutdown checkpoint that is made for it at the LSN, so that no
 * recovery runs. A hot standby replays WAL that others wrote, so it must begin where a real
 * checkpoint says that redo begins, and its folder is as of that redo position. The WAL from there
 * on comes from a safekeeper; what makes visibility right from the first query on (running and
 * prepared transactions, their locks) is in that WAL, in front of the checkpoint's record.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Checkpoint } from '#libs/pg/checkpoint.ts'
import { type ControlFile, DB_STATE, parseControlFile } from '#libs/pg/control-file.ts'
import { type CheckpointState, checkpointAt } from '../ingest/checkpoint-state.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { makeOnlineCheckpoint } from './online-checkpoint.ts'
import { runningXids } from './running-xids.ts'
import { makeShutdownCheckpoint } from './shutdown-checkpoint.ts'
import type { WalPart } from './wal-pages.ts'

/** pg_control's value in a cluster that never used unlogged relations (FirstNormalUnloggedLSN). */
const FIRST_UNLOGGED_LSN = 1000
/** The only Postgres timeline there is: a branch is a timeline of ours. */
const WAL_TIMELINE = 1
/** A transaction and the subtransactions that a backend has room for. */
const XIDS_PER_BACKEND = 65

export interface StartPoint {
  /** The files of the backup are as of this LSN. */
  readonly lsn: Lsn
  /** What the timeline tracked at `lsn`. */
  readonly state: CheckpointState
  readonly control: ControlFile
  /** WAL that must be in the folder; none when all of it is streamed. */
  readonly walParts: readonly WalPart[]
}

/** A shutdown checkpoint at `lsn`: for primaries, read-only computes at an LSN, stock servers. */
export async function shutdownStart(
  timeline: Timeline,
  lsn: Lsn,
  options: { fullPageWrites: boolean; nowSeconds: number },
): Promise<StartPoint> {
  const [initial, state] = await Promise.all([
    storedControl(timeline, lsn),
    checkpointAt(timeline, lsn),
  ])
  const made = makeShutdownCheckpoint({
    lsn,
    previousRecordLsn: state.previousRecordLsn,
    systemId: initial.systemId,
    checkpoint: {
      ...state.checkpoint,
      // As the server will have it; a difference would make it write a record to say so.
      fullPageWrites: options.fullPageWrites,
      timeSeconds: options.nowSeconds,
    },
  })
  const control = stoppedAt(initial, state, {
    recordLsn: made.recordLsn,
    checkpoint: made.checkpoint,
    nowSeconds: options.nowSeconds,
  })
  return { lsn, state, control, walParts: made.parts }
}

/**
 * Where a hot standby of the timeline begins when it is started now. It shows nothing before it has
 * replayed all that was there at its start.
 *
 * Redo begins where the last checkpoint says, at the latest, since the locks of transactions that
 * run on are logged right behind that place. If the checkpoint was an online one, the standby gets
 * a made one a little before that place, which names all running transactions.
 *
 * A timeline whose WAL holds no checkpoint of its own has had no primary yet. Its first record will
 * be a shutdown checkpoint at its start, made by the same function as here; a standby that finds
 * its own copy of it in its folder goes on behind it.
 */
export async function standbyStart(timeline: Timeline, nowSeconds: number): Promise<StartPoint> {
  const tipLsn = timeline.lastRecordLsn
  const latest = await checkpointAt(timeline, tipLsn)
  const { walStartLsn } = timeline
  const { redo } = latest.checkpoint
  if (redo < walStartLsn) {
    return shutdownStart(timeline, walStartLsn, { fullPageWrites: false, nowSeconds })
  }
  assert(redo <= latest.lastCheckpointLsn, 'redo begins at or before its checkpoint')
  const made = latest.lastCheckpointWasShutdown ? null : await madeStart(timeline, redo)
  const lsn = made?.lsn ?? redo
  const [initial, state] = await Promise.all([
    storedControl(timeline, lsn),
    checkpointAt(timeline, lsn),
  ])
  const control = stoppedAt(initial, allowingFor(state, latest), {
    recordLsn: made?.recordLsn ?? latest.lastCheckpointLsn,
    checkpoint: made?.checkpoint ?? { ...state.checkpoint, redo, walTimeline: WAL_TIMELINE },
    nowSeconds,
  })
  control.minRecoveryPoint = tipLsn
  control.minRecoveryTimeline = WAL_TIMELINE
  return { lsn, state, control, walParts: made?.parts ?? [] }
}

/**
 * A made checkpoint that ends at the last place at or before `redo` where ingest noted the record
 * that ends there. Null when there is none on this timeline, when it would have no room, or when
 * more transactions are running than a standby can keep in mind: then the standby starts from the
 * real one, and waits until it knows enough.
 */
async function madeStart(timeline: Timeline, redo: Lsn) {
  const { tipLsn: lsn, tipRecordLsn: lastRecordLsn } = await checkpointAt(timeline, redo)
  if (lsn > redo || lastRecordLsn < timeline.walStartLsn || lastRecordLsn >= lsn) return null
  const [initial, state] = await Promise.all([
    storedControl(timeline, lsn),
    checkpointAt(timeline, lsn),
  ])
  const xids = await runningXids(timeline, lsn, state, knownXidsLimit(state))
  if (xids === null) return null
  const { systemId } = initial
  const { checkpoint } = state
  const made = makeOnlineCheckpoint({
    lsn,
    lastRecordLsn,
    systemId,
    checkpoint,
    runningXids: xids,
  })
  return made === null ? null : { lsn, ...made }
}

/** How many xids a standby has room for (TOTAL_MAX_CACHED_SUBXIDS in procarray.c), and some less. */
function knownXidsLimit(state: CheckpointState): number {
  return XIDS_PER_BACKEND * (state.maxConnections + state.maxPreparedXacts)
}

/** pg_control as the timeline began with it. */
export async function storedControl(timeline: Timeline, lsn: Lsn): Promise<ControlFile> {
  const blob = await timeline.readBlob(timeline.slot(KeyClass.ControlFile, 0, 0, 0, 0), 0, lsn)
  assert(blob, 'a timeline has a control file from its first LSN on')
  return parseControlFile(blob)
}

/** A standby must hold as much as any primary whose WAL it replays (CheckRequiredParameterValues). */
function allowingFor(a: CheckpointState, b: CheckpointState): CheckpointState {
  return {
    ...b,
    maxConnections: Math.max(a.maxConnections, b.maxConnections),
    maxWorkerProcesses: Math.max(a.maxWorkerProcesses, b.maxWorkerProcesses),
    maxWalSenders: Math.max(a.maxWalSenders, b.maxWalSenders),
    maxPreparedXacts: Math.max(a.maxPreparedXacts, b.maxPreparedXacts),
    maxLocksPerXact: Math.max(a.maxLocksPerXact, b.maxLocksPerXact),
  }
}

/**
 * pg_control of a stopped server. Settings are those that the timeline's last server told in its
 * WAL: start-up compares them with its own and logs a record only for a change.
 */
export function stoppedAt(
  initial: ControlFile,
  state: CheckpointState,
  at: { recordLsn: Lsn; checkpoint: Checkpoint; nowSeconds: number },
): ControlFile {
  return {
    ...initial,
    state: DB_STATE.shutDown,
    timeSeconds: at.nowSeconds,
    checkpointLsn: at.recordLsn,
    checkpoint: at.checkpoint,
    unloggedLsn: FIRST_UNLOGGED_LSN,
    // Pages rebuilt from WAL carry no checksums, whatever the imported cluster had.
    dataChecksumVersion: 0,
    minRecoveryPoint: 0,
    minRecoveryTimeline: 0,
    backupStartPoint: 0,
    backupEndPoint: 0,
    backupEndRequired: false,
    walLevel: at.checkpoint.walLevel,
    walLogHints: state.walLogHints,
    maxConnections: state.maxConnections,
    maxWorkerProcesses: state.maxWorkerProcesses,
    maxWalSenders: state.maxWalSenders,
    maxPreparedXacts: state.maxPreparedXacts,
    maxLocksPerXact: state.maxLocksPerXact,
    trackCommitTimestamp: state.commitTsActive,
  }
}
