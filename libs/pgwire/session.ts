/**
 * One connection on the server side. It is either in query mode (`nextQuery`, rows, errors) or in
 * a copy mode, where each CopyData payload goes to a callback at once, with no promise per message.
 */
import type { Socket } from 'node:net'
import type { Claims } from '../auth/claims.ts'
import { errorMessage, type ErrorCode, ZenithError } from '../errors.ts'
import { socketDrained, writeCopyData } from './copy-data.ts'
import { FrameReader } from './frame-reader.ts'
import { message, TAG } from './messages.ts'

export interface Column {
  name: string
  /** Type oid; 25 (text) when absent. */
  oid?: number
}

/** Clients of ours send one at a time. */
const MAX_WAITING_QUERIES = 4

const SQLSTATE: Record<ErrorCode, string> = {
  invalid_argument: '22023',
  out_of_range: '22003',
  unauthenticated: '28P01',
  forbidden: '42501',
  not_found: '42704',
  already_exists: '42710',
  conflict: '55000',
  fenced: '57P01',
  precondition_failed: '55000',
  corrupt: 'XX001',
  internal: 'XX000',
  unsupported: '0A000',
  unavailable: '08006',
  timeout: '57014',
}

/** SQLSTATE under which an error is shown to a Postgres client. */
export function sqlStateOf(error: unknown): string {
  return error instanceof ZenithError ? SQLSTATE[error.code] : 'XX000'
}

/** An ErrorResponse with our sentence, its hint and a SQLSTATE. */
export function errorFrame(error: unknown, severity: 'ERROR' | 'FATAL'): Buffer {
  const code = sqlStateOf(error)
  const fields = [`S${severity}`, `V${severity}`, `C${code}`, `M${errorMessage(error)}`]
  if (error instanceof ZenithError && error.hint !== undefined) fields.push(`H${error.hint}`)
  return message(TAG.error, Buffer.from(`${fields.join('\0')}\0\0`))
}

export class PgSession {
  readonly startup: ReadonlyMap<string, string>
  readonly socket: Socket
  /** What the client's token says; null where nobody is asked for one. */
  readonly claims: Claims | null
  /** Resolves when the connection is gone. */
  readonly closed: Promise<void>
  readonly #reader: FrameReader
  readonly #queries: string[] = []
  #waiter: ((query: string | null) => void) | null = null
  #copy: { onFrame: (payload: Buffer) => void; onEnd: (reason: 'done' | 'closed') => void } | null =
    null
  #ended = false

