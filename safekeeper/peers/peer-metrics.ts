/** How the exchange with peers goes. */
import { Counter, Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'

export interface PeerMetrics {
  readonly connected: Gauge
  readonly active: Gauge
  readonly recoveries: Counter<'result'>
}

export function createPeerMetrics(registry: Metrics): PeerMetrics {
  const registers = [registry]
  return {
    connected: new Gauge({
      name: 'zenith_safekeeper_discovery_connected',
      help: '1 while news of other safekeepers comes in',
      registers,
    }),
    active: new Gauge({
      name: 'zenith_safekeeper_active_timelines',
      help: 'Timelines that are published by discovery each second',
      registers,
    }),
    recoveries: new Counter({
      name: 'zenith_safekeeper_peer_recoveries_total',
      help: 'Attempts to catch up from another safekeeper without a compute',
      labelNames: ['result'],
      registers,
    }),
  }
}
