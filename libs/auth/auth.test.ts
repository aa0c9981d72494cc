import { describe, expect, test } from 'vitest'
import type { TenantId, TimelineId } from '../ids.ts'
import type { SessionTarget } from '../pgwire/session-target.ts'
import { tlsFiles } from './auth-settings.ts'
import { checkPermission, type Claims, type Scope, SCOPES } from './claims.ts'
import { FailedLogins } from './failed-logins.ts'
import { checkListenAddress, isLoopback } from './listen-rule.ts'
import { newSecret, nodeSecret, secretsEqual } from './node-secret.ts'

const id = (digit: string) => digit.repeat(32)
const target = (tenant: string, timeline: string): SessionTarget => ({
  tenantId: id(tenant) as TenantId,
  timelineId: id(timeline) as TimelineId,
})
const token = (scope: Scope, tenant: string | null, timeline: string | null): Claims => ({
  scope,
  tenantId: tenant === null ? null : id(tenant),
  timelineId: timeline === null ? null : id(timeline),
  subject: 'test',
  expiresAtMs: 0,
})

describe('permissions', () => {
  const allowed = (claims: Claims, scopes: readonly Scope[], what: SessionTarget | null) => {
    try {
      checkPermission(claims, scopes, what)
      return true
    } catch (error) {
      expect(error).toMatchObject({ code: 'forbidden' })
      return false
    }
  }

  test('a scope must be among those that may', () => {
    for (const scope of SCOPES) {
      for (const one of SCOPES) {
        expect(allowed(token(scope, 'a', 'b'), [one], target('a', 'b'))).toBe(scope === one)
      }
      expect(allowed(token(scope, 'a', 'b'), [], target('a', 'b'))).toBe(false)
    }
  })

  test('tenant and timeline must be those of the token', () => {
    const scopes: Scope[] = ['wal-read']
    expect(allowed(token('wal-read', 'a', 'b'), scopes, target('a', 'c'))).toBe(false)
    expect(allowed(token('wal-read', 'a', 'b'), scopes, target('c', 'b'))).toBe(false)
    expect(allowed(token('wal-read', 'a', 'b'), scopes, null)).toBe(false)
    expect(allowed(token('wal-read', 'a', null), scopes, target('a', 'c'))).toBe(true)
    expect(allowed(token('wal-read', 'a', null), scopes, target('c', 'c'))).toBe(false)
    expect(allowed(token('wal-read', null, null), scopes, target('c', 'd'))).toBe(true)
    expect(allowed(token('wal-read', null, null), scopes, null)).toBe(true)
  })

  test('nobody may write everywhere', () => {
    const scopes: Scope[] = ['compute-write']
    expect(allowed(token('compute-write', 'a', 'b'), scopes, target('a', 'b'))).toBe(true)
    expect(allowed(token('compute-write', 'a', null), scopes, target('a', 'b'))).toBe(false)
    expect(allowed(token('compute-write', null, null), scopes, target('a', 'b'))).toBe(false)
  })
})

test('failures wait longer and longer, by address, and are forgotten', () => {
  const failures = new FailedLogins()
  const delays = Array.from({ length: 14 }, () => failures.failed('10.0.0.1', 1000))
  expect(delays.slice(0, 5)).toEqual([0, 0, 0, 0, 0])
  expect(delays.slice(5)).toEqual([200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000])
  expect(failures.failed('10.0.0.2', 1000)).toBe(0)
  expect(failures.failed('10.0.0.1', 1000 + 200_000)).toBe(0)
})

test('a node has a secret of its own', () => {
  const master = newSecret()
  const mine = nodeSecret(master, 'safekeeper', 1)
  expect(mine).toMatch(/^[0-9a-f]{64}$/)
  expect(secretsEqual(mine, nodeSecret(master, 'safekeeper', 1))).toBe(true)
  expect(secretsEqual(mine, nodeSecret(master, 'safekeeper', 11))).toBe(false)
  expect(secretsEqual(mine, nodeSecret(master, 'pageserver', 1))).toBe(false)
  expect(secretsEqual(mine, nodeSecret(newSecret(), 'safekeeper', 1))).toBe(false)
  expect(secretsEqual(mine, '')).toBe(false)
})

test('a service that checks nobody listens on loopback alone', () => {
  for (const host of ['127.0.0.1', '127.3.2.1', '::1', 'localhost']) {
    expect(isLoopback(host)).toBe(true)
  }
  for (const host of ['0.0.0.0', '::', '10.0.0.1', '127.example.com', 'localhost.example.com']) {
    expect(isLoopback(host)).toBe(false)
    const checks = { auth: false, insecure: false }
    expect(() => checkListenAddress('safekeeper', ['127.0.0.1', host], checks)).toThrow(host)
    checkListenAddress('safekeeper', [host], { auth: true, insecure: false })
    checkListenAddress('safekeeper', [host], { auth: false, insecure: true })
  }
})

test('TLS that is required needs its files', () => {
  expect(tlsFiles(undefined, '/data')).toBeNull()
  expect(tlsFiles({ mode: 'off', cert: 'a' }, '/data')).toBeNull()
  expect(() => tlsFiles({ mode: 'require', cert: 'a' }, '/data')).toThrow('tls.key')
  expect(tlsFiles({ mode: 'require', cert: 'a', key: '../b', ca: '/c' }, '/data/x')).toEqual({
    cert: '/data/x/a',
    key: '/data/b',
    ca: '/c',
  })
})
