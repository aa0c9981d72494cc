/**
 * A small Postgres-protocol client for links between our processes and to a local walsender: simple
 * queries and COPY in both directions, a token as password, TLS. Client applications use `pg`; this one
 * exists because CopyBoth payloads must reach the WAL path without a promise or an object each.
 */
import { connect, type Socket } from 'node:net'
import type { ClientTls } from '../auth/credentials.ts'
import { type ErrorCode, ZenithError } from '../errors.ts'
import { encryptSocket } from './client-tls.ts'
import { socketDrained, writeCopyData } from './copy-data.ts'
import { FrameReader } from './frame-reader.ts'
import { message, TAG } from './messages.ts'
import { answerPassword, type PasswordExchange } from './password-exchange.ts'
import type { StockTls } from './stock-tls.ts'

export interface ConnectOptions {
  host?: string
  port: number
  /** Folder of a Unix socket, instead of `host`. */
  socketDir?: string
  user?: string
  database?: string
  options?: string
  applicationName?: string
  /** Physical replication connection (walsender). */
  replication?: boolean
  connectTimeoutMs?: number
  /** Given as the password when the server asks for one. */
  token?: string | null
  /** For a stock server that asks for a password, in whichever way. */
  password?: string | null
  /** TLS as a stock server's clients choose it, instead of `tls`. */
  stockTls?: StockTls | null
  /** Connect by TLS alone, and believe a server only that these certificates vouch for. */
  tls?: ClientTls | null
}

export interface QueryResult {
  columns: string[]
  rows: (string | null)[][]
}

const MAX_MESSAGE_BYTES = 64 << 20
/** What one read takes from a socket at most. */
const READ_BYTES = 64 * 1024
const COPY_WAITING_BYTES = 8 * 1024 * 1024
const AUTHENTICATION_OK = 0
const AUTHENTICATION_CLEARTEXT = 3

/** Connects and finishes start-up. Throws `unavailable` when refused, or the server's error. */
export async function connectPgWire(options: ConnectOptions): Promise<PgClient> {
  const where = options.socketDir
    ? `${options.socketDir}/.s.PGSQL.${options.port}`
    : `${options.host ?? '127.0.0.1'}:${options.port}`
  const tls = options.tls ?? null
  const stockTls = options.stockTls?.mode === 'disable' ? null : (options.stockTls ?? null)
  const input = tls === null && stockTls === null ? new ReusedInput() : null
  const reading = input === null ? {} : { onread: input.onread }
  const socket = options.socketDir
    ? connect({ path: where, ...reading })
    : connect({
        host: options.host ?? '127.0.0.1',
        port: options.port,
        noDelay: true,
        ...reading,
      })
  const timeoutMs = options.connectTimeoutMs ?? 10_000
  let give: (error: Error) => void = (error) => socket.destroy(error)
  const timer = setTimeout(() => {
    give(new ZenithError('timeout', `no connection to ${where} within ${timeoutMs} ms`))
  }, timeoutMs)
  try {
    const encrypted = await encrypt(socket, options.host ?? '127.0.0.1', tls, stockTls)
    const client = new PgClient(encrypted, where, input)
    give = (error) => client.fail(error)
    await client.start(options)
    return client
  } catch (error) {
    socket.destroy()
    throw error
  } finally {
    clearTimeout(timer)
  }
}

async function encrypt(
  socket: Socket,
  host: string,
  tls: ClientTls | null,
  stockTls: StockTls | null,
): Promise<Socket> {
  if (tls !== null) return encryptSocket(socket, host, tls)
  if (stockTls === null) return socket
  // Loaded when first used: only imports speak to stock servers.
  const { encryptForStock } = await import('./stock-tls.ts')
  return encryptForStock(socket, host, stockTls)
}

/**
 * One buffer for all reads of a plain connection. A stream makes a new one of 64 KB for each read, and
 * most reads here are short: the garbage collector would be busy with that.
 */
class ReusedInput {
  onChunk: (chunk: Buffer) => void = () => {}
  readonly onread = {
    buffer: Buffer.allocUnsafeSlow(READ_BYTES),
    callback: (length: number, buffer: Uint8Array): boolean => {
      this.onChunk((buffer as Buffer).subarray(0, length))
      return true
    },
  }
}

type State =
  | { kind: 'idle' }
  | { kind: 'query'; result: QueryResult; resolve: (result: QueryResult) => void }
  | { kind: 'entering'; resolve: () => void }
  | { kind: 'copy'; both: boolean }

export class PgClient {
  readonly socket: Socket
  readonly #where: string
  readonly #reader: FrameReader
  #state: State = { kind: 'idle' }
  #reject: ((error: Error) => void) | null = null
  #onCopyData: (payload: Buffer) => void = () => {}
  #onCopyEnd: (error?: Error) => void = () => {}
  #serverError: Error | null = null
  /** Not kept longer than until the server has let us in. */
  #token: string | null = null
  #exchange: PasswordExchange | null = null
  #failure: Error | null = null

