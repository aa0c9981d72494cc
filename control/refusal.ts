/** What an error says about asking again. */
import { type ErrorCode, ZenithError } from '#libs/errors.ts'

/** A service that is down, that starts, that has just lost the tenant to another one, or has a bug. */
const MAY_PASS: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'unavailable',
  'timeout',
  'internal',
  'not_found',
  'fenced',
])

/**
 * True when a service has refused what it was asked, and would again. False for all else: whoever has
 * stored an intent asks again later.
 */
export function isRefusal(error: unknown): boolean {
  return error instanceof ZenithError && !MAY_PASS.has(error.code)
}
