/**
 * One run from one seed: safekeepers, computes that come, compete and crash, a network that cuts and
 * clogs, disks that lose what was not synced. First a stormy phase in which the oracle watches
 * safety; then a random majority is healed and one new compute must get on with it alone (liveness);
 * then everybody is, all logs must become equal, and everything ever committed must still be there.
 */
import { Cluster, type SimulationSetup } from './cluster.ts'
import type { Coverage } from './coverage.ts'
import { Healing } from './healing.ts'
import type { SimulationOptions } from './options.ts'
import { Violation } from './oracle.ts'
import { Storm } from './storm.ts'

export interface SimulationResult {
  seed: number
  violation: Violation | null
  traceHash: string
  recent: readonly string[]
  options: SimulationOptions
  coverage: Coverage
  /** Faults that happened, by name. */
  faults: readonly string[]
  steps: number
}

/** Runs a seed to its end, or to the first promise that is broken. */
export function simulate(setup: SimulationSetup): SimulationResult {
  const cluster = new Cluster(setup)
  const { oracle, coverage, faults, scheduler, options } = cluster
  let violation: Violation | null = null
  try {
    new Storm(cluster).run()
    new Healing(cluster).run()
  } catch (error) {
    violation =
      error instanceof Violation ? error : new Violation('assert', String((error as Error).stack))
  }
  if (oracle.committedLsn > options.startLsn) coverage.count('committed')
  coverage.count('commits', oracle.commits)
  coverage.count('joint commits', oracle.jointCommits)
  for (const fault of faults.fired) {
    coverage.count(`fault: ${fault.slice(0, fault.indexOf(':'))}`)
  }
  return {
    seed: setup.seed,
    violation,
    traceHash: scheduler.traceHash,
    recent: scheduler.recent(),
    options,
    coverage,
    faults: faults.fired,
    steps: scheduler.steps,
  }
}
