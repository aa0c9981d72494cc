/**
 * Discovery by the hub in the control plane, over HTTP: frames are posted in batches, news comes in
 * one streaming answer. A broken connection is made again, at first soon; what was to be sent
 * meanwhile is outdated and dropped.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { errorMessage } from '../errors.ts'
import { type OpenStream, openStream } from '../http/stream.ts'
import type { Logger } from '../log.ts'
import { type Discovery, type DiscoveryListener, DiscoveryListeners } from './discovery.ts'
import { DISCOVERY_PUBLISH_PATH, DISCOVERY_SUBSCRIBE_PATH } from './embedded-paths.ts'
import { type DiscoveryMessage, encodeFrame, FrameSplitter, type TimelineKey } from './message.ts'
import { Outbox } from './outbox.ts'

const BATCH_FRAMES = 1_000
const POST_TIMEOUT_MS = 2_000
const FIRST_RETRY_MS = 100
const LAST_RETRY_MS = 2_000
/** The hub sends something each second at least. */
const SILENCE_MS = 5_000

export interface EmbeddedDiscoveryOptions {
  /** Address of the control plane. */
  url: string
  log: Logger
  /** A bearer token for each request; null for none. */
  token?: () => Promise<string | null>
}

export class EmbeddedDiscovery implements Discovery {
  readonly #options: EmbeddedDiscoveryOptions
  readonly #listeners = new DiscoveryListeners()
  readonly #outbox = new Outbox()
  readonly #closing = new AbortController()
  #stream: OpenStream | null = null
  #retryTimer: NodeJS.Timeout | null = null
  #retryMs = FIRST_RETRY_MS
  #sending = false
  #connected = false

  constructor(options: EmbeddedDiscoveryOptions) {
    this.#options = options
  }

  get connected(): boolean {
    return this.#connected
  }

  publish(messages: readonly DiscoveryMessage[]): void {
    for (const message of messages) this.#outbox.put({ kind: 'message', ...message })
    this.#send()
  }

  request(timeline: TimelineKey): void {
    const { tenantId, timelineId } = timeline
    this.#outbox.put({ kind: 'request', tenantId, timelineId })
    this.#send()
  }

  subscribe(timeline: TimelineKey | null, listener: DiscoveryListener): () => void {
    const remove = this.#listeners.add(timeline, listener)
    if (this.#stream === null && this.#retryTimer === null) void this.#open()
    return remove
  }

  async close(): Promise<void> {
    this.#closing.abort()
    if (this.#retryTimer !== null) clearTimeout(this.#retryTimer)
    this.#stream?.close()
    this.#connected = false
  }

  #send(): void {
    if (this.#sending || this.#outbox.size === 0 || this.#closing.signal.aborted) return
    this.#sending = true
    this.#post()
      .catch(async (error: unknown) => {
        this.#options.log.debug({ err: errorMessage(error) }, 'discovery did not take our news')
        await sleep(FIRST_RETRY_MS, undefined, { signal: this.#closing.signal, ref: false })
      })
      .catch(() => {})
      .finally(() => {
        this.#sending = false
        this.#send()
      })
  }

  async #post(): Promise<void> {
    // What this turn of the event loop still adds goes along.
    await Promise.resolve()
    const body = Buffer.concat(this.#outbox.take(BATCH_FRAMES).map(encodeFrame))
    const timeout = AbortSignal.timeout(POST_TIMEOUT_MS)
    const response = await fetch(new URL(DISCOVERY_PUBLISH_PATH, this.#options.url), {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream', ...(await this.#authorization()) },
      body,
      signal: AbortSignal.any([timeout, this.#closing.signal]),
    })
    await response.arrayBuffer()
    if (!response.ok) throw new Error(`the control plane answered ${response.status}`)
  }

  async #authorization(): Promise<Record<string, string>> {
    const token = (await this.#options.token?.()) ?? null
    return token === null ? {} : { authorization: `Bearer ${token}` }
  }

  async #open(): Promise<void> {
    this.#retryTimer = null
    const splitter = new FrameSplitter()
    let headers: Record<string, string>
    try {
      headers = await this.#authorization()
    } catch (error) {
      this.#openLater(error)
      return
    }
    if (this.#closing.signal.aborted || this.#stream !== null) return
    this.#stream = openStream({
      method: 'GET',
      url: new URL(DISCOVERY_SUBSCRIBE_PATH, this.#options.url).href,
      headers,
      silenceMs: SILENCE_MS,
      onOpen: () => {
        this.#connected = true
        this.#retryMs = FIRST_RETRY_MS
      },
      onChunk: (chunk) => {
        for (const frame of splitter.push(chunk)) this.#listeners.tell(frame)
      },
      onEnd: (error) => {
        this.#stream = null
        this.#connected = false
        this.#openLater(error)
      },
    })
  }

  #openLater(error: unknown): void {
    if (this.#closing.signal.aborted) return
    this.#options.log.debug({ err: errorMessage(error) }, 'no news from discovery')
    this.#retryTimer = setTimeout(() => void this.#open(), this.#retryMs)
    this.#retryTimer.unref()
    this.#retryMs = Math.min(this.#retryMs * 2, LAST_RETRY_MS)
  }
}
