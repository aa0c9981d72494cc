/** How long test files take, in whole seconds by their path; what is short is left out. */
import { relative } from 'node:path'

export type Durations = Readonly<Record<string, number>>

/** The part of vitest's JSON report that is used; times in milliseconds. */
export interface TimedReport {
  readonly testResults: readonly {
    readonly name: string
    readonly startTime: number
    readonly endTime: number
  }[]
}

const SHORT_SECONDS = 2

/** The table of a run, longest first. */
export function durationsOf(report: TimedReport, root: string): Durations {
  return Object.fromEntries(
    report.testResults
      .map(({ name, startTime, endTime }): [string, number] => [
        relative(root, name),
        Math.round((endTime - startTime) / 1000),
      ])
      .filter(([, seconds]) => seconds >= SHORT_SECONDS)
      .toSorted(([path, seconds], [otherPath, otherSeconds]) =>
        seconds === otherSeconds ? (path < otherPath ? -1 : 1) : otherSeconds - seconds,
      ),
  )
}
