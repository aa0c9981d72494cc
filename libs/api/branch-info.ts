/** What the control plane tells of a branch. */
import { type Static, Type } from 'typebox'
import { IdText, LsnText, Nullable } from './schemas.ts'

/** `archiving`, `unarchiving` and `deleting` go on by themselves. */
export const BranchState = Type.Union([
  Type.Literal('creating'),
  Type.Literal('active'),
  Type.Literal('archiving'),
  Type.Literal('archived'),
  Type.Literal('unarchiving'),
  Type.Literal('deleting'),
])
export type BranchState = Static<typeof BranchState>

/** How far the pageserver is behind the safekeepers; of a sharded tenant its slowest shard. */
export const WalLag = Type.Object({
  /** Committed WAL that cannot be read from it yet. */
  bytes: Type.Integer(),
  /** How old the oldest of that is; null when the pageserver does not know of it. */
  ms: Nullable(Type.Integer()),
  /** Committed WAL that is not in object storage yet, which safekeepers keep for it. */
  unstoredBytes: Type.Integer(),
})
export type WalLag = Static<typeof WalLag>

export const BranchInfo = Type.Object({
  name: Type.String(),
  timelineId: IdText,
  state: BranchState,
  /** Name of the branch that it reads its history from; null when all of that is its own. */
  parent: Nullable(Type.String()),
  /** The parent's LSN at which this branch starts; null exactly when there is no parent. */
  branchLsn: Nullable(LsnText),
  /** Not to be deleted, reset or restored. */
  protected: Type.Boolean(),
  createdAt: Type.String({ description: 'ISO 8601, UTC' }),
})
export type BranchInfo = Static<typeof BranchInfo>
