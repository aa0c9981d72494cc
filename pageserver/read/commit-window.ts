/** Which part of a timeline's WAL holds the first commit after a moment. */
import type { Lsn } from '#libs/lsn.ts'
import { checkpointAt } from '../ingest/checkpoint-state.ts'
import type { Timeline } from '../timeline/timeline.ts'

export type CommitWindow =
  /** What is kept of the timeline begins after the moment, at `oldestLsn`. */
  | {
      readonly kind: 'before'
      readonly oldestLsn: Lsn
      /** Of the latest commit up to there; 0 when unknown. */
      readonly oldestTimeUs: number
    }
  /**
   * The first commit that is later than the moment ends at or below `toLsn`, and every commit that
   * ends at or below `fromLsn`, a record boundary, is not later.
   */
  | { readonly kind: 'within'; readonly fromLsn: Lsn; readonly toLsn: Lsn }
  /** No commit up to the end, `lsn`, is later. */
  | { readonly kind: 'after'; readonly lsn: Lsn }

/** Records start at multiples of this. */
const STEP = 8

/**
 * Bisects the timeline by the latest commit time that ingest notes with the checkpoint, which it
 * does at least once per slice of the stream. Nothing below the cutoff is read. `timeUs` counts from 2000, as Postgres does.
 */
export async function findCommitWindow(timeline: Timeline, timeUs: number): Promise<CommitWindow> {
  const { lastRecordLsn } = timeline
  const oldestLsn = Math.max(timeline.startLsn, timeline.gcCutoffLsn ?? 0)
  const latest = async (lsn: Lsn) => (await checkpointAt(timeline, lsn)).lastCommitTimeUs
  const oldestTimeUs = await latest(oldestLsn)
  if (oldestTimeUs > timeUs) return { kind: 'before', oldestLsn, oldestTimeUs }
  if ((await latest(lastRecordLsn)) <= timeUs) return { kind: 'after', lsn: lastRecordLsn }
  let below = oldestLsn
  let above = lastRecordLsn
  while (above - below > STEP) {
    const middle = below + Math.floor((above - below) / (2 * STEP)) * STEP
    if ((await latest(middle)) > timeUs) above = middle
    else below = middle
  }
  const { tipLsn } = await checkpointAt(timeline, below)
  return { kind: 'within', fromLsn: Math.max(oldestLsn, tipLsn), toLsn: above }
}
