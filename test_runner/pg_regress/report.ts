/** What a person reads of a suite that has run. */
import type { Verdict } from './differences.ts'

/** For a test that runs a suite: minutes on an idle machine, much longer on a busy one. */
export const SUITE_TIMEOUT_MS = 3_600_000

const DIFF_LINES = 60

/** Failed tests with their diffs, then the documented differences; empty when there are none. */
export function describeVerdict(outcome: {
  readonly verdict: Verdict
  readonly diffs: ReadonlyMap<string, string>
}): string {
  const { verdict, diffs } = outcome
  const lines: string[] = []
  for (const { result, why } of verdict.failed) {
    lines.push(`${result.name} ${why}`)
    const diff = (diffs.get(result.name) ?? '').trimEnd().split('\n')
    lines.push(...diff.slice(0, DIFF_LINES).map((line) => `    ${line}`))
    if (diff.length > DIFF_LINES) lines.push(`    ... ${diff.length - DIFF_LINES} more lines`)
  }
  const { documented } = verdict
  lines.push(`documented differences: ${documented.length === 0 ? 'none' : documented.length}`)
  for (const { test, reason } of documented) lines.push(`    ${test}: ${reason}`)
  return `${lines.join('\n')}\n`
}
