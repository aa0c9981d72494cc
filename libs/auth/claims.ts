/**
 * What a token says, and whether that is enough: the whole of authorisation, without effects. Which
 * scopes may do what is in tables beside the code that does it (`safekeeper/permissions.ts`).
 */
import { ZenithError } from '../errors.ts'
import type { SessionTarget } from '../pgwire/session-target.ts'

/**
 * - `compute-write`: a compute, for one timeline: pushes WAL and reads it back.
 * - `wal-read`: reads committed WAL, of one timeline or (a pageserver) of all.
 * - `sk-peer`: another safekeeper.
 * - `sk-admin`: the control plane.
 * - `broker`: tells and hears positions of timelines, nothing else.
 */
export const SCOPES = ['compute-write', 'wal-read', 'sk-peer', 'sk-admin', 'broker'] as const
export type Scope = (typeof SCOPES)[number]

export interface Claims {
  scope: Scope
  /** Null: all tenants. */
  tenantId: string | null
  /** Null: all timelines of the tenant. Never set without a tenant. */
  timelineId: string | null
  /** Whom it was given to, for logs: `pageserver/1`, `endpoint main`. */
  subject: string
  /** Unix time after which it is not valid, in milliseconds. */
  expiresAtMs: number
}

/** A scope that is worth nothing unless the token names one timeline. */
const BOUND_TO_TIMELINE: readonly Scope[] = ['compute-write']

/**
 * Throws `forbidden` unless the token's scope is among `scopes` and it covers the target. A null
 * target means everything, which no token that names a tenant covers.
 */
export function checkPermission(
  claims: Claims,
  scopes: readonly Scope[],
  target: SessionTarget | null,
): void {
  if (!scopes.includes(claims.scope)) {
    throw new ZenithError('forbidden', `a token with scope ${claims.scope} does not allow this`, {
      hint: `It takes ${scopes.join(' or ')}.`,
    })
  }
  if (BOUND_TO_TIMELINE.includes(claims.scope) && claims.timelineId === null) {
    throw new ZenithError('forbidden', `a token with scope ${claims.scope} must name a timeline`)
  }
  if (claims.tenantId !== null && claims.tenantId !== target?.tenantId) {
    throw new ZenithError('forbidden', 'the token is for another tenant')
  }
  if (claims.timelineId !== null && claims.timelineId !== target?.timelineId) {
    throw new ZenithError('forbidden', 'the token is for another timeline')
  }
}
