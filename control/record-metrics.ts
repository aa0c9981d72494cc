/** Gauges over the records: how many tenants, branches, endpoints in which state, and
 * changes of safekeepers. */
import { Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import { membershipOf } from './membership/membership-record.ts'
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
  new Gauge({
    name: 'zenith_control_member_changes',
    help: 'Timelines whose safekeepers change, or whose old ones have yet to delete, by step',
    labelNames: ['step'],
    registers: [metrics],
    async collect() {
      this.reset()
      for (const timeline of await registry.timelines()) {
        const { newMembers, announced, deletions } = membershipOf(timeline)
        if (newMembers !== null) this.inc({ step: 'joint' })
        else if (!announced) this.inc({ step: 'announce' })
        else if (deletions.length > 0) this.inc({ step: 'clean-up' })
      }
    },
  })
}
