/** Many runs: seeds twice, sums of what happened, and the first failures. */
import type { SimulationSetup } from './cluster.ts'
import { simulate } from './simulation.ts'

export interface Failure {
  seed: number
  message: string
}

export interface BatchReport {
  seeds: number
  /** Of all runs. */
  steps: number
  cpuMs: number
  /** By what happened: in how many seeds, and how often in all. */
  coverage: Record<string, { seeds: number; times: number }>
  failures: Failure[]
}

export function emptyReport(): BatchReport {
  return { seeds: 0, steps: 0, cpuMs: 0, coverage: {}, failures: [] }
}

export interface BatchOptions {
  setup?: Omit<SimulationSetup, 'seed'>
  /** Seeds that are multiples of it run a second time, which must have the same trace. Default 1. */
  repeatEvery?: number
}

/** Enough to see what they have in common. */
const MAX_FAILURES = 3

/** Runs seeds [first, first + count). Stops early when some failed. */
export function runBatch(
  first: number,
  count: number,
  { setup = {}, repeatEvery = 1 }: BatchOptions = {},
): BatchReport {
  const report = emptyReport()
  const before = process.threadCpuUsage()
  for (let seed = first; seed < first + count; seed += 1) {
    const result = simulate({ ...setup, seed })
    const again = seed % repeatEvery === 0 ? simulate({ ...setup, seed }) : null
    report.seeds += 1
    report.steps += result.steps + (again?.steps ?? 0)
    for (const [what, times] of result.coverage.counts) {
      if (times === 0) continue
      const entry = report.coverage[what] ?? { seeds: 0, times: 0 }
      report.coverage[what] = { seeds: entry.seeds + 1, times: entry.times + times }
    }
    if (result.violation) report.failures.push({ seed, message: result.violation.message })
    else if (again !== null && result.traceHash !== again.traceHash) {
      const message = `determinism: two runs have traces ${result.traceHash}, ${again.traceHash}`
      report.failures.push({ seed, message })
    }
    if (report.failures.length >= MAX_FAILURES) break
  }
  const cpu = process.threadCpuUsage(before)
  report.cpuMs = (cpu.user + cpu.system) / 1000
  return report
}

export function addReport(total: BatchReport, part: BatchReport): void {
  total.seeds += part.seeds
  total.steps += part.steps
  total.cpuMs += part.cpuMs
  total.failures.push(...part.failures)
  for (const [what, { seeds, times }] of Object.entries(part.coverage)) {
    const entry = total.coverage[what] ?? { seeds: 0, times: 0 }
    total.coverage[what] = { seeds: entry.seeds + seeds, times: entry.times + times }
  }
}
