/** Prometheus metrics of a supervisor; made at the first scrape. */
import { Counter, Gauge } from '@prometheus-io/client'
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
  gauge('cluster_size_bytes', 'All databases together, as the page server told last', () => {
    return supervisor.clusterBytes ?? 0
  })
  gauge('size_limit_bytes', 'What the tenant allows all databases together; 0 = any size', () => {
    return supervisor.status().sizeLimitBytes ?? 0
  })
  registerBackpressure(metrics, supervisor)
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

/** How far the page server is behind, and what writers sleep for that. */
function registerBackpressure(metrics: Metrics, supervisor: Supervisor): void {
  const registers = [metrics]
  const positions = new Gauge({
    name: 'zenith_compute_pageserver_lsn_bytes',
    help: 'How far the slowest shard of the page server is: received, on disk, in object storage',
    labelNames: ['position'],
    registers,
    collect() {
      const pageserver = supervisor.pageserver
      if (pageserver === null) return
      positions.set({ position: 'received' }, pageserver.lastReceivedLsn)
      positions.set({ position: 'disk' }, pageserver.diskConsistentLsn)
      positions.set({ position: 'object_storage' }, pageserver.remoteConsistentLsn)
    },
  })
  new Gauge({
    name: 'zenith_compute_backpressure_active',
    help: '1 while the page server is further behind than a limit allows, so that writers sleep',
    registers,
    collect() {
      this.set(supervisor.backpressure()?.limitExceeded === true ? 1 : 0)
    },
  })
  const counter = (name: string, help: string, read: () => number) =>
    new Counter({
      name: `zenith_compute_backpressure_${name}`,
      help,
      registers,
      collect() {
        this.reset()
        this.inc(read())
      },
    })
  counter('sleeps_total', 'Naps of writers, of 10 ms each, for the page server to keep up', () => {
    return supervisor.backpressure()?.sleeps ?? 0
  })
  counter('slept_seconds_total', 'How long writers slept for the page server to keep up', () => {
    return (supervisor.backpressure()?.sleptUs ?? 0) / 1e6
  })
}
