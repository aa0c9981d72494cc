/**
 * Runs simulations. `--seeds N [--from S]`: many, over all cores, with figures. `--seed S [--trace]`:
 * one; a failing one is made smaller. `--only cut:1,pause:0`: no other faults than these.
 * `--mutations`: breaks each rule on purpose and shows after how many seeds that was noticed;
 * `--mutation NAME` only that one, or with `--seed` one seed so. Exit code 1 on a violation.
 */
import { parseArgs } from 'node:util'
import type { BatchReport } from './batch.ts'
import type { SimulationSetup } from './cluster.ts'
import { missedFloors } from './floors.ts'
import { findMutation, MUTATIONS, type MutationCase } from './mutation-cases.ts'
import { runParallelBatch } from './parallel-batch.ts'
import { shrink } from './shrink.ts'
import { type SimulationResult, simulate } from './simulation.ts'

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string', default: '200' },
    from: { type: 'string', default: '1' },
    only: { type: 'string' },
    trace: { type: 'boolean', default: false },
    mutation: { type: 'string' },
    mutations: { type: 'boolean', default: false },
  },
})

function chosenMutation(): MutationCase | null {
  if (values.mutation === undefined) return null
  const found = MUTATIONS.find(({ name }) => name === values.mutation)
  if (found) return found
  const names = MUTATIONS.map(({ name }) => name).join(', ')
  throw new Error(`there is no mutation ${values.mutation}; there are ${names}`)
}

function replayLine(seed: number, only: readonly string[] | null): string {
  const mutation = values.mutation === undefined ? '' : ` --mutation ${values.mutation}`
  const faults = only === null ? '' : ` --only ${only.join(',') || 'none'}`
  return `npm run sim -- --seed ${seed}${mutation}${faults} --trace`
}

function report(result: SimulationResult): void {
  console.log(`seed ${result.seed}: ${result.violation?.message ?? 'ok'}`)
  console.log(`options ${JSON.stringify(result.options)}`)
  console.log(`seen ${JSON.stringify(Object.fromEntries(result.coverage.counts))}`)
  console.log(`${result.steps} steps, trace ${result.traceHash}, node ${process.version}`)
}

function runOne(seed: number): boolean {
  const mutation = chosenMutation()
  const setup: SimulationSetup = {
    seed,
    mutation: mutation?.name ?? null,
    overrides: mutation?.options ?? {},
    only: values.only === undefined ? null : new Set(values.only.split(',')),
  }
  const result = simulate(setup)
  const again = simulate(setup)
  if (values.trace) console.log(result.recent.join('\n'))
  report(result)
  if (result.traceHash !== again.traceHash) console.log('two runs of this seed differ')
  if (result.violation && values.only === undefined) {
    const { only, runs } = shrink(setup, result)
    console.log(`${only.length} of ${result.faults.length} faults are needed (${runs} runs):`)
    console.log(`replay: ${replayLine(seed, only)}`)
  }
  return result.violation === null && result.traceHash === again.traceHash
}

function printCoverage({ seeds, coverage }: BatchReport): void {
  for (const [what, entry] of Object.entries(coverage).toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const share = `${((100 * entry.seeds) / seeds).toFixed(1)} %`.padStart(8)
    console.log(`${share} of seeds  ${String(entry.times).padStart(9)} times  ${what}`)
  }
}

async function runMany(from: number, count: number): Promise<boolean> {
  const total = await runParallelBatch(from, count)
  printCoverage(total)
  for (const { seed, message } of total.failures) {
    console.log(`seed ${seed}: ${message}`)
    console.log(`replay: ${replayLine(seed, null)}`)
  }
  const missed = count >= 200 && total.failures.length === 0 ? missedFloors(total) : []
  for (const line of missed) console.log(`too rare: ${line}`)
  const perSecond = Math.round((1000 * total.steps) / total.cpuMs)
  console.log(
    `${total.seeds} seeds from ${from}, each twice: ${total.steps} steps in ` +
      `${(total.cpuMs / 1000).toFixed(1)} s of CPU, ${perSecond} steps/s`,
  )
  return total.failures.length === 0 && missed.length === 0
}

function runMutations(): boolean {
  let all = true
  const chosen = chosenMutation()
  for (const mutation of chosen === null ? MUTATIONS : [chosen]) {
    const before = process.cpuUsage()
    const found = findMutation(mutation)
    const cpu = process.cpuUsage(before)
    const seconds = ((cpu.user + cpu.system) / 1e6).toFixed(1)
    const where = found === null ? 'NOT FOUND' : `seed ${found.seed}, ${found.invariant}`
    const { from = 1, within } = mutation
    const budget = `${found === null ? within : found.seed - from + 1} of ${within} seeds`
    console.log(`${mutation.name.padEnd(30)} ${where.padEnd(24)} ${budget}, ${seconds} s`)
    if (found === null) all = false
  }
  return all
}

let good: boolean
if (values.seed !== undefined) good = runOne(Number(values.seed))
else if (values.mutations || values.mutation !== undefined) good = runMutations()
else good = await runMany(Number(values.from), Number(values.seeds))
process.exitCode = good ? 0 : 1