  /** Without an input the bytes come as the socket's data events. */
  constructor(socket: Socket, where: string, input: ReusedInput | null) {
    this.socket = socket
    this.#where = where
    this.#reader = new FrameReader(MAX_MESSAGE_BYTES, (tag, body) => this.#onMessage(tag, body))
    const onChunk = (chunk: Buffer) => {
      try {
        this.#reader.push(chunk)
      } catch (error) {
        this.fail(error as Error)
      }
    }
    if (input === null) socket.on('data', onChunk)
    else input.onChunk = onChunk
    socket.on('error', (error) =>
      this.fail(new ZenithError('unavailable', `connection to ${where}: ${error.message}`)),
    )
    socket.on('close', () =>
      this.fail(new ZenithError('unavailable', `connection to ${where} was closed`)),
    )
  }

  /** Sends the start-up packet and waits for ReadyForQuery. */
  async start(options: ConnectOptions): Promise<void> {
    const parameters: Record<string, string | undefined> = {
      user: options.user ?? 'zenith_admin',
      database: options.database,
      application_name: options.applicationName,
      options: options.options,
      replication: options.replication ? 'true' : undefined,
    }
    let text = ''
    for (const [name, value] of Object.entries(parameters)) {
      if (value !== undefined) text += `${name}\0${value}\0`
    }
    const body = Buffer.from(`${text}\0`)
    const header = Buffer.alloc(8)
    header.writeUInt32BE(body.length + 8, 0)
    header.writeUInt32BE(196608, 4)
    this.#token = options.token ?? null
    const user = options.user ?? 'zenith_admin'
    this.#exchange =
      options.password === undefined ? null : { user, password: options.password, scram: null }
    this.socket.write(Buffer.concat([header, body]))
    await this.#expectResult()
  }

  /** Runs a simple query. Only one at a time. Throws the server's error. */
  query(sql: string): Promise<QueryResult> {
    this.#send(sql)
    return this.#expectResult()
  }

