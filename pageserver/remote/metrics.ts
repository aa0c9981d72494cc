/** What uploads and deletions count, for a scrape. */
import { Counter, Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { DeletionStats } from './deletion-queue.ts'
import type { UploadStats } from './upload-queue.ts'

export interface RemoteStats {
  uploads: UploadStats
  deletions: DeletionStats
}

type Reading = [name: string, help: string, value: (stats: RemoteStats) => number]

const GAUGES: readonly Reading[] = [
  ['upload_queue', 'Objects that wait or are being uploaded', ({ uploads }) => uploads.queued],
  [
    'upload_pending_bytes',
    'Size of files that exist on local disk only',
    ({ uploads }) => uploads.pendingBytes,
  ],
  ['deletion_queue', 'Objects that wait to be deleted', ({ deletions }) => deletions.queued],
]

const COUNTERS: readonly Reading[] = [
  ['uploads', 'Objects uploaded', ({ uploads }) => uploads.uploaded],
  ['upload_bytes', 'Bytes uploaded', ({ uploads }) => uploads.uploadedBytes],
  ['upload_retries', 'Uploads that failed and were tried again', ({ uploads }) => uploads.retries],
  ['deletions', 'Objects deleted', ({ deletions }) => deletions.deleted],
  [
    'deletions_dropped',
    'Objects left where they are, since a newer generation may need them',
    ({ deletions }) => deletions.dropped,
  ],
  [
    'deletion_failures',
    'Rounds of deletions that failed and were tried again',
    ({ deletions }) => deletions.failures,
  ],
]

export function watchRemote(registry: Metrics, stats: () => RemoteStats): void {
  const registers = [registry]
  for (const [name, help, value] of GAUGES) {
    new Gauge({
      name: `zenith_pageserver_${name}`,
      help,
      registers,
      collect() {
        this.set(value(stats()))
      },
    })
  }
  for (const [name, help, value] of COUNTERS) {
    new Counter({
      name: `zenith_pageserver_${name}_total`,
      help,
      registers,
      collect() {
        this.reset()
        this.inc(value(stats()))
      },
    })
  }
}
