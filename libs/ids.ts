/**
 * Tenant and timeline ids: 16 random bytes, written as 32 lower-case hex digits. Path components
 * and SQL-like commands are built from parsed ids only, so no text from outside reaches a path.
 */
import { randomBytes } from 'node:crypto'
import { ZenithError } from './errors.ts'

export type TenantId = string & { readonly brand: 'TenantId' }
export type TimelineId = string & { readonly brand: 'TimelineId' }

const ID_TEXT = /^[0-9a-f]{32}$/

export function newTenantId(): TenantId {
  return randomBytes(16).toString('hex') as TenantId
}

export function newTimelineId(): TimelineId {
  return randomBytes(16).toString('hex') as TimelineId
}

export function parseTenantId(text: string): TenantId {
  if (!ID_TEXT.test(text)) {
    throw new ZenithError('invalid_argument', `"${text}" is not a tenant id (32 hex digits).`, {
      hint: 'zenith tenant list shows the tenants there are.',
    })
  }
  return text as TenantId
}

export function parseTimelineId(text: string): TimelineId {
  if (!ID_TEXT.test(text)) {
    throw new ZenithError('invalid_argument', `"${text}" is not a timeline id (32 hex digits)`)
  }
  return text as TimelineId
}
