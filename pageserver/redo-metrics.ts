/** What the redo pool counts, for a scrape. */
import { Gauge, Histogram } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { RedoPoolStats } from './redo/redo-pool.ts'

const SECONDS = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1, 10]

export interface RedoMetrics {
  observe: (seconds: number) => void
  /** Shows the pool's counters at each scrape. */
  watch: (stats: () => RedoPoolStats) => void
}

export function createRedoMetrics(registry: Metrics): RedoMetrics {
  const registers = [registry]
  const seconds = new Histogram({
    name: 'zenith_pageserver_redo_seconds',
    help: 'Time to rebuild one page from WAL records, waiting included',
    buckets: SECONDS,
    registers,
  })
  return {
    observe: (elapsed) => seconds.observe(elapsed),
    watch: (stats) => {
      const gauge = (name: string, help: string, value: (now: RedoPoolStats) => number) =>
        new Gauge({
          name: `zenith_pageserver_redo_${name}`,
          help,
          registers,
          collect() {
            this.set(value(stats()))
          },
        })
      gauge('processes', 'Redo processes that run', (now) => now.processes)
      gauge('pending', 'Pages waiting for redo', (now) => now.pending)
      gauge('died', 'Redo processes that died since the start', (now) => now.died)
      gauge('failed', 'Pages that could not be rebuilt since the start', (now) => now.failed)
      gauge(
        'checked',
        'Page images of wal_consistency_checking found equal since the start',
        (now) => now.checked,
      )
      gauge('records', 'WAL records applied since the start', (now) => now.records)
    },
  }
}
