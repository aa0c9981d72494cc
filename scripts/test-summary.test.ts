import { expect, test } from 'vitest'
import { countResults, summaryLine } from './test-summary.ts'

function file(status: string, ...results: string[]) {
  return { status, assertionResults: results.map((result) => ({ status: result })) }
}

test('counts tests', () => {
  const report = {
    testResults: [
      file('passed', 'passed', 'passed', 'pending'),
      file('failed', 'passed', 'failed'),
      file('passed', 'todo'),
    ],
  }
  const counts = countResults(report, 1)
  expect(counts).toEqual({ passed: 3, failed: 1, skipped: 2 })
  expect(summaryLine(counts)).toBe('3 passed, 1 failed, 2 skipped')
})

test('a file that cannot be loaded, and a run that fails by itself, are failures', () => {
  expect(countResults({ testResults: [file('failed')] }, 1).failed).toBe(1)
  expect(countResults({ testResults: [file('passed', 'passed')] }, 1).failed).toBe(1)
  expect(countResults(null, 1)).toEqual({ passed: 0, failed: 1, skipped: 0 })
  expect(summaryLine(countResults({ testResults: [file('passed', 'passed')] }, 0))).toBe(
    '1 passed, 0 failed',
  )
})
