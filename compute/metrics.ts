/** Prometheus metrics of a supervisor; made at the first scrape. */
import { Gauge } from '@prometheus-io/client'
import { parseLsn } from '#libs/lsn.ts'
import { createMetrics, type Metrics } from '#libs/metrics.ts'
import type { Supervisor } from './supervisor.ts'

let registry: Metrics | null = null

export async function metricsText(supervisor: Supervisor): Promise<{ type: string; text: string }> {
  registry ??= register(supervisor)
  return { type: registry.contentType, text: await registry.metrics() }
}

function register(supervisor: Supervisor): Metrics {
  const metrics = createMetrics('compute')
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name: `zenith_compute_${name}`,
      help,
      registers: [metrics],
      collect() {
        this.set(read())
      },
    })
  const bytes = (lsn: string | null) => (lsn === null ? 0 : parseLsn(lsn))
  gauge('commit_lsn_bytes', 'End of the WAL that a quorum has', () =>
    bytes(supervisor.status().commitLsn),
  )
  gauge('start_lsn_bytes', 'Where the WAL of this compute begins', () =>
    bytes(supervisor.status().startLsn),
  )
  gauge('running', '1 while Postgres accepts connections', () =>
    supervisor.status().state === 'running' ? 1 : 0,
  )
  gauge('term', 'Term this compute was elected with', () => supervisor.status().term ?? 0)
  const phases = new Gauge({
    name: 'zenith_compute_start_phase_seconds',
    help: 'How long each phase of the start took',
    labelNames: ['phase'],
    registers: [metrics],
    collect() {
      for (const [phase, ms] of Object.entries(supervisor.status().phasesMs)) {
        phases.set({ phase }, ms / 1000)
      }
    },
  })
  return metrics
}
