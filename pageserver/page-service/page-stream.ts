/**
 * One page stream: frames in, replies out, in the order of the requests.
 *
 * Requests are decoded as they arrive and started together once the bytes at hand are used up, so
 * that runs of blocks become one read. Reads run at the same time; a finished one waits for those
 * before it. What is started and not yet sent is bounded: beyond the limit the socket is paused.
 */
import type { Logger } from '#libs/log.ts'
import { type PgSession, sqlStateOf } from '#libs/pgwire/session.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import {
  decodeRequest,
  encodeErrorReply,
  encodeGetPageReplyHeader,
  type GetPageRequest,
  PAGE_SIZE,
  type PageStreamRequest,
  requestIdOf,
} from '#libs/protocol/page-stream.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { type Batch, type PageBatch, toBatches } from './batch.ts'
import type { PageServiceMetrics } from './metrics.ts'
import { readBlocks, readSingle, type Reply, UnknownRelation } from './reader.ts'

/** Pages being read or waiting to be sent on one connection; 8 MiB. */
const MAX_PAGES_IN_FLIGHT = 1024

interface Pending {
  pages: number
  /** Null until the batch is answered. */
  replies: Reply[] | null
}

export interface PageStreamOptions {
  session: PgSession
  timeline: Timeline
  log: Logger
  metrics: PageServiceMetrics
}

export class PageStream {
  readonly #session: PgSession
  readonly #timeline: Timeline
  readonly #log: Logger
  readonly #metrics: PageServiceMetrics
  /** Decoded, not yet started. */
  #queue: PageStreamRequest[] = []
  #startScheduled = false
  /** Started, in order of arrival. */
  #pending: Pending[] = []
  #pagesInFlight = 0
  #paused = false
  #blocked = false
  #finish: (() => void) | null = null
  #inputEnded = false
  #closed = false

  constructor(options: PageStreamOptions) {
    this.#session = options.session
    this.#timeline = options.timeline
    this.#log = options.log
    this.#metrics = options.metrics
  }

  /** Serves until the client ends the stream or goes away. */
  run(): Promise<void> {
    return new Promise((resolve) => {
      this.#finish = resolve
      this.#session.startCopyBoth(
        (payload) => this.#onFrame(payload),
        (reason) => {
          this.#inputEnded = true
          if (reason === 'closed') this.#closed = true
          this.#finishIfDone()
        },
      )
    })
  }

  #onFrame(payload: Buffer): void {
    try {
      this.#queue.push(decodeRequest(payload))
    } catch (error) {
      const requestId = requestIdOf(payload)
      this.#log.warn({ requestId: String(requestId) }, errorMessage(error))
      this.#start()
      this.#pending.push({ pages: 0, replies: [[this.#errorReply(requestId ?? 0n, error)]] })
    }
    if (!this.#startScheduled) {
      this.#startScheduled = true
      process.nextTick(() => {
        this.#startScheduled = false
        this.#start()
        this.#send()
      })
    }
  }

  /** Starts everything that is queued. */
  #start(): void {
    if (this.#queue.length === 0) return
    const batches = toBatches(this.#queue)
    this.#queue = []
    for (const batch of batches) this.#startBatch(batch)
    if (this.#pagesInFlight > MAX_PAGES_IN_FLIGHT && !this.#paused) {
      this.#paused = true
      this.#session.pause()
    }
  }

  #startBatch(batch: Batch): void {
    const pending: Pending = { pages: batch.kind === 'pages' ? batch.count : 1, replies: null }
    this.#pending.push(pending)
    this.#pagesInFlight += pending.pages
    const startedAt = performance.now()
    const answered =
      batch.kind === 'pages' ? this.#answerPages(batch) : this.#answerSingle(batch.request)
    const kind = batch.kind === 'pages' ? 'getpage' : batch.request.kind
    void answered.then((replies) => {
      pending.replies = replies
      this.#metrics.observe(kind, pending.pages, performance.now() - startedAt)
      this.#send()
    })
  }

  async #answerPages(batch: PageBatch): Promise<Reply[]> {
    const first = batch.requests[0] as GetPageRequest
    try {
      const { lsn, pages } = await readBlocks(this.#timeline, first, batch.count)
      return batch.requests.map(({ requestId, firstBlock, count }) => {
        const start = (firstBlock - first.firstBlock) * PAGE_SIZE
        return [
          encodeGetPageReplyHeader(requestId, lsn, firstBlock, count),
          pages.subarray(start, start + count * PAGE_SIZE),
        ]
      })
    } catch (error) {
      this.#logFailure(error, `getpage of ${first.spc}/${first.db}/${first.rel}.${first.fork}`)
      // One damaged page must not fail its neighbours, so each request is tried alone.
      if (batch.requests.length > 1) return this.#answerOneByOne(batch.requests)
      return [[this.#errorReply(first.requestId, error)]]
    }
  }

  async #answerOneByOne(requests: readonly GetPageRequest[]): Promise<Reply[]> {
    const answers = requests.map((request) =>
      this.#answerPages({ kind: 'pages', requests: [request], count: request.count }),
    )
    return (await Promise.all(answers)).flat()
  }

  async #answerSingle(request: Extract<Batch, { kind: 'single' }>['request']): Promise<Reply[]> {
    try {
      return [await readSingle(this.#timeline, request)]
    } catch (error) {
      if (!(error instanceof UnknownRelation)) this.#logFailure(error, request.kind)
      return [[this.#errorReply(request.requestId, error)]]
    }
  }

  /** Sends what is answered, up to the first request that is not. */
  #send(): void {
    if (this.#closed || this.#blocked) return
    const { socket } = this.#session
    socket.cork()
    let writable = true
    let sent = 0
    for (const { replies, pages } of this.#pending) {
      if (replies === null || !writable) break
      for (const reply of replies) writable = this.#session.sendCopyData(...reply)
      this.#pagesInFlight -= pages
      sent += 1
    }
    socket.uncork()
    if (sent > 0) this.#pending.splice(0, sent)
    if (!writable) {
      this.#blocked = true
      void this.#session.drained().then(() => {
        this.#blocked = false
        this.#send()
      })
    }
    if (this.#paused && this.#pagesInFlight <= MAX_PAGES_IN_FLIGHT / 2) {
      this.#paused = false
      this.#session.resume()
    }
    this.#finishIfDone()
  }

  #finishIfDone(): void {
    if (!this.#inputEnded) return
    const idle = this.#pending.length === 0 && this.#queue.length === 0 && !this.#blocked
    if (!this.#closed && !idle) return
    this.#finish?.()
    this.#finish = null
  }

  #errorReply(requestId: bigint, error: unknown): Buffer {
    const sqlState = error instanceof UnknownRelation ? error.sqlState : sqlStateOf(error)
    const hint = error instanceof ZenithError && error.hint ? ` (${error.hint})` : ''
    const { lastRecordLsn } = this.#timeline
    return encodeErrorReply(requestId, lastRecordLsn, sqlState, errorMessage(error) + hint)
  }

  #logFailure(error: unknown, what: string): void {
    this.#metrics.countError()
    if (!this.#closed) this.#log.error({ err: error }, `${what} failed`)
  }
}
