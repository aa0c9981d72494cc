/** Gauges of splits, of shards on their way to other pageservers, and of what splits by size go by. */
import { Counter, Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { Registry } from '../registry.ts'
import type { Autosplit } from './autosplit.ts'

export function countSplits(
  metrics: Metrics,
  { registry, autosplit }: { registry: Registry; autosplit: Autosplit },
): void {
  const registers = [metrics]
  new Gauge({
    name: 'zenith_control_splits',
    help: 'Tenants whose shards are just being split, by who asked for it: somebody, or their size',
    labelNames: ['by'],
    registers,
    async collect() {
      this.reset()
      for (const { split } of await registry.tenants()) {
        if (split !== undefined) this.inc({ by: split.bySize === true ? 'size' : 'request' })
      }
    },
  })
  new Gauge({
    name: 'zenith_control_spreading_tenants',
    help: 'Tenants whose shards are being spread over the pageservers',
    registers,
    async collect() {
      this.set((await registry.tenants()).filter(({ spread }) => spread !== undefined).length)
    },
  })
  new Counter({
    name: 'zenith_control_splits_by_size_total',
    help: 'Splits that were begun because of the size of a tenant, since the start',
    registers,
    collect() {
      this.reset()
      this.inc(autosplit.begun)
    },
  })
  new Gauge({
    name: 'zenith_control_largest_shard_bytes',
    help: 'What the largest shard has of the largest branch of its tenant, by the last look',
    registers,
    async collect() {
      this.set(await autosplit.largestShardBytes())
    },
  })
}
