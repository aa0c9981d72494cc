/** What the WAL receivers count. */
import { Counter, Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'

export interface WalReceiverMetrics {
  countBytes: (bytes: number) => void
}

/** What a scrape asks about each timeline. */
export interface TimelineLag {
  tenantId: string
  timelineId: string
  lagBytes: number
  lastRecordLsn: number
  remoteConsistentLsn: number
  broken: boolean
}

export function createWalReceiverMetrics(
  registry: Metrics,
  timelines: () => Iterable<TimelineLag>,
): WalReceiverMetrics {
  const registers = [registry]
  const bytes = new Counter({
    name: 'zenith_pageserver_wal_received_bytes_total',
    help: 'WAL bytes received from safekeepers',
    registers,
  })
  const labelNames = ['tenant', 'timeline']
  const gauge = (name: string, help: string, value: (lag: TimelineLag) => number) =>
    new Gauge({
      name: `zenith_pageserver_${name}`,
      help,
      labelNames,
      registers,
      collect() {
        this.reset()
        for (const lag of timelines()) {
          this.set({ tenant: lag.tenantId, timeline: lag.timelineId }, value(lag))
        }
      },
    })
  gauge('wal_lag_bytes', 'Committed WAL that has not been taken in yet', (lag) => lag.lagBytes)
  gauge('last_record_lsn', 'End of the last record taken in', (lag) => lag.lastRecordLsn)
  gauge(
    'unflushed_bytes',
    'WAL taken in that is not in object storage yet',
    (lag) => lag.lastRecordLsn - lag.remoteConsistentLsn,
  )
  gauge('timeline_broken', '1 when WAL could not be taken in', (lag) => (lag.broken ? 1 : 0))
  return { countBytes: (count) => bytes.inc(count) }
}
