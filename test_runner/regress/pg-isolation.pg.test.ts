/**
 * Goal: PostgreSQL's isolation suite, and the tests of contrib and PL/pgSQL, pass against a compute.
 * Method: the suites themselves, see docs/postgres-suites.md. Sessions of isolation tests mostly wait
 * for each other, so the two run at once, each on a Zenith of its own.
 */
import { expect, test } from 'vitest'
import { expectSameBytes } from '../oracle/expect-same-bytes.ts'
import { describeVerdict, SUITE_TIMEOUT_MS } from '../pg_regress/report.ts'
import { runSuite, type SuiteOptions } from '../pg_regress/run-suite.ts'

async function expectAllPass(options: SuiteOptions, least: number): Promise<void> {
  await using outcome = await runSuite(options)
  const { verdict } = outcome
  expect(
    verdict.failed.map(({ result }) => result.name),
    describeVerdict(outcome),
  ).toEqual([])
  expect(verdict.passed.length).toBeGreaterThanOrEqual(least)
  await expectSameBytes(outcome)
}

test.concurrent('isolation', () => expectAllPass({ suite: 'isolation' }, 123), SUITE_TIMEOUT_MS)

test.concurrent(
  'contrib and PL/pgSQL',
  () => expectAllPass({ suite: 'contrib' }, 200),
  SUITE_TIMEOUT_MS,
)