  constructor(
    socket: Socket,
    startup: ReadonlyMap<string, string>,
    maxMessageBytes: number,
    claims: Claims | null = null,
  ) {
    this.socket = socket
    this.startup = startup
    this.claims = claims
    this.#reader = new FrameReader(maxMessageBytes, (tag, body) => this.#onMessage(tag, body))
    this.closed = new Promise((resolve) => socket.once('close', () => resolve()))
    socket.on('data', (chunk) => this.feed(chunk as Buffer))
    socket.once('end', () => this.#end())
    socket.once('close', () => this.#end())
  }

  /** Sends AuthenticationOk, the parameters that clients insist on, and ReadyForQuery. */
  begin(): void {
    const out: Buffer[] = [message(TAG.authentication, Buffer.from([0, 0, 0, 0]))]
    const parameters = {
      server_version: '17.11',
      server_encoding: 'UTF8',
      client_encoding: 'UTF8',
      DateStyle: 'ISO, MDY',
      integer_datetimes: 'on',
      standard_conforming_strings: 'on',
      in_hot_standby: 'off',
      default_transaction_read_only: 'off',
    }
    for (const [name, value] of Object.entries(parameters)) {
      out.push(message(TAG.parameterStatus, Buffer.from(`${name}\0${value}\0`)))
    }
    const key = Buffer.alloc(8)
    key.writeUInt32BE(process.pid, 0)
    out.push(message(TAG.backendKeyData, key))
    this.socket.write(Buffer.concat(out))
    this.sendReadyForQuery()
    this.socket.resume()
  }

  /** Feeds bytes that arrived; a protocol violation ends the connection with an error message. */
  feed(chunk: Buffer): void {
    try {
      this.#reader.push(chunk)
    } catch (error) {
      this.sendError(error)
      this.socket.destroySoon()
      this.#end()
    }
  }

  /** The next simple query, or null when the client has gone. */
  nextQuery(): Promise<string | null> {
    const query = this.#queries.shift()
    if (query !== undefined) return Promise.resolve(query)
    if (this.#ended) return Promise.resolve(null)
    return new Promise((resolve) => {
      this.#waiter = resolve
    })
  }

  sendRowDescription(columns: readonly Column[]): void {
    const parts: Buffer[] = [uint16(columns.length)]
    for (const column of columns) {
      const fixed = Buffer.alloc(18)
      fixed.writeUInt32BE(column.oid ?? 25, 6)
      fixed.writeInt16BE(-1, 10)
      fixed.writeInt32BE(-1, 12)
      parts.push(Buffer.from(`${column.name}\0`), fixed)
    }
    this.socket.write(message(TAG.rowDescription, ...parts))
  }

  sendDataRow(values: readonly (string | null)[]): void {
    const parts: Buffer[] = [uint16(values.length)]
    for (const value of values) {
      const length = Buffer.alloc(4)
      const bytes = value === null ? null : Buffer.from(value)
      length.writeInt32BE(bytes ? bytes.length : -1)
      parts.push(length)
      if (bytes) parts.push(bytes)
    }
    this.socket.write(message(TAG.dataRow, ...parts))
  }

  sendCommandComplete(tag: string): void {
    this.socket.write(message(TAG.commandComplete, Buffer.from(`${tag}\0`)))
  }

  sendReadyForQuery(): void {
    this.socket.write(message(TAG.readyForQuery, Buffer.from('I')))
  }

  /** Sends an ErrorResponse with our sentence, its hint and a SQLSTATE; the session may go on. */
  sendError(error: unknown): void {
    if (!this.socket.destroyed) this.socket.write(errorFrame(error, 'ERROR'))
  }

  /**
   * Enters CopyBoth: every CopyData payload goes to `onFrame` synchronously (the buffer is valid only
   * during the call); `onEnd` tells once whether the client finished (CopyDone) or went away.
   */
  startCopyBoth(
    onFrame: (payload: Buffer) => void,
    onEnd: (reason: 'done' | 'closed') => void,
  ): void {
    this.socket.write(message(TAG.copyBoth, Buffer.from([0, 0, 0])))
    if (this.#ended) onEnd('closed')
    else this.#copy = { onFrame, onEnd }
  }

  startCopyOut(): void {
    this.socket.write(message(TAG.copyOut, Buffer.from([0, 0, 0])))
  }

  /** Sends one CopyData made of the parts; false when the socket's buffer is full (see `drained`). */
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

  #onMessage(tag: number, body: Buffer): void {
    if (tag === TAG.copyData) {
      this.#copy?.onFrame(body)
    } else if (tag === TAG.copyDone || tag === TAG.copyFail) {
      const copy = this.#copy
      this.#copy = null
      copy?.onEnd('done')
    } else if (tag === TAG.query) {
      const end = body.indexOf(0)
      const text = body.toString('utf8', 0, end < 0 ? body.length : end)
      const waiter = this.#waiter
      this.#waiter = null
      if (waiter) waiter(text)
      else if (this.#queries.length < MAX_WAITING_QUERIES) this.#queries.push(text)
      else throw new ZenithError('invalid_argument', 'too many queries before the first is done')
    } else if (tag === TAG.terminate) {
      this.#end()
    } else {
      throw new ZenithError(
        'unsupported',
        `message "${String.fromCharCode(tag)}" is not served here; use simple queries`,
      )
    }
  }

  #end(): void {
    if (this.#ended) return
    this.#ended = true
    const copy = this.#copy
    this.#copy = null
    copy?.onEnd('closed')
    this.#waiter?.(null)
    this.#waiter = null
  }
}

function uint16(value: number): Buffer {
  const buffer = Buffer.alloc(2)
  buffer.writeUInt16BE(value)
  return buffer
}
