/** Gauges over the records: how many tenants, branches, and endpoints in which state. */
import { Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { Registry } from './registry.ts'

export function countRecords(metrics: Metrics, registry: Registry): void {
  new Gauge({
    name: 'zenith_control_tenants',
    help: 'Tenants known to the control plane',
    registers: [metrics],
    async collect() {
      this.set((await registry.tenants()).length)
    },
  })
  new Gauge({
    name: 'zenith_control_timelines',
    help: 'Timelines known to the control plane',
    registers: [metrics],
    async collect() {
      this.set((await registry.timelines()).length)
    },
  })
  new Gauge({
    name: 'zenith_control_endpoints',
    help: 'Endpoints by status',
    labelNames: ['status'],
    registers: [metrics],
    async collect() {
      this.reset()
      for (const { status } of await registry.endpoints()) this.inc({ status })
    },
  })
}
