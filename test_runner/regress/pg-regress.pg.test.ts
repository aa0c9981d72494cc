/**
 * Goal: PostgreSQL's core regression suite passes against a compute as against stock Postgres, with
 * buffers of the usual size and with so few that every test evicts pages of every other.
 * Method: the suite itself, see docs/postgres-suites.md.
 */
import { expect, test } from 'vitest'
import { expectSameBytes } from '../oracle/expect-same-bytes.ts'
import { describeVerdict, SUITE_TIMEOUT_MS } from '../pg_regress/report.ts'
import { runSuite, type SuiteOptions } from '../pg_regress/run-suite.ts'

const CORE_TESTS = 225

async function expectAllPass(options: Omit<SuiteOptions, 'suite'>): Promise<void> {
  await using outcome = await runSuite({ suite: 'core', ...options })
  const { verdict } = outcome
  expect(
    verdict.failed.map(({ result }) => result.name),
    describeVerdict(outcome),
  ).toEqual([])
  expect(verdict.passed.length).toBeGreaterThanOrEqual(CORE_TESTS)
  await expectSameBytes(outcome)
}

test('with the usual buffers', () => expectAllPass({}), SUITE_TIMEOUT_MS)

test(
  'with few buffers',
  () => expectAllPass({ sharedBuffers: '2MB', maxConnections: 8 }),
  SUITE_TIMEOUT_MS,
)
