/** What compaction counts, for a scrape. */
import { Gauge } from '@prometheus-io/client'
import type { Metrics } from '#libs/metrics.ts'
import type { Compactor, CompactorStats } from './compactor.ts'
import { JOB_KINDS } from './job.ts'

/** Adds the gauges of compaction to a registry. */
export function watchCompaction(registry: Metrics, compactor: Compactor): void {
  const registers = [registry]
  const byKind = (
    name: string,
    help: string,
    of: (stats: CompactorStats) => CompactorStats['done'],
  ) =>
    new Gauge({
      name: `zenith_pageserver_compaction_${name}`,
      help,
      labelNames: ['kind'],
      registers,
      collect() {
        const values = of(compactor.stats)
        for (const kind of JOB_KINDS) this.set({ kind }, values[kind])
      },
    })
  byKind('done', 'Compaction jobs that ended well since the start', (stats) => stats.done)
  byKind('failed', 'Compaction jobs that failed since the start', (stats) => stats.failed)
  byKind('seconds', 'Time spent in compaction jobs since the start', (stats) => stats.seconds)
  new Gauge({
    name: 'zenith_pageserver_compaction_preempted',
    help: 'Jobs that made room for a merge of L0 layers since the start',
    registers,
    collect() {
      this.set(compactor.stats.preempted)
    },
  })
  new Gauge({
    name: 'zenith_pageserver_compaction_resting',
    help: 'Timelines whose compaction rests after failures in a row; their reads grow dearer',
    registers,
    collect() {
      this.set(compactor.stats.resting)
    },
  })
}
