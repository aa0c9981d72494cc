/**
 * Runs simulations: `node test_runner/sim/main.ts --seeds 1000 [--first 1]`, or one with its trace:
 * `--seed 42`. `--divergence` aims at logs that diverge, `--mutation NAME` breaks a rule on purpose. Each seed runs twice and must give the same trace. Exit code 1 on a violation.
 */
import { parseArgs } from 'node:util'
import { DIVERGENCE, type Mutation, Simulation, type SimulationResult } from './simulation.ts'

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string', default: '200' },
    first: { type: 'string', default: '1' },
    mutation: { type: 'string' },
    divergence: { type: 'boolean', default: false },
    trace: { type: 'boolean', default: false },
  },
})
const mutation = (values.mutation ?? null) as Mutation | null
const overrides = values.divergence ? DIVERGENCE : {}

function report(result: SimulationResult): void {
  console.log(`seed ${result.seed}: ${result.violation?.message ?? 'ok'}`)
  console.log(JSON.stringify({ options: result.options, stats: result.stats }))
  console.log(`replay: node test_runner/sim/main.ts --seed ${result.seed}`)
}

if (values.seed !== undefined) {
  const result = new Simulation(Number(values.seed), mutation, overrides).run()
  if (values.trace || result.violation) console.log(result.recent.join('\n'))
  report(result)
  process.exit(result.violation ? 1 : 0)
}

const totals = { seeds: 0, steps: 0, committing: 0, truncating: 0, crashes: 0 }
const first = Number(values.first)
for (let seed = first; seed < first + Number(values.seeds); seed += 1) {
  const result = new Simulation(seed, mutation, overrides).run()
  const again = new Simulation(seed, mutation, overrides).run()
  if (result.violation || result.traceHash !== again.traceHash) {
    report(result)
    if (result.traceHash !== again.traceHash) console.log('two runs of this seed differ')
    process.exit(1)
  }
  totals.seeds += 1
  totals.steps += result.stats.steps
  totals.committing += result.stats.committedBytes > 0 ? 1 : 0
  totals.truncating += result.stats.truncations > 0 ? 1 : 0
  totals.crashes += result.stats.crashes
}
console.log(JSON.stringify(totals))
