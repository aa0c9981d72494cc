/**
 * The order of test files: the longest first, so that no worker is left alone with one at the end.
 * A fresh clone has no results of earlier runs, therefore the durations lie in the repository;
 * `ZENITH_RECORD_DURATIONS=1 npm test` writes them anew.
 */
import { readFileSync } from 'node:fs'
import { relative } from 'node:path'
import { BaseSequencer, type TestSpecification } from 'vitest/node'
import type { Durations } from '../../scripts/test-durations.ts'

/** A file that nobody has timed yet runs among those of middling length. */
const UNKNOWN_SECONDS = { pg: 30, sim: 30, unit: 1 } as const

const durations = JSON.parse(
  readFileSync(new URL('durations.json', import.meta.url), 'utf8'),
) as Durations

export class LongestFirst extends BaseSequencer {
  override sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const ordered = files.toSorted((one, other) => {
      const group = groupOf(one) - groupOf(other)
      return group === 0 ? this.#seconds(other) - this.#seconds(one) : group
    })
    return Promise.resolve(ordered)
  }

  #seconds({ moduleId, project }: TestSpecification): number {
    const path = relative(this.ctx.config.root, moduleId)
    const known = durations[path]
    if (known !== undefined) return known
    return UNKNOWN_SECONDS[project.name as keyof typeof UNKNOWN_SECONDS] ?? 0
  }
}

function groupOf({ project }: TestSpecification): number {
  return project.config.sequence.groupOrder
}
