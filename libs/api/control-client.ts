/**
 * Typed client of the control plane: `callControl(url, 'createBranch', { params, body })`. The
 * route table gives method, path and types. A problem answer becomes a `ZenithError` with the
 * server's code, message and hint.
 */
import { requestJson } from '#libs/http/client.ts'
import type { Static, TSchema } from 'typebox'
import type { ControlRouteName, ControlRoutes } from './control.ts'
import { controlPaths } from './control-paths.ts'

type Body<R> = R extends { body: infer S extends TSchema } ? Static<S> : undefined
type Params<N extends ControlRouteName> = Static<ControlRoutes[N]['params']>

export interface CallOptions<N extends ControlRouteName> {
  params?: Params<N>
  body?: Body<ControlRoutes[N]>
  timeoutMs?: number
}

/** Calls one route. Default limit 60 s: creating a tenant runs initdb, stopping a compute waits. */
export async function callControl<N extends ControlRouteName>(
  baseUrl: string,
  name: N,
  options: CallOptions<N> = {},
): Promise<Static<ControlRoutes[N]['response']>> {
  const route = controlPaths[name]
  const params = (options.params ?? {}) as Record<string, string | number>
  const path = route.path.replace(/:(\w+)/g, (_, key: string) =>
    encodeURIComponent(String(params[key])),
  )
  const body = options.body ?? (route.method === 'POST' || route.method === 'PUT' ? {} : undefined)
  return requestJson(route.method, new URL(path, baseUrl).href, body, {
    timeoutMs: options.timeoutMs ?? 60_000,
  })
}
