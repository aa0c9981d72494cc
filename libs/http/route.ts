/**
 * A service's HTTP API as one table of routes: the server registers them with their schemas
 * (`#libs/http/serve-routes.ts`), clients call them by name with the same types. No value is imported here,
 * so a client that only needs paths loads no schema library.
 */
import type { Static, TSchema } from 'typebox'
import type { ClientTls } from '../auth/credentials.ts'
import { requestJson } from './client.ts'

export interface Route {
  method: 'GET' | 'PUT' | 'POST' | 'DELETE'
  /** Path with `:param` places, as fastify writes them. */
  path: string
  summary: string
  params: TSchema
  querystring?: TSchema
  body?: TSchema
  /** Largest body; default 1 MiB. */
  bodyLimitBytes?: number
  response: TSchema
}

/** Declares a table of routes and keeps the exact type of each. */
export const routes = <const T extends Record<string, Route>>(table: T): T => table

/** What a route's schema under `K` describes, or undefined where it has none. */
export type SchemaOf<R, K extends string> =
  R extends Record<K, infer S extends TSchema> ? Static<S> : undefined

export interface RouteCallOptions<R extends Route> {
  params?: Static<R['params']>
  query?: Record<string, string>
  body?: SchemaOf<R, 'body'>
  timeoutMs?: number
  token?: string | null
  tls?: ClientTls | null
}

/**
 * Calls a route given by method and path. A problem answer becomes the ZenithError it stands for.
 * Default limit 60 s. Requests that may carry a body carry at least an empty one.
 */
export async function callRoute<R extends Route>(
  route: Pick<R, 'method' | 'path'>,
  baseUrl: string,
  options: RouteCallOptions<R>,
): Promise<Static<R['response']>> {
  const params = (options.params ?? {}) as Record<string, string | number>
  const path = route.path.replace(/:(\w+)/g, (_, key: string) =>
    encodeURIComponent(String(params[key])),
  )
  const url = new URL(path, baseUrl)
  for (const [key, value] of Object.entries(options.query ?? {})) url.searchParams.set(key, value)
  const takesBody = route.method === 'POST' || route.method === 'PUT'
  const body = options.body ?? (takesBody ? {} : undefined)
  const { timeoutMs = 60_000, token = null, tls = null } = options
  return requestJson(route.method, url.href, body, { timeoutMs, token, tls })
}
