/**
 * What a batch of runs must have been about, as the share of seeds in which it happened: runs that
 * commit nothing or never cut a log prove nothing.
 */
import type { BatchReport } from './batch.ts'

export const FLOORS: readonly { what: string; share: number }[] = [
  { what: 'committed', share: 0.95 },
  { what: 'elections', share: 0.99 },
  { what: 'truncations', share: 0.3 },
  { what: 'torn writes', share: 0.1 },
  { what: 'failed syncs', share: 0.05 },
  { what: 'power losses', share: 0.5 },
  { what: 'kills', share: 0.5 },
  { what: 'fetches', share: 0.3 },
  { what: 'broken fetches', share: 0.1 },
  { what: 'fenced computes', share: 0.2 },
  { what: 'partitions', share: 0.1 },
  { what: 'asymmetric partitions', share: 0.1 },
  { what: 'wiped disks', share: 0.03 },
  { what: 'fault: cut', share: 0.2 },
  { what: 'fault: late', share: 0.2 },
  { what: 'fault: clog', share: 0.1 },
  { what: 'fault: pause', share: 0.2 },
  { what: 'fault: clock-jump', share: 0.1 },
  { what: 'fault: disk-full', share: 0.1 },
  { what: 'fault: crash-between', share: 0.1 },
]

/** Sentences about what happened too rarely. */
export function missedFloors(report: BatchReport): string[] {
  const missed: string[] = []
  for (const { what, share } of FLOORS) {
    const seeds = report.coverage[what]?.seeds ?? 0
    if (seeds < share * report.seeds) {
      missed.push(`${what}: in ${seeds} of ${report.seeds} seeds, wanted ${share * 100} %`)
    }
  }
  return missed
}
