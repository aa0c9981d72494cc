/**
 * How much history is kept and what was when, in the control plane's HTTP API: one table of routes,
 * part of `controlRoutes`.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { historyPaths } from './history-paths.ts'
import { HistorySettings } from './pageserver-retention.ts'
import { IdText, LsnText, NameParams, Nullable, TenantParams, Time } from './schemas.ts'

/** What a branch has of its past; all null but the name while its pageserver does not answer. */
export const BranchHistory = Type.Object({
  name: Type.String(),
  timelineId: IdText,
  /** Every state from here on can be read. */
  oldestLsn: Nullable(LsnText),
  /** When the latest commit up to there was. */
  oldestTime: Nullable(Time),
  lastRecordLsn: Nullable(LsnText),
  /** WAL from the oldest LSN on. */
  historyBytes: Nullable(Type.Integer()),
  /** States below the oldest LSN that are kept all the same: branch points and leases. */
  keptLsns: Nullable(Type.Array(LsnText)),
  layerBytes: Nullable(Type.Integer()),
})
export type BranchHistory = Static<typeof BranchHistory>

export const TenantHistory = Type.Object({
  tenantId: IdText,
  settings: HistorySettings,
  branches: Type.Array(BranchHistory),
})
export type TenantHistory = Static<typeof TenantHistory>

/**
 * `present`: the answer holds. `future`: it is after the last commit, or after the end. `past`: it is
 * before what is kept. `nodata`: nothing has been committed on the branch, as far as is known.
 */
export const HistoryAnswer = Type.Union([
  Type.Literal('present'),
  Type.Literal('future'),
  Type.Literal('past'),
  Type.Literal('nodata'),
])
export type HistoryAnswer = Static<typeof HistoryAnswer>

export const LsnAtTime = Type.Object({
  answer: HistoryAnswer,
  /** The state with all commits up to that time; `future`, `nodata`: the end; `past`: the oldest. */
  lsn: LsnText,
  oldestLsn: Nullable(LsnText),
  oldestTime: Nullable(Time),
})
export type LsnAtTime = Static<typeof LsnAtTime>

export const TimeAtLsn = Type.Object({
  answer: HistoryAnswer,
  /** Of the latest commit at or below; `future`: of the last one; `past`: up to the oldest LSN; `nodata`: null. */
  time: Nullable(Time),
  oldestLsn: LsnText,
  lastLsn: LsnText,
})
export type TimeAtLsn = Static<typeof TimeAtLsn>

export const historyRoutes = routes({
  getHistory: {
    ...historyPaths.getHistory,
    summary: 'How much history the tenant keeps, and what each branch has',
    params: TenantParams,
    response: TenantHistory,
  },
  setHistory: {
    ...historyPaths.setHistory,
    summary: 'Set how much history the tenant keeps; what is left out stays as it is',
    params: TenantParams,
    body: Type.Partial(HistorySettings),
    response: HistorySettings,
  },
  lsnAtTime: {
    ...historyPaths.lsnAtTime,
    summary: 'The LSN of a branch at a moment',
    params: NameParams,
    querystring: Type.Object({
      time: Type.String({ description: 'as ISO 8601 or psql write it' }),
    }),
    response: LsnAtTime,
  },
  timeAtLsn: {
    ...historyPaths.timeAtLsn,
    summary: 'When the latest commit up to an LSN of a branch was',
    params: NameParams,
    querystring: Type.Object({ lsn: LsnText }),
    response: TimeAtLsn,
  },
})
