/** Records of the XLOG and Standby resource managers that move the tracked checkpoint. */
import { CHECKPOINT_SIZE, readCheckpoint } from '#libs/pg/checkpoint.ts'
import { COMMIT_TS_XACTS_PER_PAGE, idPrecedes, SLRU, xidPrecedes } from '#libs/pg/slru.ts'
import { STANDBY_INFO, XLOG_INFO, XLR_RMGR_INFO_MASK } from '#libs/wal/format.ts'
import { laterId } from './checkpoint-state.ts'
import type { IngestContext } from './ingest-context.ts'

const TWO_32 = 4294967296

/** Follows xlog_redo (xlog.c), except for its page images (block-references.ts). */
export function ingestXlogRecord(context: IngestContext): void {
  const { checkpoint } = context.state
  const main = context.main()
  switch (context.record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_INFO.CHECKPOINT_SHUTDOWN:
      ingestCheckpoint(context, main, true)
      return
    case XLOG_INFO.CHECKPOINT_ONLINE:
      ingestCheckpoint(context, main, false)
      return
    case XLOG_INFO.NEXTOID:
      checkpoint.nextOid = main.readUInt32LE(0)
      context.stateChanged = true
      return
    case XLOG_INFO.FPW_CHANGE:
      checkpoint.fullPageWrites = main[0] !== 0
      context.stateChanged = true
      return
    case XLOG_INFO.END_OF_RECOVERY:
      checkWalTimeline(context, main.readUInt32LE(8))
      checkpoint.walLevel = main.readInt32LE(16)
      context.stateChanged = true
      return
    case XLOG_INFO.PARAMETER_CHANGE:
      ingestParameterChange(context, main)
      return
    default:
  }
}

/**
 * After a checkpoint record the tracked struct has the record's place and settings. Counters: a
 * shutdown checkpoint is believed exactly; an online one holds what was true when it began, so the
 * later value of each counter wins, and nextOid is left to its own records.
 */
function ingestCheckpoint(context: IngestContext, main: Buffer, shutdown: boolean): void {
  if (main.length < CHECKPOINT_SIZE) throw context.corrupt('is too short to be a checkpoint')
  const { state } = context
  const { checkpoint } = state
  const logged = readCheckpoint(main)
  checkWalTimeline(context, logged.walTimeline)
  if (shutdown) {
    checkpoint.nextXid = logged.nextXid
    checkpoint.nextOid = logged.nextOid
    checkpoint.nextMulti = logged.nextMulti
    checkpoint.nextMultiOffset = logged.nextMultiOffset
    checkpoint.oldestXid = logged.oldestXid
    checkpoint.oldestXidDb = logged.oldestXidDb
    checkpoint.oldestCommitTsXid = logged.oldestCommitTsXid
    checkpoint.newestCommitTsXid = logged.newestCommitTsXid
  } else {
    checkpoint.nextXid = Math.max(checkpoint.nextXid, logged.nextXid)
    checkpoint.nextMulti = laterId(checkpoint.nextMulti, logged.nextMulti)
    checkpoint.nextMultiOffset = laterId(checkpoint.nextMultiOffset, logged.nextMultiOffset)
    if (!xidPrecedes(logged.oldestXid, checkpoint.oldestXid)) {
      checkpoint.oldestXid = logged.oldestXid
      checkpoint.oldestXidDb = logged.oldestXidDb
    }
    if (checkpoint.oldestCommitTsXid === 0) checkpoint.oldestCommitTsXid = logged.oldestCommitTsXid
    if (checkpoint.newestCommitTsXid === 0) checkpoint.newestCommitTsXid = logged.newestCommitTsXid
  }
  // Where several databases share the oldest id, Postgres may have changed its mind about which of
  // them to name without a record of its own, so an equal id is taken over too.
  if (!idPrecedes(logged.oldestMulti, checkpoint.oldestMulti)) {
    checkpoint.oldestMulti = logged.oldestMulti
    checkpoint.oldestMultiDb = logged.oldestMultiDb
  }
  checkpoint.redo = logged.redo
  checkpoint.fullPageWrites = logged.fullPageWrites
  checkpoint.walLevel = logged.walLevel
  checkpoint.timeSeconds = logged.timeSeconds
  checkpoint.oldestActiveXid = shutdown ? oldestPrepared(context) : logged.oldestActiveXid
  state.lastCheckpointLsn = context.record.startLsn
  state.lastCheckpointEndLsn = context.endLsn
  state.lastCheckpointWasShutdown = shutdown
  context.stateChanged = true
}

