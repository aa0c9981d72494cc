/** The HTTP side of the control plane: every route of `#libs/api/control.ts` with its handler. */
import { type ControlRoutes, controlRoutes } from '#libs/api/control.ts'
import { type RouteHandlers, serveRoutes } from '#libs/http/serve-routes.ts'
import type { HttpServer } from '#libs/http/server.ts'
import type { Branches } from './branches.ts'
import type { EndpointSettings } from './endpoint-settings.ts'
import type { Endpoints } from './endpoints.ts'
import type { Exports } from './exports.ts'
import { validateGenerations } from './generations.ts'
import type { History } from './history.ts'
import type { Lifecycle } from './lifecycle/lifecycle.ts'
import { lifecycleHandlers } from './lifecycle/http.ts'
import type { TenantDeletion } from './lifecycle/tenant-deletion.ts'
import type { Imports } from './imports.ts'
import type { Migrations } from './membership/migrations.ts'
import type { Autosplit } from './moves/autosplit.ts'
import { moveHandlers } from './moves/http.ts'
import type { Moves } from './moves/moves.ts'
import type { Pageservers } from './moves/pageservers.ts'
import type { Splits } from './moves/splits.ts'
import type { Spreads } from './moves/spreads.ts'
import { registerNode } from './nodes.ts'
import type { Registry } from './registry.ts'
import {
  inspectSafekeepers,
  listSafekeepers,
  nextSafekeeperId,
  setSafekeeperState,
} from './safekeepers.ts'
import type { SizeLimits } from './size-limits.ts'
import type { Tenants } from './tenants.ts'
import type { Tokens } from './tokens.ts'

type Handlers = RouteHandlers<ControlRoutes>

export interface ControlParts {
  registry: Registry
  tenants: Tenants
  branches: Branches
  lifecycle: Lifecycle
  tenantDeletion: TenantDeletion
  migrations: Migrations
  moves: Moves
  splits: Splits
  spreads: Spreads
  autosplit: Autosplit
  pageservers: Pageservers
  endpoints: Endpoints
  settings: EndpointSettings
  tokens: Tokens
  exports: Exports
  history: History
  sizeLimits: SizeLimits
  imports: Imports
}

/** Adds all routes. */
export function addRoutes(app: HttpServer, parts: ControlParts): void {
  serveRoutes(app, controlRoutes, handlersOf(parts))
}

function handlersOf(parts: ControlParts): Handlers {
  const { moves, registry, tenants, branches, migrations, endpoints, settings, tokens } = parts
  return {
    listNodes: async () => ({
      pageservers: await registry.nodes('pageserver'),
      safekeepers: await registry.nodes('safekeeper'),
    }),
    registerPageserver: ({ params, body }) =>
      registerNode(registry, 'pageserver', { id: params.id, ...body }),
    registerSafekeeper: ({ params, body }) =>
      registerNode(registry, 'safekeeper', { id: params.id, ...body }),
    listSafekeepers: async () => ({
      safekeepers: await listSafekeepers(registry),
      nextId: await nextSafekeeperId(registry),
    }),
    inspectSafekeepers: () => inspectSafekeepers(registry),
    setSafekeeperState: ({ params, body }) =>
      setSafekeeperState(registry, params.id, body.state, body.force === true),
    listMembers: () => migrations.list(),
    getMembers: ({ params }) => migrations.get(params.tenantId, params.timelineId),
    changeMembers: ({ params, body }) => migrations.begin(params.tenantId, params.timelineId, body),
    abortMembers: ({ params }) => migrations.abort(params.tenantId, params.timelineId),
    reAttach: ({ body }) => {
      moves.forgetNode(body.pageserverId)
      return tenants.reAttach(body.pageserverId)
    },
    ...moveHandlers(parts),
    validateGenerations: ({ params, body }) =>
      validateGenerations(registry, params.id, body.tenants),
    issueNodeToken: ({ body }) => tokens.forNode(body.kind, body.id, body.secret),
    getHistory: ({ params }) => parts.history.get(params.tenantId),
    setHistory: ({ params, body }) => parts.history.set(params.tenantId, body),
    getSizeLimit: ({ params }) => parts.sizeLimits.get(params.tenantId),
    setSizeLimit: ({ params, body }) => parts.sizeLimits.set(params.tenantId, body),
    lsnAtTime: ({ params, query }) => parts.history.lsnAt(params.tenantId, params.name, query.time),
    timeAtLsn: ({ params, query }) => parts.history.timeAt(params.tenantId, params.name, query.lsn),
    listTenants: () => tenants.list(),
    createTenant: ({ body }) => tenants.create(body.tenantId, body),
    getTenant: ({ params }) => tenants.get(params.tenantId),
    listTimelines: ({ params }) => branches.timelines(params.tenantId),
    listBranches: ({ params }) => branches.list(params.tenantId),
    createBranch: ({ params, body }) => branches.create(params.tenantId, body),
    ...lifecycleHandlers(parts.lifecycle, parts.tenantDeletion),
    listEndpoints: ({ params }) => endpoints.list(params.tenantId),
    createEndpoint: ({ params, body }) => endpoints.create(params.tenantId, body),
    getEndpoint: ({ params }) => endpoints.get(params.tenantId, params.name),
    startEndpoint: ({ params, body }) => endpoints.start(params.tenantId, params.name, body),
    reportEndpoint: ({ params, body }) => endpoints.report(params.tenantId, params.name, body),
    renewToken: ({ params, body }) => endpoints.renewToken(params.tenantId, params.name, body),
    promoteEndpoint: ({ params, body }) => endpoints.promote(params.tenantId, params.name, body),
    stopEndpoint: ({ params }) => endpoints.stop(params.tenantId, params.name),
    changeSettings: ({ params, body }) => settings.change(params.tenantId, params.name, body),
    storeSystemSettings: ({ params, body }) =>
      settings.storeSystem(params.tenantId, params.name, body),
    deleteEndpoint: ({ params }) => endpoints.delete(params.tenantId, params.name),
    startImport: ({ params, body }) => parts.imports.start(params.tenantId, body),
    getImport: ({ params }) => parts.imports.get(params.tenantId, params.name),
    stopImport: ({ params, body }) =>
      parts.imports.stop(params.tenantId, params.name, body.force === true),
    exportBranch: ({ params, body }) => parts.exports.place(params.tenantId, params.name, body),
  }
}
