import { expect } from 'vitest'
import type { SuiteOutcome } from '../pg_regress/run-suite.ts'
import { byteOracle } from './byte-oracle.ts'

/** Runs the byte oracle on the Zenith that a suite has left, prints its counts, and expects no difference. */
export async function expectSameBytes({ suite, server }: SuiteOutcome): Promise<void> {
  if (server.zenith === null) return
  using run = await byteOracle(server.zenith.installation, server.zenith.compute)
  console.log(`${suite}: ${String(run.report)}`)
  expect(run.report.differences, String(run.report)).toEqual([])
  expect(run.report.pages).toBeGreaterThan(5000)
}