/** A server that was promoted goes on elsewhere; what it left behind here may be of no account. */
function checkWalTimeline(context: IngestContext, walTimeline: number): void {
  if (walTimeline === context.state.checkpoint.walTimeline) return
  throw context.unsupported(
    `switches to WAL timeline ${walTimeline} of Postgres`,
    'A server that was promoted cannot be followed; import it anew by dump and restore.',
  )
}

/** At a shutdown only prepared transactions are left; without any, the next one is the oldest. */
function oldestPrepared(context: IngestContext): number {
  let oldest = context.state.checkpoint.nextXid
  for (const full of context.prepared) oldest = Math.min(oldest, full)
  return oldest % TWO_32
}

/**
 * xl_parameter_change: max_connections i32 | max_worker_processes | max_wal_senders |
 * max_prepared_xacts | max_locks_per_xact | wal_level | wal_log_hints u8 | track_commit_timestamp u8
 */
function ingestParameterChange(context: IngestContext, main: Buffer): void {
  const { state } = context
  state.maxConnections = main.readInt32LE(0)
  state.maxWorkerProcesses = main.readInt32LE(4)
  state.maxWalSenders = main.readInt32LE(8)
  state.maxPreparedXacts = main.readInt32LE(12)
  state.maxLocksPerXact = main.readInt32LE(16)
  state.checkpoint.walLevel = main.readInt32LE(20)
  state.walLogHints = main.readUInt8(24) !== 0
  const keepCommitTs = main.readUInt8(25) !== 0
  if (keepCommitTs && !state.commitTsActive) activateCommitTs(context)
  if (!keepCommitTs && state.commitTsActive) deactivateCommitTs(context)
  state.commitTsActive = keepCommitTs
  context.stateChanged = true
}

function activateCommitTs(context: IngestContext): void {
  const { checkpoint } = context.state
  const next = checkpoint.nextXid % TWO_32
  if (checkpoint.oldestCommitTsXid === 0) {
    checkpoint.oldestCommitTsXid = next
    checkpoint.newestCommitTsXid = next
  }
  const page = Math.floor(next / COMMIT_TS_XACTS_PER_PAGE)
  context.slrus.ensurePage(SLRU.commitTs, page, context.belowLsn)
}

function deactivateCommitTs(context: IngestContext): void {
  const { checkpoint } = context.state
  checkpoint.oldestCommitTsXid = 0
  checkpoint.newestCommitTsXid = 0
  for (const segment of context.slrus.segments(SLRU.commitTs)) {
    context.slrus.dropSegment(SLRU.commitTs, segment, context.endLsn)
  }
}

/**
 * xl_running_xacts: xcnt i32 | subxcnt i32 | overflow u8 +3 | next xid | oldest running xid |
 * latest completed xid | xids
 */
export function ingestStandbyRecord(context: IngestContext): void {
  if ((context.record.info & XLR_RMGR_INFO_MASK) !== STANDBY_INFO.RUNNING_XACTS) return
  const main = context.main()
  const nextXid = main.readUInt32LE(12)
  if (nextXid > 3) context.sawXid(nextXid - 1)
  context.state.checkpoint.oldestActiveXid = main.readUInt32LE(16)
  context.stateChanged = true
}
