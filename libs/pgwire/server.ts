/**
 * Server side of the Postgres protocol, as far as storage services need it: start-up, simple query,
 * COPY in both directions. Follows the message formats of the Postgres manual, chapter 53.7.
 */
import { createServer, type Socket } from 'node:net'
import { errorMessage, ZenithError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { PgSession } from './session.ts'

const SSL_REQUEST = 80877103
const GSS_REQUEST = 80877104
const CANCEL_REQUEST = 80877102
const PROTOCOL_3 = 196608
const MAX_STARTUP_BYTES = 10_000
const STARTUP_TIMEOUT_MS = 10_000

export interface PgWireOptions {
  host: string
  port: number
  log: Logger
  /** Runs one connection; when it returns or throws, the connection ends. */
  onSession: (session: PgSession) => Promise<void>
  /** Largest message accepted from a client. */
  maxMessageBytes?: number
}

export interface PgWireServer {
  readonly port: number
  /** Stops listening and cuts the open connections. */
  close(): Promise<void>
}

/** Listens and runs `onSession` for each client that finished its start-up. */
export async function servePgWire(options: PgWireOptions): Promise<PgWireServer> {
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => socket.destroy())
    runConnection(socket, options).catch((error: unknown) => {
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

async function runConnection(socket: Socket, options: PgWireOptions): Promise<void> {
  const startup = await readStartup(socket)
  if (startup === null) {
    socket.destroy()
    return
  }
  const session = new PgSession(socket, startup.parameters, options.maxMessageBytes ?? 4 << 20)
  session.begin()
  if (startup.rest.length > 0) session.feed(startup.rest)
  try {
    await options.onSession(session)
  } catch (error) {
    if (!(error instanceof ZenithError)) options.log.error({ err: error }, 'session failed')
    else options.log.warn({ code: error.code }, errorMessage(error))
    if (!socket.destroyed) session.sendError(error)
  }
  socket.end()
}

interface Startup {
  parameters: Map<string, string>
  rest: Buffer
}

/** Answers encryption requests with a refusal and reads the start-up packet; null = no session. */
function readStartup(socket: Socket): Promise<Startup | null> {
  return new Promise((resolve, reject) => {
    let pending: Buffer = Buffer.alloc(0)
    const timer = setTimeout(() => finish(null), STARTUP_TIMEOUT_MS)
    const finish = (result: Startup | null, error?: Error) => {
      clearTimeout(timer)
      socket.off('data', onData)
      socket.off('close', onClose)
      socket.pause()
      if (error) reject(error)
      else resolve(result)
    }
    const onClose = () => finish(null)
    const onData = (chunk: Buffer) => {
      pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk])
      while (pending.length >= 8) {
        const length = pending.readUInt32BE(0)
        if (length < 8 || length > MAX_STARTUP_BYTES) {
          finish(null, new ZenithError('invalid_argument', `start-up packet of ${length} bytes`))
          return
        }
        if (pending.length < length) return
        const code = pending.readUInt32BE(4)
        const body = pending.subarray(8, length)
        pending = pending.subarray(length)
        if (code === SSL_REQUEST || code === GSS_REQUEST) {
          socket.write('N')
        } else if (code === CANCEL_REQUEST) {
          finish(null)
          return
        } else if (code >>> 16 === PROTOCOL_3 >>> 16) {
          finish({ parameters: parseParameters(body), rest: pending })
          return
        } else {
          finish(null, new ZenithError('unsupported', `protocol version ${code >>> 16} is not 3`))
          return
        }
      }
    }
    socket.on('data', onData)
    socket.on('close', onClose)
  })
}

function parseParameters(body: Buffer): Map<string, string> {
  const words = body.toString('utf8').split('\0')
  const parameters = new Map<string, string>()
  for (let index = 0; index + 1 < words.length && words[index] !== ''; index += 2) {
    parameters.set(words[index] as string, words[index + 1] as string)
  }
  return parameters
}
