/**
 * Tokens on the HTTP side of a service: checked when the headers are there, before a body is read.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Claims } from '../auth/claims.ts'
import { FailedLogins } from '../auth/failed-logins.ts'
import { ZenithError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { HttpServer } from './server.ts'

export interface GuardOptions {
  log: Logger
  /** Throws `unauthenticated` for a token that is not valid. */
  verify: (token: string) => Promise<Claims>
  /** Whether a route is for everybody; those are not looked at further. */
  isOpen: (method: string, path: string) => boolean
  /** Throws `forbidden`. The path is that of the route, with its `:places`. */
  permit: (claims: Claims, method: string, path: string, params: unknown) => void
}

/** Call before routes are added. */
export function guardRoutes(app: HttpServer, options: GuardOptions): void {
  const { log, verify, isOpen, permit } = options
  const failures = new FailedLogins()
  app.addHook('onRequest', async (request) => {
    const { method, params, ip } = request
    const path = request.routeOptions.url
    // There is nothing at that address, which everybody may know.
    if (path === undefined || isOpen(method, path)) return
    try {
      permit(await verify(bearerToken(request.headers.authorization)), method, path, params)
    } catch (error) {
      if (!(error instanceof ZenithError)) throw error
      log.info({ address: ip, method, path, code: error.code }, `refused: ${error.message}`)
      if (error.code === 'unauthenticated') await sleep(failures.failed(ip, performance.now()))
      throw error
    }
  })
}

function bearerToken(header: string | undefined): string {
  const token = /^Bearer ([A-Za-z0-9._~+/=-]+)$/i.exec(header ?? '')?.[1]
  if (token !== undefined) return token
  throw new ZenithError('unauthenticated', 'this takes a token', {
    hint: 'Send it as "Authorization: Bearer <token>"; docs/security.md says who gives them out.',
  })
}
