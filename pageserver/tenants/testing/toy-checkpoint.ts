/** The Checkpoint key as garbage collection sees it: redo, a record end, the latest commit time. */
import { CHECKPOINT_SIZE } from '#libs/pg/checkpoint.ts'
import { CHECKPOINT_STATE_SIZE } from '../../ingest/checkpoint-state.ts'
import { KeyClass, ValueKind } from '../../keyspace/key-class.ts'
import type { Timeline } from '../../timeline/timeline.ts'

/** At `lsn` a commit of that time (microseconds since 2000) and a checkpoint ended. */
export function putToyCheckpoint(timeline: Timeline, lsn: number, commitTimeUs: number): void {
  const value = Buffer.alloc(CHECKPOINT_STATE_SIZE)
  value.writeBigUInt64LE(BigInt(lsn), 0)
  value.writeUInt16LE(2, CHECKPOINT_SIZE)
  value.writeBigUInt64LE(BigInt(lsn), 96)
  value.writeBigInt64LE(BigInt(commitTimeUs), 148)
  const slot = timeline.slot(KeyClass.Checkpoint, 0, 0, 0, 0)
  timeline.put(slot, 0, lsn, ValueKind.Image, value, 0, value.length)
}
