/** Branches in the control plane's HTTP API: one table of routes, part of `controlRoutes`. */
import { routes } from '#libs/http/route.ts'
import { Type } from 'typebox'
import { BranchInfo } from './branch-info.ts'
import { controlPaths } from './control-paths.ts'
import { LsnText, TenantParams } from './schemas.ts'

export const branchRoutes = routes({
  listBranches: {
    ...controlPaths.listBranches,
    summary: 'Branches, each with its parent, parents before children',
    params: TenantParams,
    response: Type.Array(BranchInfo),
  },
  createBranch: {
    ...controlPaths.createBranch,
    summary: 'Branch from another branch (default main), at its end, at an LSN or at a moment',
    params: TenantParams,
    body: Type.Object({
      name: Type.String(),
      from: Type.Optional(Type.String()),
      lsn: Type.Optional(LsnText),
      /** Instead of an LSN: a moment, as ISO 8601 or psql write it. */
      at: Type.Optional(Type.String()),
      /** The first compute of the branch drops its subscriptions before anybody gets in. */
      dropSubscriptions: Type.Optional(Type.Boolean()),
    }),
    response: BranchInfo,
  },
})
