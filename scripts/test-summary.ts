/** Counts what vitest reports. */

/** The part of vitest's JSON report that is used. */
export interface VitestReport {
  readonly testResults: readonly {
    readonly status: string
    readonly assertionResults: readonly { readonly status: string }[]
  }[]
}

export interface Counts {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

/**
 * A file that fails as a whole (it cannot be loaded, a hook threw) counts as one failed test, and
 * so does a run that failed for a reason that no test shows (an unhandled rejection, no report).
 */
export function countResults(report: VitestReport | null, exitCode: number): Counts {
  const counts = { passed: 0, failed: 0, skipped: 0 }
  for (const file of report?.testResults ?? []) {
    let failedHere = 0
    for (const { status } of file.assertionResults) {
      if (status === 'passed') counts.passed += 1
      else if (status === 'failed') failedHere += 1
      else counts.skipped += 1
    }
    if (file.status === 'failed' && failedHere === 0) failedHere = 1
    counts.failed += failedHere
  }
  if (counts.failed === 0 && (exitCode !== 0 || report === null)) counts.failed = 1
  return counts
}

export function summaryLine({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
}
