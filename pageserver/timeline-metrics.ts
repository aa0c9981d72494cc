/** Gauges of each timeline, read from it at every scrape. */
import { Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { Timeline } from './timeline/timeline.ts'
import type { Lag } from './wal-receiver/lag-clock.ts'

export interface WatchedTimeline {
  timeline: Timeline
  /** Committed WAL that has not been taken in; null while no safekeeper has told. */
  lag: Lag | null
  broken: boolean
}

/** Name behind `zenith_pageserver_`, help, value. */
const GAUGES: [string, string, (watched: WatchedTimeline) => number][] = [
  ['wal_lag_bytes', 'Committed WAL that has not been taken in yet', ({ lag }) => lag?.bytes ?? 0],
  [
    'wal_lag_seconds',
    'Age of the oldest committed WAL that has not been taken in yet',
    ({ lag }) => (lag?.ms ?? 0) / 1000,
  ],
  ['last_record_lsn', 'End of the last record taken in', ({ timeline }) => timeline.lastRecordLsn],
  [
    'unflushed_bytes',
    'WAL taken in that is not in object storage yet',
    ({ timeline }) => timeline.lastRecordLsn - timeline.remoteConsistentLsn,
  ],
  [
    'memory_bytes',
    'Versions held in memory until they are flushed',
    ({ timeline }) => timeline.memoryBytes,
  ],
  [
    'l0_layers',
    'Layers of all keys, which every read searches; 4 are merged, from 20 on flushes are delayed',
    ({ timeline }) => timeline.layers.l0.length,
  ],
  [
    'flush_delayed_seconds',
    'Time that flushes have waited for compaction since the start',
    ({ timeline }) => timeline.flushDelayedMs / 1000,
  ],
  [
    'gc_cutoff_lsn',
    'States below are kept only where a branch, lease or job needs them; 0 = all are kept',
    ({ timeline }) => timeline.gcCutoffLsn ?? 0,
  ],
  [
    'history_bytes',
    'WAL from the oldest LSN of which every later state is kept to the end',
    ({ timeline }) =>
      timeline.lastRecordLsn - Math.max(timeline.startLsn, timeline.gcCutoffLsn ?? 0),
  ],
  ['layers', 'Layer files', ({ timeline }) => timeline.layers.count],
  [
    'layer_bytes',
    'Size of all layer files',
    ({ timeline }) => timeline.layers.bytes.own + timeline.layers.bytes.adopted,
  ],
  [
    'adopted_layer_bytes',
    'Size of those layer files that belong to timelines it was detached from',
    ({ timeline }) => timeline.layers.bytes.adopted,
  ],
  [
    'logical_bytes',
    'Size of all relations at the end; 0 until it is known',
    ({ timeline }) => timeline.logicalBytes ?? 0,
  ],
  ['written_bytes', 'WAL written since the branch point', ({ timeline }) => timeline.writtenBytes],
  [
    'deltas_above_images',
    'Delta layers that a read of the newest pages may have to visit',
    ({ timeline }) => timeline.layers.aboveImages.count,
  ],
  [
    'timeline_broken',
    '1 when WAL could not be taken in, so that none is any more',
    ({ broken }) => (broken ? 1 : 0),
  ],
]

export function watchTimelines(
  registry: Metrics,
  timelines: () => Iterable<WatchedTimeline>,
): void {
  for (const [name, help, value] of GAUGES) {
    new Gauge({
      name: `zenith_pageserver_${name}`,
      help,
      labelNames: ['tenant', 'timeline'],
      registers: [registry],
      collect() {
        this.reset()
        for (const watched of timelines()) {
          const { tenantId, timelineId } = watched.timeline
          this.set({ tenant: tenantId, timeline: timelineId }, value(watched))
        }
      },
    })
  }
}
