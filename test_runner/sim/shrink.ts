/**
 * Makes a failing run smaller: leaves faults out as long as the same invariant is still violated
 * (delta debugging over the names of the faults).
 */
import type { SimulationSetup } from './cluster.ts'
import { type SimulationResult, simulate } from './simulation.ts'

export interface Shrunk {
  result: SimulationResult
  only: string[]
  runs: number
}

export function shrink(setup: SimulationSetup, failing: SimulationResult, maxRuns = 300): Shrunk {
  const invariant = failing.violation?.invariant
  let result = failing
  let only = [...failing.faults]
  let runs = 0
  const fails = (candidate: readonly string[]): boolean => {
    runs += 1
    const attempt = simulate({ ...setup, only: new Set(candidate) })
    if (attempt.violation?.invariant !== invariant) return false
    result = attempt
    return true
  }
  let pieces = 2
  while (only.length > 0 && runs < maxRuns) {
    const size = Math.ceil(only.length / pieces)
    let smaller = false
    for (let start = 0; start < only.length && runs < maxRuns; start += size) {
      const candidate = [...only.slice(0, start), ...only.slice(start + size)]
      if (!fails(candidate)) continue
      only = candidate
      smaller = true
      break
    }
    if (smaller) pieces = Math.max(2, pieces - 1)
    else if (size === 1) break
    else pieces = Math.min(only.length, 2 * pieces)
  }
  return { result, only, runs }
}
