/**
 * What a batch of runs must have been about, as the share of seeds in which it happened: runs that
 * commit nothing or never cut a log prove nothing. They lie at least three and a half standard
 * deviations below what is seen, for 1,000 seeds, so that chance alone does not come below them.
 */
import type { BatchReport } from './batch.ts'

export const FLOORS: readonly { what: string; share: number }[] = [
  { what: 'committed', share: 0.95 },
  { what: 'elections', share: 0.99 },
  { what: 'truncations', share: 0.27 },
  { what: 'torn writes', share: 0.1 },
  { what: 'failed syncs', share: 0.05 },
  { what: 'power losses', share: 0.5 },
  { what: 'kills', share: 0.5 },
  { what: 'fetches', share: 0.3 },
  { what: 'broken fetches', share: 0.1 },
  { what: 'fenced computes', share: 0.2 },
  { what: 'partitions', share: 0.1 },
  { what: 'asymmetric partitions', share: 0.1 },
  { what: 'wiped disks', share: 0.02 },
  { what: 'joint elections', share: 0.3 },
  { what: 'elections in place', share: 0.1 },
  { what: 'changes finished', share: 0.3 },
  { what: 'changes aborted', share: 0.08 },
  { what: 'full replacements', share: 0.08 },
  { what: 'term bumps of a change', share: 0.1 },
  { what: 'control plane dies in copy', share: 0.03 },
  { what: 'control plane dies in switch', share: 0.02 },
  { what: 'control plane dies in catch-up', share: 0.02 },
  { what: 'control plane dies in announce', share: 0.01 },
  { what: 'rebuilds begun', share: 0.01 },
  { what: 'recoveries from a peer', share: 0.08 },
  { what: 'commits told by peers', share: 0.08 },
  { what: 'lies of discovery', share: 0.2 },
  { what: 'boots with a dirty tail', share: 0.02 },
  { what: 'bytes behind the log', share: 0.1 },
  { what: 'store: rename', share: 0.05 },
  { what: 'segments uploaded', share: 0.04 },
  { what: 'removals', share: 0.02 },
  { what: 'tails uploaded', share: 0.1 },
  { what: 'requests done late', share: 0.05 },
  { what: 'quiet times', share: 0.35 },
  { what: 'timelines evicted', share: 0.2 },
  { what: 'timelines restored', share: 0.2 },
  { what: 'removals repeated after a crash', share: 0.1 },
  { what: 'crashes while evicted', share: 0.1 },
  { what: 'crash before leaving', share: 0.03 },
  { what: 'crash before returning', share: 0.02 },
  { what: 'restores refused', share: 0.007 },
  { what: 'rotten tails', share: 0.04 },
  { what: 'page server is ahead of its safekeeper', share: 0.2 },
  { what: 'closed: other generation', share: 0.2 },
  { what: 'comings and goings beside the core', share: 0.5 },
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
