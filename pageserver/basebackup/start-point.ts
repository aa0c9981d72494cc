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
import { makeShutdownCheckpoint, type WalPart } from './shutdown-checkpoint.ts'

/** pg_control's value in a cluster that never used unlogged relations (FirstNormalUnloggedLSN). */
const FIRST_UNLOGGED_LSN = 1000
/** The only Postgres timeline there is: a branch is a timeline of ours. */
const WAL_TIMELINE = 1

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
 * A timeline whose WAL holds no checkpoint of its own has had no primary yet. Its first record will
 * be a shutdown checkpoint at its start, made by the same function as here; a standby that finds
 * its own copy of it in its folder goes on behind it.
 */
export async function standbyStart(timeline: Timeline, nowSeconds: number): Promise<StartPoint> {
  const tipLsn = timeline.lastRecordLsn
  const latest = await checkpointAt(timeline, tipLsn)
  const { startLsn } = timeline
  if (latest.checkpoint.redo < startLsn) {
    return shutdownStart(timeline, startLsn, { fullPageWrites: false, nowSeconds })
  }
  const { redo } = latest.checkpoint
  assert(redo <= latest.lastCheckpointLsn, 'redo begins at or before its checkpoint')
  const [initial, state] = await Promise.all([
    storedControl(timeline, redo),
    checkpointAt(timeline, redo),
  ])
  const control = stoppedAt(initial, allowingFor(state, latest), {
    recordLsn: latest.lastCheckpointLsn,
    checkpoint: { ...state.checkpoint, redo, walTimeline: WAL_TIMELINE },
    nowSeconds,
  })
  control.minRecoveryPoint = tipLsn
  control.minRecoveryTimeline = WAL_TIMELINE
  return { lsn: redo, state, control, walParts: [] }
}

async function storedControl(timeline: Timeline, lsn: Lsn): Promise<ControlFile> {
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
function stoppedAt(
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
