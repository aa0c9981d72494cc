/** The HTTP side of the control plane: every route of `#libs/api/control.ts` with its handler. */
import type { Static, TSchema } from 'typebox'
import { type ControlRouteName, type ControlRoutes, controlRoutes } from '#libs/api/control.ts'
import type { HttpServer } from '#libs/http/server.ts'
import type { Branches } from './branches.ts'
import type { Endpoints } from './endpoints.ts'
import { registerNode } from './nodes.ts'
import type { Registry } from './registry.ts'
import type { Tenants } from './tenants.ts'

interface Call<N extends ControlRouteName> {
  params: Static<ControlRoutes[N]['params']>
  body: ControlRoutes[N] extends { body: infer B extends TSchema } ? Static<B> : undefined
}

type Handlers = {
  [N in ControlRouteName]: (call: Call<N>) => Promise<Static<ControlRoutes[N]['response']>>
}

export interface ControlParts {
  registry: Registry
  tenants: Tenants
  branches: Branches
  endpoints: Endpoints
}

/** Adds all routes. Bodies and parameters are checked against their schemas before a handler runs. */
export function addRoutes(app: HttpServer, parts: ControlParts): void {
  const handlers = handlersOf(parts)
  for (const name of Object.keys(controlRoutes) as ControlRouteName[]) {
    const route = controlRoutes[name]
    // Route and handler share the name, hence their types; a loop over names cannot show that.
    const handler = handlers[name] as unknown as (call: unknown) => Promise<never>
    app.route({
      method: route.method,
      url: route.path,
      schema: {
        summary: route.summary,
        params: route.params,
        ...('body' in route ? { body: route.body } : {}),
        response: { 200: route.response },
      },
      handler: (request) => handler({ params: request.params, body: request.body }),
    })
  }
}

function handlersOf({ registry, tenants, branches, endpoints }: ControlParts): Handlers {
  return {
    listNodes: async () => ({
      pageservers: await registry.nodes('pageserver'),
      safekeepers: await registry.nodes('safekeeper'),
    }),
    registerPageserver: ({ params, body }) =>
      registerNode(registry, 'pageserver', { id: params.id, ...body }),
    registerSafekeeper: ({ params, body }) =>
      registerNode(registry, 'safekeeper', { id: params.id, ...body }),
    reAttach: ({ body }) => tenants.reAttach(body.pageserverId),
    listTenants: () => tenants.list(),
    createTenant: ({ body }) => tenants.create(body.tenantId),
    getTenant: ({ params }) => tenants.get(params.tenantId),
    listTimelines: ({ params }) => branches.timelines(params.tenantId),
    listBranches: ({ params }) => branches.list(params.tenantId),
    createBranch: ({ params, body }) => branches.create(params.tenantId, body),
    listEndpoints: ({ params }) => endpoints.list(params.tenantId),
    createEndpoint: ({ params, body }) => endpoints.create(params.tenantId, body),
    getEndpoint: ({ params }) => endpoints.get(params.tenantId, params.name),
    startEndpoint: ({ params, body }) => endpoints.start(params.tenantId, params.name, body),
    reportEndpoint: ({ params, body }) => endpoints.report(params.tenantId, params.name, body),
    stopEndpoint: ({ params }) => endpoints.stop(params.tenantId, params.name),
    deleteEndpoint: ({ params }) => endpoints.delete(params.tenantId, params.name),
  }
}
