/** JSON over HTTP between our processes; a problem document becomes the error it stands for. */
import { errorMessage, ZenithError } from '../errors.ts'
import { errorOf, type Problem } from './problem.ts'

export interface RequestOptions {
  timeoutMs?: number
}

/**
 * Sends a request and returns the decoded answer (undefined for an empty one). Throws the server's
 * ZenithError, `timeout` after `timeoutMs` (default 30 s), or `unavailable` when nobody answers.
 */
export async function requestJson<T>(
  method: 'GET' | 'PUT' | 'POST' | 'DELETE' | 'PATCH',
  url: string,
  body?: unknown,
  options: RequestOptions = {},
): Promise<T> {
  const timeoutMs = options.timeoutMs ?? 30_000
  let response: Response
  let text: string
  try {
    response = await fetch(url, {
      method,
      signal: AbortSignal.timeout(timeoutMs),
      ...(body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    text = await response.text()
  } catch (error) {
    if (error instanceof Error && error.name === 'TimeoutError') {
      throw new ZenithError('timeout', `${method} ${url} took longer than ${timeoutMs} ms`)
    }
    const reason = error instanceof Error && error.cause ? error.cause : error
    throw new ZenithError('unavailable', `no answer from ${url}: ${errorMessage(reason)}`, {
      cause: error,
    })
  }
  const json: unknown = text === '' ? undefined : parseJson(text)
  if (!response.ok) throw errorOf((json ?? {}) as Partial<Problem>, response.status)
  return json as T
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
