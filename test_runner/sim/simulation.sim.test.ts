/**
 * A few hundred seeded runs, each twice with the same trace; and the proof that the oracle is awake:
 * every rule that is broken on purpose must be found.
 */
import { expect, test } from 'vitest'
import { DIVERGENCE, type Mutation, Simulation, type SimulationOptions } from './simulation.ts'

function runSeeds(first: number, count: number, overrides: Partial<SimulationOptions> = {}) {
  const totals = { committing: 0, truncating: 0 }
  for (let seed = first; seed < first + count; seed += 1) {
    const result = new Simulation(seed, null, overrides).run()
    const again = new Simulation(seed, null, overrides).run()
    const replay = `node test_runner/sim/main.ts --seed ${seed}`
    expect(result.violation?.message, replay).toBeUndefined()
    expect(again.traceHash, `${replay}: not deterministic`).toBe(result.traceHash)
    if (result.stats.committedBytes > 0) totals.committing += 1
    if (result.stats.truncations > 0) totals.truncating += 1
  }
  return totals
}

test('150 seeds of mixed trouble: safe, then live again', () => {
  const totals = runSeeds(1, 150)
  expect(totals.committing).toBeGreaterThan(140)
  expect(totals.truncating).toBeGreaterThan(50)
})

test('100 seeds of diverging logs: safe, then live again', () => {
  const totals = runSeeds(1000, 100, DIVERGENCE)
  expect(totals.committing).toBe(100)
  expect(totals.truncating).toBeGreaterThan(50)
})

// Where to begin, so that the run is short; the search goes on until the fault is found.
const FAULTS: [Mutation, number, Partial<SimulationOptions>][] = [
  ['vote-without-flush', 1, {}],
  ['ack-written', 1, {}],
  ['vote-not-durable', 1, {}],
  ['history-before-truncate', 1, {}],
  ['commit-without-term-start', 1, DIVERGENCE],
  ['cut-below', 380, DIVERGENCE],
]

test.each(FAULTS)(
  'a safekeeper or proposer with "%s" is found out',
  (mutation, first, overrides) => {
    for (let seed = first; seed < first + 1500; seed += 1) {
      if (new Simulation(seed, mutation, overrides).run().violation) return
    }
    expect.fail('1500 seeds saw nothing wrong')
  },
)
