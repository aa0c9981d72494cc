/** What the WAL receivers count. */
import { Counter } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'

export interface WalReceiverMetrics {
  countBytes: (bytes: number) => void
}

export function createWalReceiverMetrics(registry: Metrics): WalReceiverMetrics {
  const bytes = new Counter({
    name: 'zenith_pageserver_wal_received_bytes_total',
    help: 'WAL bytes received from safekeepers',
    registers: [registry],
  })
  return { countBytes: (count) => bytes.inc(count) }
}
