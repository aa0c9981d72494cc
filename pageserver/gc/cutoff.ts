/** Where a timeline's kept history begins: moves up with time and WAL, never down. */
import { type Lsn, walHeaderSize, walPageOffset } from '#libs/lsn.ts'
import { timestampNow } from '#libs/pg/timestamp.ts'
import { checkpointAt } from '../ingest/checkpoint-state.ts'
import { findCommitWindow } from '../read/commit-window.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { HistorySettings } from './settings.ts'

export interface CutoffBounds {
  startLsn: Lsn
  /** The cutoff so far. */
  currentLsn: Lsn | null
  /** Every commit that ends at or below is older than asked for; null = none is. */
  oldByTimeLsn: Lsn | null
  /** All below is further away than asked for; null = there is no such bound. */
  oldByBytesLsn: Lsn | null
  /** Standbys read from here on. */
  horizonLsn: Lsn | null
  /** A standby that is started now begins here. */
  standbyStartLsn: Lsn
  /** After a crash the timeline begins again here. */
  durableLsn: Lsn
}

/**
 * The next cutoff, or null when it stays. History is kept while it is young enough and, when bytes
 * are given, near enough to the end; whatever the settings, standbys keep theirs, one can be
 * started, and the cutoff does not pass what is durable.
 */
export function nextCutoff(bounds: CutoffBounds): Lsn | null {
  const wanted = Math.max(bounds.oldByTimeLsn ?? 0, bounds.oldByBytesLsn ?? 0)
  const { durableLsn, standbyStartLsn, horizonLsn } = bounds
  const next = Math.min(wanted, durableLsn, standbyStartLsn, horizonLsn ?? durableLsn)
  return next > Math.max(bounds.currentLsn ?? 0, bounds.startLsn) ? next : null
}

/** Looks up what the settings mean for the timeline as it is now; reads it. */
export async function findCutoffBounds(
  timeline: Timeline,
  { pitrIntervalMs, pitrBytes }: HistorySettings,
): Promise<Omit<CutoffBounds, 'currentLsn' | 'horizonLsn'>> {
  const { startLsn, remoteConsistentLsn, lastRecordLsn } = timeline
  const own = {
    startLsn,
    standbyStartLsn: await standbyStartLsn(timeline),
    durableLsn: remoteConsistentLsn,
  }
  if (timeline.followsFirstShard) {
    return { ...own, oldByTimeLsn: null, oldByBytesLsn: await timeline.firstShardCutoff() }
  }
  return {
    ...own,
    oldByTimeLsn:
      pitrIntervalMs === 0 ? lastRecordLsn : await lastOlderThan(timeline, pitrIntervalMs),
    oldByBytesLsn: pitrBytes === null ? null : recordStartBelow(lastRecordLsn - pitrBytes),
  }
}

/** Where a standby of the timeline would begin now (`basebackup/start-point.ts`), or below. */
export async function standbyStartLsn(timeline: Timeline): Promise<Lsn> {
  const { startLsn } = timeline
  const { redo } = (await checkpointAt(timeline, timeline.lastRecordLsn)).checkpoint
  if (redo < oldestReadable(timeline)) return startLsn
  const { tipLsn } = await checkpointAt(timeline, redo)
  return Math.max(startLsn, Math.min(redo, tipLsn))
}

function oldestReadable({ startLsn, gcCutoffLsn }: Timeline): Lsn {
  return Math.max(startLsn, gcCutoffLsn ?? 0)
}

async function lastOlderThan(timeline: Timeline, ageMs: number): Promise<Lsn | null> {
  const window = await findCommitWindow(timeline, timestampNow() - ageMs * 1000)
  if (window.kind === 'before') return null
  return window.kind === 'within' ? window.fromLsn : window.lsn
}

/** A place at or below `lsn` where a record may start, so that a branch can be made just there. */
function recordStartBelow(lsn: Lsn): Lsn | null {
  if (lsn <= 0) return null
  const aligned = lsn - (lsn % 8)
  const offset = walPageOffset(aligned)
  const pageStart = aligned - offset
  return offset > 0 && offset < walHeaderSize(pageStart) ? pageStart : aligned
}
