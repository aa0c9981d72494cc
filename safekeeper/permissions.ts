/** Which scopes may do what here; `#libs/auth/claims.ts` compares tenant and timeline besides. */
import { type SafekeeperRouteName, safekeeperRoutes } from '#libs/api/safekeeper.ts'
import { type Claims, checkPermission, type Scope } from '#libs/auth/claims.ts'
import { expired, isExpired } from '#libs/auth/token.ts'
import type { Route } from '#libs/http/route.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { SessionTarget } from '#libs/pgwire/session-target.ts'

/** What can be asked for on the WAL port. */
const WAL_PERMISSIONS = {
  /** START_WAL_PUSH */
  push: ['compute-write'],
  /** IDENTIFY_SYSTEM, SHOW, START_REPLICATION */
  read: ['wal-read', 'sk-peer', 'compute-write'],
  /** START_REPLICATION with a term, which shows WAL that may never be committed */
  readUncommitted: ['sk-peer', 'compute-write'],
} as const satisfies Record<string, readonly Scope[]>
export type WalAction = keyof typeof WAL_PERMISSIONS

const ADMIN_ONLY: readonly Scope[] = ['sk-admin']

/** Routes that are not for the control plane alone. */
const ROUTE_PERMISSIONS: Partial<Record<SafekeeperRouteName, readonly Scope[]>> = {
  status: ['sk-admin', 'sk-peer'],
  getTimeline: ['sk-admin', 'sk-peer', 'wal-read', 'compute-write'],
  digest: ['sk-admin', 'sk-peer'],
  control: ['sk-admin', 'sk-peer'],
}

/** Open to everybody: they tell nothing of anybody's data. */
const OPEN_PATHS: readonly string[] = ['/healthz', '/metrics', '/openapi.json']

const namesByPlace: ReadonlyMap<string, SafekeeperRouteName> = new Map(
  Object.entries<Route>(safekeeperRoutes).map(([name, { method, path }]) => [
    `${method} ${path}`,
    name as SafekeeperRouteName,
  ]),
)

/** Scopes that may call a route, given as the server knows it; null when everybody may. */
export function routeScopes(method: string, path: string): readonly Scope[] | null {
  if (OPEN_PATHS.includes(path)) return null
  const name = namesByPlace.get(`${method === 'HEAD' ? 'GET' : method} ${path}`)
  return (name === undefined ? undefined : ROUTE_PERMISSIONS[name]) ?? ADMIN_ONLY
}

/** Throws `forbidden` or `unauthenticated`. Claims are null where nothing is checked. */
export function checkWalAction(
  claims: Claims | null,
  action: WalAction,
  target: SessionTarget,
): void {
  if (claims === null) return
  if (isExpired(claims)) throw expired()
  checkPermission(claims, WAL_PERMISSIONS[action], target)
}

/** The timeline that a request is about. */
export function requestTarget(params: unknown): SessionTarget | null {
  const { tenantId, timelineId } = (params ?? {}) as { tenantId?: string; timelineId?: string }
  if (tenantId === undefined || timelineId === undefined) return null
  return { tenantId: parseTenantId(tenantId), timelineId: parseTimelineId(timelineId) }
}
