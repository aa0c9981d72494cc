/** What uploads and deletions count, for a scrape. */
import { Counter, Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { DeletionStats } from './deletion-queue.ts'
import type { DiskStats } from './disk-keeper.ts'
import type { DownloadStats } from './downloads.ts'
import type { UploadStats } from './upload-queue.ts'

export interface RemoteStats {
  uploads: UploadStats
  downloads: DownloadStats
  disk: DiskStats
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
  ['download_queue', 'Layer files that are being fetched', ({ downloads }) => downloads.pending],
  ['resident_bytes', 'Size of all layer files on local disk', ({ disk }) => disk.residentBytes],
  [
    'disk_short_bytes',
    'Use of the disk above its watermark that no eviction could bring down',
    ({ disk }) => disk.shortBytes,
  ],
  ['deletion_queue', 'Objects that wait to be deleted', ({ deletions }) => deletions.queued],
]

const COUNTERS: readonly Reading[] = [
  ['uploads', 'Objects uploaded', ({ uploads }) => uploads.uploaded],
  ['upload_bytes', 'Bytes uploaded', ({ uploads }) => uploads.uploadedBytes],
  ['upload_retries', 'Uploads that failed and were tried again', ({ uploads }) => uploads.retries],
  ['downloads', 'Layer files fetched from object storage', ({ downloads }) => downloads.files],
  ['download_bytes', 'Size of the layer files fetched', ({ downloads }) => downloads.bytes],
  [
    'download_failures',
    'Layer files that could not be fetched, and stay in object storage',
    ({ downloads }) => downloads.failures,
  ],
  ['evictions', 'Layer files taken from local disk to make room', ({ disk }) => disk.evictedFiles],
  ['evicted_bytes', 'Size of the layer files taken from disk', ({ disk }) => disk.evictedBytes],
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

/** Adds the gauges of object storage to a registry. */
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
