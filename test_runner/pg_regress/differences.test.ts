import { expect, test } from 'vitest'
import { diffHash, judge } from './differences.ts'

const ok = { name: 'core/a', passed: true, durationMs: 1 }
const bad = { name: 'core/b', passed: false, durationMs: 1 }
const listed = [{ test: 'core/b', reason: 'because', sha256: diffHash('-1\n+2\n') }]

test('passed and failed', () => {
  const verdict = judge([ok, bad], new Map([['core/b', '-1\n+2\n']]), [])
  expect(verdict.passed).toEqual([ok])
  expect(verdict.failed.map(({ result }) => result)).toEqual([bad])
})

test('a listed difference passes only as it was listed', () => {
  const same = judge([bad], new Map([['core/b', '-1\n+2\n']]), listed)
  expect(same.failed).toEqual([])
  expect(same.documented).toEqual(listed)
  expect(judge([bad], new Map([['core/b', '-1\n+3\n']]), listed).failed).toHaveLength(1)
  expect(judge([bad], new Map(), listed).failed).toHaveLength(1)
  expect(judge([{ ...bad, passed: true }], new Map(), listed).failed).toHaveLength(1)
})

test('a test that failed without a diff cannot be listed', () => {
  expect(diffHash(undefined)).toBe('none')
})
