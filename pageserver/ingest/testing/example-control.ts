import { CONTROL_DATA_SIZE, type ControlFile, DB_STATE } from '#libs/pg/control-file.ts'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { PAGE_SIZE } from '../../keyspace/key-class.ts'
import { exampleState } from './example-state.ts'

/** pg_control of the cluster of `exampleState`, for tests. */
export function exampleControl(): ControlFile {
  const raw = Buffer.alloc(CONTROL_DATA_SIZE)
  raw.writeUInt32LE(PAGE_SIZE, 216)
  raw.writeUInt32LE(WAL_SEGMENT_SIZE, 228)
  return {
    systemId: 7n,
    controlVersion: 1700,
    catalogVersion: 202406281,
    state: DB_STATE.shutDown,
    timeSeconds: 1_700_000_000,
    checkpointLsn: exampleState.lastCheckpointLsn,
    checkpoint: exampleState.checkpoint,
    unloggedLsn: 1000,
    minRecoveryPoint: 0,
    minRecoveryTimeline: 0,
    backupStartPoint: 0,
    backupEndPoint: 0,
    backupEndRequired: false,
    walLevel: 1,
    walLogHints: false,
    maxConnections: 100,
    maxWorkerProcesses: 8,
    maxWalSenders: 10,
    maxPreparedXacts: 0,
    maxLocksPerXact: 64,
    trackCommitTimestamp: true,
    dataChecksumVersion: 0,
    raw,
  }
}
