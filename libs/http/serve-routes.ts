/** Registers a table of routes (`./route.ts`) on a server, each with its handler. */
import type { Static } from 'typebox'
import type { Route, SchemaOf } from './route.ts'
import type { HttpServer } from './server.ts'

export interface RouteCall<R extends Route> {
  params: Static<R['params']>
  query: SchemaOf<R, 'querystring'>
  body: SchemaOf<R, 'body'>
}

export type RouteHandlers<T extends Record<string, Route>> = {
  [N in keyof T]: (call: RouteCall<T[N]>) => Promise<Static<T[N]['response']>>
}

/**
 * Adds all routes; parameters and bodies are checked against their schemas before a handler runs.
 * `before` runs first and may throw to refuse every request.
 */
export function serveRoutes<T extends Record<string, Route>>(
  app: HttpServer,
  table: T,
  handlers: RouteHandlers<T>,
  before: () => void = () => {},
): void {
  for (const [name, route] of Object.entries<Route>(table)) {
    // Route and handler share the name, hence their types; a loop over names cannot show that.
    const handler = handlers[name] as unknown as (call: unknown) => Promise<never>
    app.route({
      method: route.method,
      url: route.path,
      ...(route.bodyLimitBytes === undefined ? {} : { bodyLimit: route.bodyLimitBytes }),
      schema: {
        summary: route.summary,
        params: route.params,
        ...(route.body ? { body: route.body } : {}),
        ...(route.querystring ? { querystring: route.querystring } : {}),
        response: { 200: route.response },
      },
      handler: ({ params, query, body }) => {
        before()
        return handler({ params, query, body })
      },
    })
  }
}
