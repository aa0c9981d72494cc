import { expect, test } from 'vitest'
import { safekeeperRoutes } from '#libs/api/safekeeper.ts'
import type { Claims, Scope } from '#libs/auth/claims.ts'
import type { Route } from '#libs/http/route.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { checkWalAction, routeScopes, type WalAction } from './permissions.ts'

const target = {
  tenantId: 'a'.repeat(32) as TenantId,
  timelineId: 'b'.repeat(32) as TimelineId,
}
const claims = (scope: Scope, expiresAtMs = Date.now() + 60_000): Claims => ({
  scope,
  ...target,
  subject: 'test',
  expiresAtMs,
})

test('what each scope may do on the WAL port', () => {
  const may = (scope: Scope) =>
    (['push', 'read', 'readUncommitted'] as WalAction[]).filter((action) => {
      try {
        checkWalAction(claims(scope), action, target)
        return true
      } catch (error) {
        expect(error).toMatchObject({ code: 'forbidden' })
        return false
      }
    })
  expect(may('compute-write')).toEqual(['push', 'read', 'readUncommitted'])
  expect(may('sk-peer')).toEqual(['read', 'readUncommitted'])
  expect(may('wal-read')).toEqual(['read'])
  expect(may('sk-admin')).toEqual([])
  expect(may('broker')).toEqual([])
})

test('an expired token does nothing any more; without auth nothing is checked', () => {
  const old = claims('compute-write', Date.now() - 60_000)
  expect(() => checkWalAction(old, 'read', target)).toThrow('expired')
  checkWalAction(null, 'push', target)
})

test('routes that change something are for the control plane alone', () => {
  for (const [name, { method, path }] of Object.entries<Route>(safekeeperRoutes)) {
    const scopes = routeScopes(method, path)
    expect(scopes, name).toContain('sk-admin')
    if (method !== 'GET') expect(scopes, name).toEqual(['sk-admin'])
    expect(scopes, name).not.toContain('broker')
  }
  expect(routeScopes('GET', safekeeperRoutes.getTimeline.path)).toContain('wal-read')
  expect(routeScopes('POST', '/v1/made-later')).toEqual(['sk-admin'])
  expect(routeScopes('GET', '/healthz')).toBeNull()
})
