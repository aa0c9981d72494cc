/** Gauges of what is in object storage and what is not, read at every scrape. */
import { Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { ControlState } from '../control-state.ts'

export interface WatchedTimeline {
  readonly control: Pick<ControlState, 'tenantId' | 'timelineId' | 'backupLsn' | 'commitLsn'>
  readonly evicted: boolean
  readonly offloadProblem: string | null
}

export function watchOffload(registry: Metrics, timelines: () => Iterable<WatchedTimeline>): void {
  const registers = [registry]
  const each = (name: string, help: string, value: (watched: WatchedTimeline) => number) =>
    new Gauge({
      name: `zenith_safekeeper_${name}`,
      help,
      labelNames: ['tenant', 'timeline'],
      registers,
      collect() {
        this.reset()
        for (const watched of timelines()) {
          const { tenantId, timelineId } = watched.control
          this.set({ tenant: tenantId, timeline: timelineId }, value(watched))
        }
      },
    })
  const lag = ({ control }: WatchedTimeline) => control.commitLsn - control.backupLsn
  each('backup_lsn', 'WAL below is in object storage', ({ control }) => control.backupLsn)
  each('offload_lag_bytes', 'Committed WAL that is in no full segment of object storage', lag)
  each('offload_stopped', '1 when object storage holds other bytes than the WAL here', (watched) =>
    watched.offloadProblem === null ? 0 : 1,
  )
  new Gauge({
    name: 'zenith_safekeeper_evicted_timelines',
    help: 'Idle timelines whose WAL is in object storage only',
    registers,
    collect() {
      this.set([...timelines()].filter(({ evicted }) => evicted).length)
    },
  })
}
