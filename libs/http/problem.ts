/** Errors over HTTP: problem documents (RFC 9457) that carry our error code and hint. */
import { ERROR_HTTP_STATUS, type ErrorCode, ZenithError } from '../errors.ts'

export interface Problem {
  status: number
  title: string
  detail: string
  code: string
  hint?: string
}

export function problemOf(error: ZenithError): Problem {
  return {
    status: ERROR_HTTP_STATUS[error.code],
    title: error.code,
    detail: error.message,
    code: error.code,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  }
}

export function errorOf(problem: Partial<Problem>, status: number): ZenithError {
  const known = problem.code !== undefined && problem.code in ERROR_HTTP_STATUS
  const code = known ? (problem.code as ErrorCode) : status >= 500 ? 'internal' : 'invalid_argument'
  const detail = problem.detail ?? `the server answered ${status}`
  return new ZenithError(code, detail, problem.hint === undefined ? {} : { hint: problem.hint })
}
