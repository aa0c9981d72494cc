/** Prometheus metrics: one registry per process, names `zenith_<service>_<what>_<unit>`. */
import { collectDefaultMetrics, Registry } from '@prometheus-io/client'

export type Metrics = Registry

export function createMetrics(service: string): Metrics {
  const registry = new Registry()
  registry.setDefaultLabels({ service })
  collectDefaultMetrics({ register: registry })
  return registry
}