  /**
   * Sends a command that answers with CopyBoth (or CopyOut) and resolves once that began. Payloads go
   * to `onFrame` synchronously (valid during the call only); `onEnd` is called once, with an error when
   * the stream broke.
   */
  async startCopyBoth(
    sql: string,
    onFrame: (payload: Buffer) => void,
    onEnd: (error?: Error) => void,
  ): Promise<void> {
    this.#onCopyData = onFrame
    this.#onCopyEnd = onEnd
    this.#send(sql)
    await new Promise<void>((resolve, reject) => {
      this.#state = { kind: 'entering', resolve }
      this.#reject = reject
      if (this.#failure) this.fail(this.#failure)
    })
  }

  /**
   * Runs a command that answers with CopyOut and yields its payloads. The server has to wait while
   * more than so many bytes have not been taken.
   */
  async *copyOut(sql: string, waitingBytes = COPY_WAITING_BYTES): AsyncGenerator<Buffer> {
    const queue: Buffer[] = []
    let queuedBytes = 0
    let ended: { error?: Error } | null = null
    let wake = () => {}
    await this.startCopyBoth(
      sql,
      (payload) => {
        queue.push(Buffer.from(payload))
        queuedBytes += payload.length
        if (queuedBytes > waitingBytes) this.pause()
        wake()
      },
      (error) => {
        ended = error ? { error } : {}
        wake()
      },
    )
    while (true) {
      const next = queue.shift()
      if (next) {
        queuedBytes -= next.length
        if (queuedBytes < waitingBytes / 8) this.resume()
        yield next
        continue
      }
      const end = ended as { error?: Error } | null
      if (end) {
        if (end.error) throw end.error
        return
      }
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }

  /** Sends one CopyData made of the parts; false when the socket's buffer is full. */
  sendCopyData(...parts: Buffer[]): boolean {
    return writeCopyData(this.socket, parts)
  }

  sendCopyDone(): void {
    this.socket.write(message(TAG.copyDone))
  }

  /** Resolves when the socket takes more, or is gone. */
  drained(): Promise<void> {
    return socketDrained(this.socket)
  }

  pause(): void {
    this.socket.pause()
  }

  resume(): void {
    this.socket.resume()
  }

  /** Ends the connection politely. */
  async close(): Promise<void> {
    if (this.socket.destroyed) return
    const gone = new Promise<void>((resolve) => this.socket.once('close', () => resolve()))
    this.#failure ??= new ZenithError('unavailable', `connection to ${this.#where} was closed`)
    this.socket.end(message(TAG.terminate))
    this.socket.resume()
    await gone
  }

  destroy(): void {
    this.socket.destroy()
  }

  /** Ends the connection with an error that every waiting caller sees. */
  fail(error: Error): void {
    this.#failure ??= error
    this.socket.destroy()
    const state = this.#state
    const reject = this.#reject
    this.#state = { kind: 'idle' }
    this.#reject = null
    reject?.(this.#serverError ?? error)
    if (state.kind === 'copy') this.#onCopyEnd(this.#serverError ?? error)
  }

  #send(sql: string): void {
    if (this.#failure) throw this.#failure
    if (this.#state.kind !== 'idle') {
      throw new ZenithError('internal', `${this.#where}: a command is already running`)
    }
    this.socket.write(message(TAG.query, Buffer.from(`${sql}\0`)))
  }

  #expectResult(): Promise<QueryResult> {
    return new Promise((resolve, reject) => {
      this.#state = { kind: 'query', result: { columns: [], rows: [] }, resolve }
      this.#reject = reject
      if (this.#failure) this.fail(this.#failure)
    })
  }

  #onMessage(tag: number, body: Buffer): void {
    const state = this.#state
    if (tag === TAG.copyData) {
      if (state.kind === 'copy') this.#onCopyData(body)
    } else if (tag === TAG.copyBoth || tag === TAG.copyOut || tag === TAG.copyIn) {
      if (state.kind !== 'entering') {
        this.fail(new ZenithError('internal', `${this.#where}: unexpected COPY`))
        return
      }
      this.#state = { kind: 'copy', both: tag === TAG.copyBoth }
      this.#reject = null
      state.resolve()
    } else if (tag === TAG.copyDone) {
      // A walsender that ended its stream waits for our CopyDone before it completes the command.
      if (state.kind === 'copy' && state.both) this.sendCopyDone()
    } else if (tag === TAG.error) {
      this.#serverError = parseError(body)
    } else if (tag === TAG.rowDescription) {
      if (state.kind === 'query') state.result.columns = parseColumns(body)
    } else if (tag === TAG.dataRow) {
      if (state.kind === 'query') state.result.rows.push(parseRow(body))
    } else if (tag === TAG.authentication) {
      this.#onAuthentication(body.length < 4 ? -1 : body.readUInt32BE(0), body)
    } else if (tag === TAG.readyForQuery) {
      this.#onReady(state)
    }
  }

  #onAuthentication(code: number, body: Buffer): void {
    if (this.#exchange !== null) {
      this.#onStockAuthentication(this.#exchange, code, body.subarray(4))
      return
    }
    const token = this.#token
    this.#token = null
    if (code === AUTHENTICATION_OK) return
    if (code === AUTHENTICATION_CLEARTEXT && token !== null) {
      this.socket.write(message(TAG.password, Buffer.from(`${token}\0`)))
    } else {
      this.fail(
        new ZenithError('unauthenticated', `${this.#where} asks for a password`, {
          hint: 'Safekeepers with auth want a token there.',
        }),
      )
    }
  }

  #onStockAuthentication(exchange: PasswordExchange, code: number, data: Buffer): void {
    try {
      const answer = answerPassword(exchange, code, data)
      if (answer !== null) this.socket.write(message(TAG.password, answer))
      if (code === AUTHENTICATION_OK) this.#exchange = null
    } catch (error) {
      this.fail(error as Error)
    }
  }

  #onReady(state: State): void {
    const error = this.#serverError
    const reject = this.#reject
    this.#serverError = null
    this.#reject = null
    this.#state = { kind: 'idle' }
    if (state.kind === 'copy') this.#onCopyEnd(error ?? undefined)
    else if (error) reject?.(error)
    else if (state.kind === 'query') state.resolve(state.result)
    else if (state.kind === 'entering') {
      reject?.(new ZenithError('internal', `${this.#where}: the command did not start a COPY`))
    }
  }
}

/** What trying again does not help against. */
const CODE_OF_STATE: Readonly<Record<string, ErrorCode>> = {
  '28P01': 'unauthenticated',
  '42501': 'forbidden',
}

function parseError(body: Buffer): ZenithError {
  const fields = new Map<string, string>()
  for (const field of body.toString('utf8').split('\0')) {
    if (field !== '') fields.set(field[0] as string, field.slice(1))
  }
  const hint = fields.get('H')
  const text = fields.get('M') ?? 'the server sent an error without a message'
  const state = fields.get('C') ?? 'XX000'
  return new ZenithError(CODE_OF_STATE[state] ?? 'unavailable', `${text} (SQLSTATE ${state})`, {
    ...(hint === undefined ? {} : { hint }),
  })
}

function parseColumns(body: Buffer): string[] {
  const columns: string[] = []
  let offset = 2
  for (let index = body.readUInt16BE(0); index > 0; index--) {
    const end = body.indexOf(0, offset)
    columns.push(body.toString('utf8', offset, end))
    offset = end + 19
  }
  return columns
}

function parseRow(body: Buffer): (string | null)[] {
  const row: (string | null)[] = []
  let offset = 2
  for (let index = body.readUInt16BE(0); index > 0; index--) {
    const length = body.readInt32BE(offset)
    offset += 4
    row.push(length < 0 ? null : body.toString('utf8', offset, offset + length))
    offset += Math.max(length, 0)
  }
  return row
}
