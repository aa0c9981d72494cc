/** What garbage collection did, over all timelines of the process. */
import { Counter } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { Collected } from './collector.ts'

export interface GcMetrics {
  collected: (result: Collected) => void
  failed: () => void
}

/** Adds the counters of collection to a registry. */
export function createGcMetrics(registry: Metrics): GcMetrics {
  const counter = (name: string, help: string) =>
    new Counter({ name: `zenith_pageserver_${name}`, help, registers: [registry] })
  const layers = counter('gc_removed_layers_total', 'Layers that no kept state needs any more')
  const bytes = counter('gc_removed_bytes_total', 'Size of the layers that were removed')
  const failures = counter('gc_failures_total', 'Collections that failed and will be tried again')
  return {
    collected: ({ removedLayers, removedBytes }) => {
      layers.inc(removedLayers)
      bytes.inc(removedBytes)
    },
    failed: () => failures.inc(),
  }
}
