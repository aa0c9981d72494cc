/** Where each broken rule is looked for, and within how many seeds it must be noticed. */
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { lateLeaderCuts } from './late-leader.ts'
import type { Mutation } from './mutations.ts'
import type { Violation } from './oracle.ts'
import type { SimulationOptions } from './options.ts'
import { simulate } from './simulation.ts'

export interface MutationCase {
  name: Mutation
  /** What is broken, in words. */
  rule: string
  /** Where to look, so that it is found soon. */
  options: Partial<SimulationOptions>
  /** Where the search begins, when the first seed that finds it comes late; default 1. */
  from?: number
  /** Seeds within which it must be found. */
  within: number
  /** A course of events made for it, when chance does not come upon one. */
  directed?: () => Violation | null
}

/** Aims at logs that diverge over several leaders. */
export const DIVERGENCE: Partial<SimulationOptions> = {
  safekeepers: 3,
  chairs: true,
  roundMs: 200,
  network: {
    minDelayMs: 1,
    maxDelayMs: 15,
    cutChance: 0,
    lateChance: 0,
    clogChance: 0,
    splitChance: 0,
  },
  maxDiskDelayMs: 0.3,
  crashChance: 0,
  eioChance: 0,
  maxWritePauseMs: 20,
  maxRelayBytes: 500,
  syncShare: 0.5,
  // Nothing but the rounds of leaders.
  calmMs: 1_000_000,
  spares: 0,
  peers: false,
  clockErrorMs: 0,
  evictAfterMs: null,
}

/** Aims at changes of the members while leaders of before go on. */
const CHANGES: Partial<SimulationOptions> = {
  safekeepers: 3,
  spares: 3,
  changeShare: 0.6,
  calmMs: 300,
  rivalChance: 0.6,
  staleShare: 0.3,
}

/** Aims at timelines that leave the disks and come back, and at objects that rot. */
const EVICTION: Partial<SimulationOptions> = {
  offload: true,
  evictAfterMs: 300,
  rotShare: 0.4,
  calmMs: 1500,
  safekeepers: 3,
}

/** So that the log soon goes on in a second segment. */
const NEAR_END = 2 * WAL_SEGMENT_SIZE - 30_000

export const MUTATIONS: readonly MutationCase[] = [
  {
    name: 'vote-without-flush',
    rule: 'a vote is sent before the WAL that it names is durable',
    options: {},
    within: 100,
  },
  {
    name: 'vote-not-durable',
    rule: 'a vote is sent before its term is durable',
    options: {},
    within: 100,
  },
  {
    name: 'history-before-truncate',
    rule: "the new leader's history is stored before the foreign tail is cut",
    options: { crashChance: 0.01 },
    within: 300,
  },
  {
    name: 'cut-below',
    rule: 'histories are cut by < instead of <=',
    options: DIVERGENCE,
    within: 1500,
  },
  {
    name: 'ack-written',
    rule: 'what is written is acknowledged before it is durable',
    options: {},
    within: 100,
  },
  {
    name: 'ack-after-failed-sync',
    rule: 'a failed sync is taken for a good one',
    options: { eioChance: 0.005 },
    within: 100,
  },
  {
    name: 'no-rewrite-at-boot',
    rule: 'what is read at the start is trusted to be on the medium',
    options: {},
    within: 300,
  },
  {
    name: 'commit-without-term-start',
    rule: 'a leader commits by acks below the start of its term',
    options: DIVERGENCE,
    within: 300,
  },
  {
    name: 'skip-term-bump',
    rule: 'a change of the members does not raise the terms of the new ones (38)',
    options: CHANGES,
    from: 840,
    within: 1500,
  },
  {
    name: 'skip-generation-check',
    rule: 'a safekeeper takes messages of any generation of the members',
    options: CHANGES,
    within: 500,
  },
  {
    name: 'keep-acks-after-wipe',
    rule: 'a leader counts what a safekeeper acknowledged in an earlier life',
    options: { ...CHANGES, wipeShare: 0.1, bumpShare: 0.3 },
    within: 500,
  },
  {
    name: 'elected-again-with-foreign-log',
    rule: 'a compute is elected again though another wrote in between',
    options: { rivalChance: 0.6, chairs: false, syncShare: 0 },
    within: 500,
  },
  {
    name: 'peer-commit-without-term',
    rule: "a peer's commit position is taken whatever its term",
    options: {},
    within: 1,
    directed: () => lateLeaderCuts(0),
  },
  {
    name: 'delete-by-horizon',
    rule: 'WAL is removed as soon as every safekeeper has it',
    options: { startLsn: NEAR_END, offload: true, pageserver: true, wipeShare: 0, changeShare: 0 },
    within: 200,
  },
  {
    name: 'remove-above-backup',
    rule: 'WAL is removed that is not in object storage',
    options: { startLsn: NEAR_END, offload: true, pageserver: true, objectStoreFailChance: 0.4 },
    within: 200,
  },
  {
    name: 'restore-without-check',
    rule: 'a timeline is restored from what object storage gives, right or not',
    options: EVICTION,
    within: 200,
  },
  {
    name: 'evict-without-compare',
    rule: 'a timeline leaves the disk though the object of its tail was not compared with it',
    options: EVICTION,
    within: 200,
  },
]

/** Searches the seeds stated (seed 0: a directed course of events); null when nothing was noticed. */
export function findMutation(mutation: MutationCase): { seed: number; invariant: string } | null {
  if (mutation.directed) {
    const violation = mutation.directed()
    return violation && { seed: 0, invariant: violation.invariant }
  }
  const { from = 1, within } = mutation
  for (let seed = from; seed < from + within; seed += 1) {
    const { violation } = simulate({ seed, mutation: mutation.name, overrides: mutation.options })
    if (violation) return { seed, invariant: violation.invariant }
  }
  return null
}
