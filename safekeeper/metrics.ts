import { Counter, Gauge, Histogram } from '@prometheus-io/client'
import { createMetrics, type Metrics } from '#libs/metrics.ts'

export interface SafekeeperMetrics {
  readonly registry: Metrics
  readonly receivedBytes: Counter
  readonly sentBytes: Counter
  readonly syncSeconds: Histogram
  readonly timelines: Gauge
  readonly proposers: Gauge
  readonly walReceivers: Gauge
  readonly offloadedBytes: Counter
  readonly offloadFailures: Counter
  readonly archiveReadBytes: Counter
  readonly restores: Counter
  readonly walDiskBytes: Gauge
  readonly freeDiskBytes: Gauge
  readonly refusedAppends: Counter
}

export function createSafekeeperMetrics(): SafekeeperMetrics {
  const registry = createMetrics('safekeeper')
  const registers = [registry]
  return {
    registry,
    receivedBytes: new Counter({
      name: 'zenith_safekeeper_wal_received_bytes_total',
      help: 'WAL bytes accepted from proposers',
      registers,
    }),
    sentBytes: new Counter({
      name: 'zenith_safekeeper_wal_sent_bytes_total',
      help: 'WAL bytes streamed to page servers, standbys and tools',
      registers,
    }),
    syncSeconds: new Histogram({
      name: 'zenith_safekeeper_wal_sync_seconds',
      help: 'Duration of one synced write of WAL',
      buckets: [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1],
      registers,
    }),
    timelines: new Gauge({
      name: 'zenith_safekeeper_timelines',
      help: 'Timelines kept here',
      registers,
    }),
    proposers: new Gauge({
      name: 'zenith_safekeeper_proposer_connections',
      help: 'Connected proposers',
      registers,
    }),
    walDiskBytes: new Gauge({
      name: 'zenith_safekeeper_wal_disk_bytes',
      help: 'Bytes that WAL segments take on disk',
      registers,
    }),
    freeDiskBytes: new Gauge({
      name: 'zenith_safekeeper_free_disk_bytes',
      help: 'Free space on the disk of the data folder',
      registers,
    }),
    refusedAppends: new Counter({
      name: 'zenith_safekeeper_refused_appends_total',
      help: 'Appends refused since a limit of disk space was reached',
      registers,
    }),
    walReceivers: new Gauge({
      name: 'zenith_safekeeper_wal_receiver_connections',
      help: 'WAL streams being served',
      registers,
    }),
    offloadedBytes: new Counter({
      name: 'zenith_safekeeper_wal_offloaded_bytes_total',
      help: 'WAL bytes copied to object storage',
      registers,
    }),
    offloadFailures: new Counter({
      name: 'zenith_safekeeper_wal_offload_failures_total',
      help: 'Uploads, comparisons, deletions and restores that object storage did not do',
      registers,
    }),
    archiveReadBytes: new Counter({
      name: 'zenith_safekeeper_wal_archive_read_bytes_total',
      help: 'WAL bytes read back from object storage',
      registers,
    }),
    restores: new Counter({
      name: 'zenith_safekeeper_timeline_restores_total',
      help: 'Evicted timelines that came back to this disk',
      registers,
    }),
  }
}
