/**
 * What Zenith needs of etcd (3.4 or later), by its JSON gateway: HTTP on the usual client port, bytes
 * in base64, 64-bit numbers as decimal texts. Endpoints are tried in turn.
 */
import { type Static, Type } from 'typebox'
import { errorMessage, ZenithError } from '../errors.ts'
import { type OpenStream, openStream } from '../http/stream.ts'

export const EtcdSettings = Type.Object(
  {
    kind: Type.Literal('etcd'),
    /** `http://host:2379` of one or more members. */
    endpoints: Type.Array(Type.String({ pattern: '^https?://' }), { minItems: 1, maxItems: 16 }),
    /** Where our keys begin; default `/zenith/`. Two installations in one etcd need two. */
    prefix: Type.Optional(Type.String({ pattern: '^/[!-~]*/$' })),
  },
  { additionalProperties: false },
)
export type EtcdSettings = Static<typeof EtcdSettings>

export const DEFAULT_ETCD_PREFIX = '/zenith/'
const DEFAULT_TIMEOUT_MS = 3_000

export interface EtcdKeyValue {
  /** base64 */
  key: string
  /** base64; absent when empty */
  value?: string
  mod_revision: string
  version: string
}

export interface EtcdHeader {
  revision: string
}

export interface RangeAnswer {
  header: EtcdHeader
  kvs?: EtcdKeyValue[]
  more?: boolean
}

export type EtcdOperation =
  | { request_put: { key: string; value: string; lease?: string } }
  | { request_delete_range: { key: string } }
  | { request_range: { key: string; range_end?: string } }

export interface EtcdCompare {
  key: string
  target: 'VERSION' | 'MOD' | 'CREATE'
  result: 'EQUAL'
  version?: string
  mod_revision?: string
}

export interface TxnAnswer {
  header: EtcdHeader
  /** Absent when false. */
  succeeded?: boolean
  responses?: { response_range?: RangeAnswer }[]
}

export interface WatchEvent {
  /** Absent for PUT, the default of the protocol. */
  type?: 'PUT' | 'DELETE'
  kv: EtcdKeyValue
}

export interface WatchAnswer {
  header: EtcdHeader
  created?: boolean
  canceled?: boolean
  compact_revision?: string
  cancel_reason?: string
  events?: WatchEvent[]
}

/** etcd may or may not have done what was asked: the answer was lost. */
export class AmbiguousAnswer extends ZenithError {
  constructor(message: string) {
    super('unavailable', message)
  }
}

export class EtcdClient {
  readonly #endpoints: readonly string[]
  #current = 0

  constructor(endpoints: readonly string[]) {
    this.#endpoints = endpoints
  }

  /** The endpoint that worked last. */
  get endpoint(): string {
    return this.#endpoints[this.#current] as string
  }

  /**
   * Asks one endpoint after the other. With `once` only while it is certain that none has done
   * anything, since a change must not be made twice. Throws `AmbiguousAnswer` when etcd may have done
   * it, `unavailable` when it has not, `internal` for what etcd refuses.
   */
  async call<T>(path: string, body: unknown, options: EtcdCallOptions = {}): Promise<T> {
    let failure: ZenithError | null = null
    for (let tried = 0; tried < this.#endpoints.length; tried += 1) {
      try {
        return await this.#callOne<T>(path, body, options.timeoutMs ?? DEFAULT_TIMEOUT_MS)
      } catch (error) {
        if (!(error instanceof ZenithError) || error.code !== 'unavailable') throw error
        failure = error
        this.useNext()
        if (options.once && error instanceof AmbiguousAnswer) throw error
      }
    }
    throw failure ?? new ZenithError('unavailable', 'no etcd endpoint is configured')
  }

  /** The endpoint in use does not work: the next call goes to another. */
  useNext(): void {
    this.#current = (this.#current + 1) % this.#endpoints.length
  }

  range(key: string, rangeEnd?: string): Promise<RangeAnswer> {
    const end = rangeEnd === undefined ? {} : { range_end: encode(rangeEnd) }
    return this.call('/v3/kv/range', { key: encode(key), ...end })
  }

  /**
   * Watches all keys that begin with `prefix`, from a revision on. `onAnswer` gets each message of
   * etcd; throwing in it ends the watch.
   */
  watchPrefix(
    prefix: string,
    startRevision: number,
    handlers: { onAnswer: (answer: WatchAnswer) => void; onEnd: (error: ZenithError) => void },
  ): OpenStream {
    const lines = new JsonLines()
    const create_request = {
      key: encode(prefix),
      range_end: encode(prefixEnd(prefix)),
      start_revision: String(startRevision),
    }
    return openStream({
      method: 'POST',
      url: `${this.endpoint}/v3/watch`,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ create_request }),
      silenceMs: 0,
      onChunk: (chunk) => {
        for (const line of lines.push(chunk)) {
          const message = line as { result?: WatchAnswer; error?: { message?: string } }
          if (message.result === undefined) {
            throw new ZenithError('unavailable', `etcd ended a watch: ${message.error?.message}`)
          }
          handlers.onAnswer(message.result)
        }
      },
      onEnd: handlers.onEnd,
    })
  }

  async #callOne<T>(path: string, body: unknown, timeoutMs: number): Promise<T> {
    const url = `${this.endpoint}${path}`
    let response: Response
    let text: string
    try {
      response = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(timeoutMs),
      })
      text = await response.text()
    } catch (error) {
      const cause = (error as Error).cause as NodeJS.ErrnoException | undefined
      const message = `etcd at ${url} does not answer: ${cause?.message ?? errorMessage(error)}`
      // Nothing was sent when there was no connection; otherwise nobody knows.
      if (cause?.code === 'ECONNREFUSED') throw new ZenithError('unavailable', message)
      throw new AmbiguousAnswer(message)
    }
    if (response.ok) return JSON.parse(text) as T
    const reason = refusalOf(text)
    // No leader, too slow, overloaded: it may have been done. Anything else it refuses for good.
    if (response.status >= 500) throw new AmbiguousAnswer(`etcd at ${url}: ${reason}`)
    throw new ZenithError('internal', `etcd at ${url} refuses: ${reason}`)
  }
}

export interface EtcdCallOptions {
  once?: boolean
  timeoutMs?: number
}

function refusalOf(text: string): string {
  try {
    const { error, message } = JSON.parse(text) as { error?: string; message?: string }
    return error ?? message ?? text
  } catch {
    return text.slice(0, 200)
  }
}

export function encode(text: string): string {
  return Buffer.from(text).toString('base64')
}

export function decode(base64: string | undefined): string {
  return Buffer.from(base64 ?? '', 'base64').toString()
}

/** The first key after all that begin with `prefix`, which is ASCII. */
export function prefixEnd(prefix: string): string {
  return prefix.slice(0, -1) + String.fromCharCode(prefix.charCodeAt(prefix.length - 1) + 1)
}

/** One JSON value per line, cut anywhere. */
class JsonLines {
  #rest = ''
  readonly #decoder = new TextDecoder()

  push(chunk: Buffer): unknown[] {
    const lines = (this.#rest + this.#decoder.decode(chunk, { stream: true })).split('\n')
    this.#rest = lines.pop() ?? ''
    return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as unknown)
  }
}
