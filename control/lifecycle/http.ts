/** The HTTP side of the life of branches: the routes of `#libs/api/lifecycle.ts`. */
import type { ControlRoutes } from '#libs/api/control.ts'
import type { lifecycleRoutes } from '#libs/api/lifecycle.ts'
import type { RouteHandlers } from '#libs/http/serve-routes.ts'
import type { Lifecycle } from './lifecycle.ts'
import type { TenantDeletion } from './tenant-deletion.ts'

type Handlers = Pick<RouteHandlers<ControlRoutes>, keyof typeof lifecycleRoutes>

/** The handlers for the control plane's table of routes. */
export function lifecycleHandlers(lifecycle: Lifecycle, tenantDeletion: TenantDeletion): Handlers {
  return {
    deleteTenant: ({ params, query }) => tenantDeletion.delete(params.tenantId, query),
    listBranchDetails: ({ params }) => lifecycle.listDetails(params.tenantId),
    getBranchDetails: ({ params }) => lifecycle.details(params.tenantId, params.name),
    deleteBranch: ({ params, query }) => lifecycle.delete(params.tenantId, params.name, query),
    archiveBranch: ({ params }) => lifecycle.archive(params.tenantId, params.name),
    unarchiveBranch: ({ params }) => lifecycle.unarchive(params.tenantId, params.name),
    detachBranch: ({ params }) => lifecycle.detach(params.tenantId, params.name),
    resetBranch: ({ params, body }) => lifecycle.reset(params.tenantId, params.name, body),
    restoreBranch: ({ params, body }) => lifecycle.restore(params.tenantId, params.name, body),
    renameBranch: ({ params, body }) => lifecycle.rename(params.tenantId, params.name, body.to),
    protectBranch: ({ params, body }) =>
      lifecycle.protect(params.tenantId, params.name, body.protected),
  }
}
