/**
 * Server side of the Postgres protocol, as far as storage services need it: start-up, TLS, a token
 * as password, simple query, COPY in both directions. Follows the message formats of the Postgres
 * manual, chapter 53.7.
 */
import { createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SecureContext } from 'node:tls'
import type { Claims } from '../auth/claims.ts'
import { FailedLogins } from '../auth/failed-logins.ts'
import { errorMessage, ZenithError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { PendingConnections } from './pending-connections.ts'
import { errorFrame, PgSession } from './session.ts'
import { readPassword, readStartup, type Startup } from './startup.ts'

/** From connecting to the end of authentication. */
const STARTUP_TIMEOUT_MS = 10_000
const MAX_PENDING = 256

export interface PgWireOptions {
  host: string
  port: number
  log: Logger
  /** Runs one connection; when it returns or throws, the connection ends. */
  onSession: (session: PgSession) => Promise<void>
  /** Largest message accepted from a client. */
  maxMessageBytes?: number
  /** The certificate for the next connection; without it TLS is refused, with it plaintext is. */
  tls?: (() => SecureContext) | undefined
  /** Asks for a token as the password, and throws when it does not take it; else everybody is let in. */
  authenticate?: ((token: string) => Promise<Claims>) | undefined
  /** Default 10 s. */
  startupTimeoutMs?: number
}

export interface PgWireServer {
  readonly port: number
  /** Stops listening and cuts the open connections. */
  close(): Promise<void>
}

interface ServerState {
  pending: PendingConnections
  failures: FailedLogins
}

/** Listens and runs `onSession` for each client that finished its start-up. */
export async function servePgWire(options: PgWireOptions): Promise<PgWireServer> {
  const sockets = new Set<Socket>()
  const state = { pending: new PendingConnections(MAX_PENDING), failures: new FailedLogins() }
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket)
    state.pending.add(socket)
    socket.on('close', () => {
      sockets.delete(socket)
      state.pending.remove(socket)
    })
    socket.on('error', () => socket.destroy())
    runConnection(socket, options, state).catch((error: unknown) => {
      options.log.warn({ err: error }, 'connection ended with an error')
      socket.destroy()
    })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(options.port, options.host, resolve)
  })
  const address = server.address()
  return {
    port: typeof address === 'object' && address ? address.port : options.port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  }
}

async function runConnection(
  raw: Socket,
  options: PgWireOptions,
  state: ServerState,
): Promise<void> {
  const timer = setTimeout(() => raw.destroy(), options.startupTimeoutMs ?? STARTUP_TIMEOUT_MS)
  let startup: Authenticated | null
  try {
    startup = await admit(raw, options, state)
  } finally {
    clearTimeout(timer)
    state.pending.remove(raw)
  }
  if (startup === null) {
    raw.destroy()
    return
  }
  const { socket, parameters, claims, rest } = startup
  const maxMessageBytes = options.maxMessageBytes ?? 4 << 20
  const session = new PgSession(socket, parameters, maxMessageBytes, claims)
  session.begin()
  if (rest.length > 0) session.feed(rest)
  try {
    await options.onSession(session)
  } catch (error) {
    if (!(error instanceof ZenithError)) options.log.error({ err: error }, 'session failed')
    else options.log.warn({ code: error.code }, errorMessage(error))
    if (!socket.destroyed) session.sendError(error)
  }
  socket.end()
}

interface Authenticated extends Startup {
  claims: Claims | null
}

/** Brings a connection to where a session may begin; null when it is not to be let in. */
async function admit(
  raw: Socket,
  options: PgWireOptions,
  { failures }: ServerState,
): Promise<Authenticated | null> {
  const address = raw.remoteAddress ?? ''
  let socket = raw
  try {
    const startup = await readStartup(raw, options.tls?.() ?? null)
    if (startup === null) return null
    socket = startup.socket
    if (options.authenticate === undefined) return { ...startup, claims: null }
    const answer = await readPassword(socket, startup.rest)
    if (answer === null) return null
    const claims = await options.authenticate(answer.password)
    return { ...startup, rest: answer.rest, claims }
  } catch (error) {
    if (!(error instanceof ZenithError)) throw error
    if (error.code === 'unauthenticated') await sleep(failures.failed(address, performance.now()))
    options.log.info({ address, code: error.code }, `connection refused: ${error.message}`)
    if (socket.destroyed) return null
    socket.end(errorFrame(error, 'FATAL'))
    // What else it sends is of no interest, but unread bytes would turn the end into a reset.
    socket.resume()
    await new Promise<void>((resolve) => socket.once('close', () => resolve()))
    return null
  }
}
