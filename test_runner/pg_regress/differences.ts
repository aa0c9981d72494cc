/**
 * Where the output of PostgreSQL's own tests differs on Zenith, each with the reason why a stock
 * Postgres on another storage would differ too. A listed test must differ exactly as it did when it
 * was listed; one that differs in another way, or not at all any more, fails.
 */
import { createHash } from 'node:crypto'
import type { TestResult } from './regress-output.ts'

export interface Difference {
  /** As the suites name it: `core/tablespace`, `hstore/hstore_utf8`. */
  readonly test: string
  readonly reason: string
  /** Of the diff as `normalizeDiff` leaves it; a failed run prints it. */
  readonly sha256: string
}

const SLOT_OF_QUORUM =
  'pg_replication_slots lists the slot through which WAL goes to the safekeepers, as a stock server ' +
  'lists the one of its synchronous standby'

export const DIFFERENCES: readonly Difference[] = [
  {
    test: 'test_decoding/ddl',
    reason: SLOT_OF_QUORUM,
    sha256: 'cce2aec929ad3ab1be8854b36cfde61d85961de53be949056e5aed15b63730c4',
  },
  {
    test: 'test_decoding/permissions',
    reason: SLOT_OF_QUORUM,
    sha256: '99ea978d88fcd3ae720ec1da8d01d6cc5095b0736a8c455f38ef72e81d599e78',
  },
  {
    test: 'test_decoding/slot',
    reason: SLOT_OF_QUORUM,
    sha256: 'f2f267001df595d7ee93a7c6df01ac778ed22a07efb20136c92aa87d8565d34b',
  },
  {
    test: 'pg_walinspect/pg_walinspect',
    reason:
      'the first change of a page after a checkpoint logs no image of it: full_page_writes is off, ' +
      'since the page server never sees a torn page; a stock server with that setting differs alike',
    sha256: '83c0d034836d8f7dc2e6378fa58d7aa680db6df95aaa58e492175c24ed19c65c',
  },
]

export interface Verdict {
  readonly passed: readonly TestResult[]
  readonly failed: readonly { readonly result: TestResult; readonly why: string }[]
  /** Those of the passed ones that differ as documented. */
  readonly documented: readonly Difference[]
}

/** Judges results by the list. `diffs` holds normalized diffs by test. Pure. */
export function judge(
  results: readonly TestResult[],
  diffs: ReadonlyMap<string, string>,
  listed: readonly Difference[] = DIFFERENCES,
): Verdict {
  const passed: TestResult[] = []
  const failed: { result: TestResult; why: string }[] = []
  const documented: Difference[] = []
  for (const result of results) {
    const entry = listed.find(({ test }) => test === result.name)
    if (result.passed && entry === undefined) {
      passed.push(result)
    } else if (result.passed) {
      failed.push({ result, why: 'is listed as a difference and does not differ any more' })
    } else {
      const sha256 = diffHash(diffs.get(result.name))
      if (entry !== undefined && entry.sha256 === sha256) {
        passed.push(result)
        documented.push(entry)
      } else {
        const how = entry === undefined ? 'differs' : 'differs otherwise than listed'
        failed.push({ result, why: `${how} (sha256 of the difference: ${sha256})` })
      }
    }
  }
  return { passed, failed, documented }
}

/** `none` for a test that failed without a diff, as when psql crashed: such a one is never listed. */
export function diffHash(normalized: string | undefined): string {
  if (normalized === undefined) return 'none'
  return createHash('sha256').update(normalized).digest('hex')
}
