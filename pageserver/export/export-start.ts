/**
 * Where a stock server begins that is started from an export: at a shutdown checkpoint of its own,
 * the first record of the WAL segment after the one that holds the LSN. Everything the folder's
 * pages know lies below it, and no older WAL is needed.
 */
import { type Lsn, segmentNumber, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import {
  makeShutdownCheckpoint,
  type ShutdownCheckpoint,
} from '../basebackup/shutdown-checkpoint.ts'
import type { CheckpointAt } from '../ingest/checkpoint-state.ts'

/** Version of the checksum algorithm in pg_control (PG_DATA_CHECKSUM_VERSION). */
export const DATA_CHECKSUM_VERSION = 1

/** First byte of the segment that the exported cluster begins with. */
function exportWalStart(lsn: Lsn): Lsn {
  return (segmentNumber(lsn) + 1) * WAL_SEGMENT_SIZE
}

export function makeExportCheckpoint(
  state: CheckpointAt,
  at: { lsn: Lsn; systemId: bigint; nowSeconds: number },
): ShutdownCheckpoint {
  return makeShutdownCheckpoint({
    lsn: exportWalStart(at.lsn),
    // Readers only check that it lies below; the WAL in between does not exist.
    previousRecordLsn: Math.max(state.previousRecordLsn, state.tipRecordLsn),
    systemId: at.systemId,
    checkpoint: { ...state.checkpoint, fullPageWrites: true, timeSeconds: at.nowSeconds },
  })
}
