/**
 * Typed client of the control plane: `callControl(url, 'createBranch', { params, body })`. The
 * route table gives method, path and types. A problem answer becomes a `ZenithError` with the
 * server's code, message and hint.
 */
import { callRoute, type RouteCallOptions } from '#libs/http/route.ts'
import type { Static } from 'typebox'
import type { ControlRouteName, ControlRoutes } from './control.ts'
import { controlPaths } from './control-paths.ts'

/** Calls one route. Default limit 60 s: creating a tenant runs initdb, stopping a compute waits. */
export function callControl<N extends ControlRouteName>(
  baseUrl: string,
  name: N,
  options: RouteCallOptions<ControlRoutes[N]> = {},
): Promise<Static<ControlRoutes[N]['response']>> {
  return callRoute<ControlRoutes[N]>(controlPaths[name], baseUrl, options)
}
