/** What reads cost in layers, and what layers keep at hand, for a scrape. */
import { Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { Residency } from './layers/residency.ts'
import { quantile, type ReadStats } from './read/read-stats.ts'

/** Upper bounds, as a histogram has them. */
const BOUNDS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 64]

export function watchReads(registry: Metrics, stats: ReadStats, residency: Residency): void {
  const registers = [registry]
  const histogram = (name: string, help: string, counts: Float64Array) => {
    new Gauge({
      name: `zenith_pageserver_read_layers_${name}_bucket`,
      help,
      labelNames: ['le'],
      registers,
      collect() {
        let sum = 0
        let next = 0
        for (const bound of BOUNDS) {
          for (; next <= bound; next++) sum += counts[next] as number
          this.set({ le: `${bound}` }, sum)
        }
        for (; next < counts.length; next++) sum += counts[next] as number
        this.set({ le: '+Inf' }, sum)
      },
    })
    new Gauge({
      name: `zenith_pageserver_read_layers_${name}_p99`,
      help: `${help}: what 99 of 100 do not pass, since the start`,
      registers,
      collect() {
        this.set(quantile(counts, 0.99))
      },
    })
  }
  histogram('visited', 'Reads of a page by the layers whose data they needed', stats.visited)
  histogram('searched', 'Reads of a page by the layers whose index they searched', stats.searched)
  const gauge = (name: string, help: string, value: () => number) =>
    new Gauge({
      name: `zenith_pageserver_${name}`,
      help,
      registers,
      collect() {
        this.set(value())
      },
    })
  const { indexes, files } = residency
  gauge('layer_index_bytes', 'Memory of the layer indexes at hand', () => indexes.total)
  gauge('layer_indexes_evicted', 'Layer indexes let go since the start', () => indexes.evicted)
  gauge('layer_files_open', 'Layer files that are open', () => files.count)
}
