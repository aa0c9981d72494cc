/**
 * The one error class that crosses module and process borders. `code` is for programs, `message`
 * is a sentence for people that names the thing, `hint` says the way out.
 */
export const ERROR_HTTP_STATUS = {
  invalid_argument: 400,
  out_of_range: 400,
  /** No token, or one that is not valid (any more). */
  unauthenticated: 401,
  /** A valid token that does not cover this. */
  forbidden: 403,
  not_found: 404,
  already_exists: 409,
  conflict: 409,
  fenced: 409,
  precondition_failed: 412,
  corrupt: 500,
  internal: 500,
  unsupported: 501,
  unavailable: 503,
  timeout: 504,
} as const

export type ErrorCode = keyof typeof ERROR_HTTP_STATUS

export class ZenithError extends Error {
  readonly code: ErrorCode
  readonly hint: string | undefined

  constructor(code: ErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'ZenithError'
    this.code = code
    this.hint = options.hint
  }
}

/** An invariant of the program itself: failing it is a bug, and it stays on in production. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new ZenithError('internal', `invariant broken: ${message}`)
}

export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
