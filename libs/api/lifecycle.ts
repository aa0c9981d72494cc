/**
 * The life of branches in the control plane's HTTP API: one table of routes, part of
 * `controlRoutes`. Each request can be repeated; what a crash cuts off goes on by itself.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import { BranchInfo, WalLag } from './branch-info.ts'
import { lifecyclePaths } from './lifecycle-paths.ts'
import { TimelineSizes } from './pageserver-lifecycle.ts'
import { IdText, LsnText, NameParams, None, Nullable, TenantParams } from './schemas.ts'

export const BranchDetails = Type.Object({
  ...BranchInfo.properties,
  children: Type.Array(Type.String()),
  endpoints: Type.Array(Type.Object({ name: Type.String(), status: Type.String() })),
  /** Null when the pageserver does not answer. */
  sizes: Nullable(TimelineSizes),
  /** Null while it cannot be told: archived, or pageserver or safekeepers do not answer. */
  lag: Nullable(WalLag),
})
export type BranchDetails = Static<typeof BranchDetails>

/** What reset and restore did. */
export const ReplacedBranch = Type.Object({
  branch: BranchInfo,
  /** The state that the branch shows now: of its parent after a reset, else of itself. */
  lsn: LsnText,
  /** The branch that holds the state from before; null when that was discarded. */
  kept: Nullable(Type.String()),
  /** Endpoints that ran, and were stopped; they can be started again. */
  stopped: Type.Array(Type.String()),
})
export type ReplacedBranch = Static<typeof ReplacedBranch>

/** How far the deletion of a tenant is. */
export const TenantDeletionInfo = Type.Object({
  tenantId: IdText,
  /** `deleting`: it cannot be used any more, and what is left of it goes by itself. */
  state: Type.Union([Type.Literal('deleting'), Type.Literal('deleted')]),
  /** What it waits for; null when it is done. */
  reason: Type.Union([Type.String(), Type.Null()]),
})
export type TenantDeletionInfo = Static<typeof TenantDeletionInfo>

const Replace = {
  /** Name for the state from before; default: the name with `_old_` and the time behind it. */
  keepAs: Type.Optional(Type.String()),
  /** Delete the state from before; refused while it has children. */
  discard: Type.Optional(Type.Boolean()),
  /** The first compute drops the subscriptions that the branch gets from its parent. */
  dropSubscriptions: Type.Optional(Type.Boolean()),
}

export const lifecycleRoutes = routes({
  deleteTenant: {
    ...lifecyclePaths.deleteTenant,
    summary: 'Delete a tenant with all its branches, for good; its id is not used again',
    params: TenantParams,
    querystring: Type.Object({
      force: Type.Optional(Type.Boolean({ description: 'stop its computes first' })),
      evenProtected: Type.Optional(Type.Boolean({ description: 'even with protected branches' })),
    }),
    response: TenantDeletionInfo,
  },
  listBranchDetails: {
    ...lifecyclePaths.listBranchDetails,
    summary: 'Branches with children, endpoints and sizes',
    params: TenantParams,
    response: Type.Array(BranchDetails),
  },
  getBranchDetails: {
    ...lifecyclePaths.getBranchDetails,
    summary: 'One branch with children, endpoints and sizes',
    params: NameParams,
    response: BranchDetails,
  },
  deleteBranch: {
    ...lifecyclePaths.deleteBranch,
    summary: 'Delete a branch with its endpoints and all that is only its own',
    params: NameParams,
    querystring: Type.Object({
      force: Type.Optional(Type.Boolean({ description: 'stop its computes first' })),
      evenMain: Type.Optional(Type.Boolean({ description: 'even the main branch of the tenant' })),
    }),
    response: BranchInfo,
  },
  archiveBranch: {
    ...lifecyclePaths.archiveBranch,
    summary: 'Keep a branch in object storage only; refused while it, or a child, is in use',
    params: NameParams,
    body: None,
    response: BranchInfo,
  },
  unarchiveBranch: {
    ...lifecyclePaths.unarchiveBranch,
    summary: 'Bring an archived branch back as it was',
    params: NameParams,
    body: None,
    response: BranchInfo,
  },
  detachBranch: {
    ...lifecyclePaths.detachBranch,
    summary: 'Make a branch independent of its parent, which can be deleted then; copies nothing',
    params: NameParams,
    body: None,
    response: BranchInfo,
  },
  resetBranch: {
    ...lifecyclePaths.resetBranch,
    summary: 'Make a branch show what its parent shows now',
    params: NameParams,
    body: Type.Object(Replace),
    response: ReplacedBranch,
  },
  restoreBranch: {
    ...lifecyclePaths.restoreBranch,
    summary: 'Put a branch back to an LSN or a moment of its own history',
    params: NameParams,
    body: Type.Object({
      ...Replace,
      lsn: Type.Optional(LsnText),
      /** Instead of an LSN: a moment, as ISO 8601 or psql write it. */
      at: Type.Optional(Type.String()),
    }),
    response: ReplacedBranch,
  },
  renameBranch: {
    ...lifecyclePaths.renameBranch,
    summary: 'Give a branch another name',
    params: NameParams,
    body: Type.Object({ to: Type.String() }),
    response: BranchInfo,
  },
  protectBranch: {
    ...lifecyclePaths.protectBranch,
    summary: 'Protect a branch from being deleted, reset or restored, or lift that',
    params: NameParams,
    body: Type.Object({ protected: Type.Boolean() }),
    response: BranchInfo,
  },
})
