/** JSON over HTTP between our processes; a problem document becomes the error it stands for. */
import type { ClientTls } from '../auth/credentials.ts'
import { errorMessage, ZenithError } from '../errors.ts'
import { errorOf, type Problem } from './problem.ts'

// An import would evaluate all exports of the module, fetch and WebSocket among them: 30 ms.
const { request } = process.getBuiltinModule('node:http')

export interface RequestOptions {
  timeoutMs?: number
  /** Sent as a bearer token. */
  token?: string | null
  /** For an `https:` address: believe a server only that these certificates vouch for. */
  tls?: ClientTls | null
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
  const { status, text } = await requestText(method, url, body, options)
  const json: unknown = text === '' ? undefined : parseJson(text)
  if (status >= 400) throw errorOf((json ?? {}) as Partial<Problem>, status)
  return json as T
}

/**
 * One request on a connection of its own, whatever the answer. Throws `timeout` or `unavailable`. By `node:http` and not `fetch`, which takes longer to load
 * than a short-lived process needs for everything else; a kept connection that the server is just
 * closing would make a request fail for no reason.
 */
export function requestText(
  method: string,
  url: string,
  body?: unknown,
  { timeoutMs = 30_000, token = null, tls = null }: RequestOptions = {},
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const payload = body === undefined ? undefined : JSON.stringify(body)
    const headers = {
      ...(payload === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }),
      ...(token === null ? {} : { authorization: `Bearer ${token}` }),
    }
    const call =
      tls === null
        ? request(url, { method, headers, agent: false })
        : process
            .getBuiltinModule('node:https')
            .request(url, { method, headers, agent: false, ca: tls.ca, minVersion: 'TLSv1.3' })
    const timer = setTimeout(() => {
      call.destroy(new ZenithError('timeout', `${method} ${url} took longer than ${timeoutMs} ms`))
    }, timeoutMs)
    const fail = (error: Error) => {
      clearTimeout(timer)
      reject(
        error instanceof ZenithError
          ? error
          : new ZenithError('unavailable', `no answer from ${url}: ${errorMessage(error)}`, {
              cause: error,
            }),
      )
    }
    call.on('error', fail)
    call.on('response', (response) => {
      const parts: Buffer[] = []
      response.on('data', (part: Buffer) => parts.push(part))
      response.on('error', fail)
      response.on('end', () => {
        clearTimeout(timer)
        resolve({ status: response.statusCode ?? 500, text: Buffer.concat(parts).toString() })
      })
    })
    call.end(payload)
  })
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
