/**
 * Seeded runs of the whole WAL service, many of them twice with the same trace: seeds that once
 * found something, seeds that nobody has run before, and the proof that the oracle is awake: every
 * rule that is broken on purpose is noticed.
 */
import { expect, test } from 'vitest'
import { runBatch } from './batch.ts'
import { missedFloors } from './floors.ts'
import { lateLeaderCuts } from './late-leader.ts'
import { DIVERGENCE, findMutation, MUTATIONS } from './mutation-cases.ts'
import { runParallelBatch } from './parallel-batch.ts'

/** `npm run test:all` takes longer. */
const IS_LONG = process.env['ZENITH_TEST_LONG'] === '1'
const FRESH_SEEDS = IS_LONG ? 4_000 : 1_000
/** That a run repeats itself is seen soon when it does not. */
const FRESH_REPEAT_EVERY = IS_LONG ? 1 : 5

/** Seeds whose runs once showed a fault, of the service or of the simulation. */
const REGRESSION_SEEDS = [1, 2, 52, 70, 76, 160, 164, 182, 289, 5782, 20_114, 20_115]

/** Another range every day; ZENITH_SIM_FROM runs one again. */
function firstFreshSeed(): number {
  const given = process.env['ZENITH_SIM_FROM']
  if (given !== undefined) return Number(given)
  const day = Math.floor(Date.now() / 86_400_000)
  return 1_000_000 + (day % 4000) * 100_000
}

function explain(failures: readonly { seed: number; message: string }[]): string {
  return failures
    .map(({ seed, message }) => `${message}\n  npm run sim -- --seed ${seed} --trace`)
    .join('\n')
}

test.each(REGRESSION_SEEDS)('seed %i, which once showed a fault', (seed) => {
  const { failures } = runBatch(seed, 1)
  expect(failures, explain(failures)).toEqual([])
})

test('100 seeds of diverging logs: safe, then live again', () => {
  const { failures, coverage } = runBatch(1000, 100, { setup: { overrides: DIVERGENCE } })
  expect(failures, explain(failures)).toEqual([])
  expect(coverage['committed']?.seeds).toBe(100)
  expect(coverage['truncations']?.seeds).toBeGreaterThan(50)
})

test(`${FRESH_SEEDS} fresh seeds: safe, then live again, and about something`, async () => {
  const first = firstFreshSeed()
  console.log(`fresh seeds from ${first}: ZENITH_SIM_FROM=${first} runs them again`)
  const report = await runParallelBatch(first, FRESH_SEEDS, {
    repeatEvery: FRESH_REPEAT_EVERY,
  })
  expect(report.failures, explain(report.failures)).toEqual([])
  expect(report.seeds).toBe(FRESH_SEEDS)
  expect(missedFloors(report)).toEqual([])
})

test('a late leader may still cut what a peer of a later term calls committed', () => {
  expect(lateLeaderCuts(3)).toBeNull()
})

test.each(MUTATIONS)('noticed: $rule ($name)', (mutation) => {
  expect(findMutation(mutation), `${mutation.within} seeds saw nothing wrong`).not.toBeNull()
})
