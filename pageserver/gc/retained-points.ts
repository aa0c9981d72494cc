/**
 * Which states of a timeline must stay readable. Above the cutoff every one; below it only those at
 * the retained points: branch points of children, leased LSNs, and what a running job reads at.
 */
import type { Lsn } from '#libs/lsn.ts'

export interface RetainedBy {
  /** Every state from here on is kept. */
  cutoffLsn: Lsn
  /** Where children leave the timeline. */
  branchPoints: readonly Lsn[]
  /** Leased LSNs. */
  leases: readonly Lsn[]
  /** LSNs that a read of several steps, or a job, holds. */
  holds: readonly Lsn[]
}

/**
 * The points at or below the cutoff, ascending, each once; the last one is the cutoff. What lies
 * above it needs no point: it is kept anyway.
 */
export function retainedPoints({ cutoffLsn, branchPoints, leases, holds }: RetainedBy): Lsn[] {
  const below = [...branchPoints, ...leases, ...holds].filter((lsn) => lsn < cutoffLsn)
  return [...new Set([...below, cutoffLsn])].sort((a, b) => a - b)
}
