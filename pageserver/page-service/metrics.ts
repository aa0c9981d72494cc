/** What the page service counts. */
import { Counter, Histogram } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { PageStreamRequest } from '#libs/protocol/page-stream.ts'

const SECONDS = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1, 10, 60]

export interface PageServiceMetrics {
  /** One answered batch: its kind, the pages in it, and the time from arrival to answer. */
  observe(kind: PageStreamRequest['kind'], pages: number, elapsedMs: number): void
  countError(): void
  observeBackup(kind: 'basebackup' | 'fullbackup' | 'export' | 'stripes', elapsedMs: number): void
}

export function createPageServiceMetrics(registry: Metrics): PageServiceMetrics {
  const registers = [registry]
  const seconds = new Histogram({
    name: 'zenith_pageserver_request_seconds',
    help: 'Time from the arrival of a page stream request (or run of getpages) to its answer',
    labelNames: ['kind'],
    buckets: SECONDS,
    registers,
  })
  const pagesTotal = new Counter({
    name: 'zenith_pageserver_getpage_pages_total',
    help: 'Pages sent',
    registers,
  })
  const errorsTotal = new Counter({
    name: 'zenith_pageserver_request_errors_total',
    help: 'Page stream requests answered with an error',
    registers,
  })
  const backupSeconds = new Histogram({
    name: 'zenith_pageserver_backup_seconds',
    help: 'Time to send a base backup, or what a shard adds to one',
    labelNames: ['kind'],
    buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 300],
    registers,
  })
  return {
    observe(kind, pages, elapsedMs) {
      seconds.observe({ kind }, elapsedMs / 1000)
      if (kind === 'getpage') pagesTotal.inc(pages)
    },
    countError: () => errorsTotal.inc(),
    observeBackup: (kind, elapsedMs) => backupSeconds.observe({ kind }, elapsedMs / 1000),
  }
}
