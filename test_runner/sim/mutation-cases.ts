/** Where each broken rule is looked for, and within how many seeds it must be noticed. */
import type { Mutation } from './mutations.ts'
import type { SimulationOptions } from './options.ts'
import { Simulation } from './simulation.ts'

export interface MutationCase {
  name: Mutation
  /** What is broken, in words. */
  rule: string
  /** Where to look, so that it is found soon. */
  options: Partial<SimulationOptions>
  /** Seeds within which it must be found, from 1 on. */
  within: number
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
}

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
]

/** Searches from seed 1 on; null when nothing was noticed within the seeds stated. */
export function findMutation(mutation: MutationCase): { seed: number; invariant: string } | null {
  for (let seed = 1; seed <= mutation.within; seed += 1) {
    const { violation } = new Simulation({
      seed,
      mutation: mutation.name,
      overrides: mutation.options,
    }).run()
    if (violation) return { seed, invariant: violation.invariant }
  }
  return null
}
