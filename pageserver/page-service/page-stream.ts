/**
 * One page stream: frames in, replies out, in the order of the requests.
 *
 * Requests are decoded as they arrive and started together once the bytes at hand are used up, so
 * that runs of blocks become one read. Reads run at the same time; a finished one waits for those
 * before it. What is started and not yet sent is bounded: beyond the limit the socket is paused.
 *
 * Pages are read into buffers of a pool, and a buffer goes back once the socket has written it.
 */
import type { Socket } from 'node:net'
import type { Logger } from '#libs/log.ts'
import { type PgSession, sqlStateOf } from '#libs/pgwire/session.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import {
  decodeRequest,
  encodeErrorReply,
  GETPAGE_REPLY_HEADER_SIZE,
  type GetPageRequest,
  PAGE_SIZE,
  type PageStreamRequest,
  requestIdOf,
  writeGetPageReplyHeader,
} from '#libs/protocol/page-stream.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { type Batch, type PageBatch, type SingleRequest, toBatches } from './batch.ts'
import type { PageServiceMetrics } from './metrics.ts'
import { PageBuffers } from './page-buffers.ts'
import { readBlocks, readSingle, UnknownRelation } from './reader.ts'

/** Pages being read or waiting to be sent on one connection; 8 MiB. */
const MAX_PAGES_IN_FLIGHT = 1024
/** An answer of so many pages is sent at once. */
const LONG_ANSWER_PAGES = 8

/** Pages of all connections. */
const buffers = new PageBuffers()

/** CopyData: tag, length u32, payload. */
const COPY_DATA = 0x64
const COPY_DATA_HEADER_SIZE = 5

interface Answer {
  /** Bytes for the socket: whole CopyData messages. */
  chunks: Buffer[]
  /** To be released when the chunks are written. */
  pages: Buffer | null
}

interface Pending {
  pages: number
  /** Null until the batch is answered. */
  answer: Answer | null
}

export interface PageStreamOptions {
  session: PgSession
  /** Looked up for each read: an attach under a new generation opens the timeline anew. */
  timeline: () => Timeline
  log: Logger
  metrics: PageServiceMetrics
}

export class PageStream {
  readonly #session: PgSession
  readonly #timeline: () => Timeline
  readonly #log: Logger
  readonly #metrics: PageServiceMetrics
  /** Decoded, not yet started. */
  #queue: PageStreamRequest[] = []
  #startScheduled = false
  #sendScheduled = false
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
      this.#pending.push({ pages: 0, answer: this.#errorAnswer(requestId ?? 0n, error) })
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
    const pending: Pending = { pages: batch.kind === 'pages' ? batch.count : 1, answer: null }
    this.#pending.push(pending)
    this.#pagesInFlight += pending.pages
    const startedAt = performance.now()
    const answered =
      batch.kind === 'pages' ? this.#answerPages(batch) : this.#answerSingle(batch.request)
    const kind = batch.kind === 'pages' ? 'getpage' : batch.request.kind
    void answered.then((answer) => {
      pending.answer = answer
      this.#metrics.observe(kind, pending.pages, performance.now() - startedAt)
      // What fills a socket's buffer alone gains nothing by company.
      if (pending.pages >= LONG_ANSWER_PAGES) this.#send()
      else this.#sendSoon()
    })
  }

  /**
   * Sends at the end of this turn of the event loop, so that what else is answered in it goes out by
   * the same system call.
   */
  #sendSoon(): void {
    if (this.#sendScheduled) return
    this.#sendScheduled = true
    setImmediate(() => {
      this.#sendScheduled = false
      this.#send()
    })
  }

  async #answerPages(batch: PageBatch): Promise<Answer> {
    const first = batch.requests[0] as GetPageRequest
    const target = buffers.take(batch.count)
    let used: Timeline | null = null
    try {
      used = this.#timeline()
      const { lsn, pages } = await readBlocks(used, first, target)
      const chunks: Buffer[] = []
      for (const { requestId, firstBlock, count } of batch.requests) {
        const sizeBytes = count * PAGE_SIZE
        const start = (firstBlock - first.firstBlock) * PAGE_SIZE
        const header = copyDataHeader(GETPAGE_REPLY_HEADER_SIZE, sizeBytes)
        const fields = { requestId, lsn, firstBlock, count }
        writeGetPageReplyHeader(header, COPY_DATA_HEADER_SIZE, fields)
        chunks.push(header, pages.subarray(start, start + sizeBytes))
      }
      return { chunks, pages }
    } catch (failure) {
      const error = this.#causeOf(failure, used)
      // The buffer is not used again: parts of the failed read may still be writing to it.
      this.#logFailure(error, `getpage of ${first.spc}/${first.db}/${first.rel}.${first.fork}`)
      // One damaged page must not fail its neighbours, so each request is tried alone.
      if (batch.requests.length > 1) return this.#answerOneByOne(batch.requests)
      return this.#errorAnswer(first.requestId, error)
    }
  }

  async #answerOneByOne(requests: readonly GetPageRequest[]): Promise<Answer> {
    const answers = await Promise.all(
      requests.map((request) =>
        this.#answerPages({ kind: 'pages', requests: [request], count: request.count }),
      ),
    )
    return { chunks: answers.flatMap(({ chunks }) => chunks), pages: null }
  }

  async #answerSingle(request: SingleRequest): Promise<Answer> {
    let used: Timeline | null = null
    try {
      used = this.#timeline()
      return toAnswer(await readSingle(used, request))
    } catch (failure) {
      const error = this.#causeOf(failure, used)
      if (!(error instanceof UnknownRelation)) this.#logFailure(error, request.kind)
      return this.#errorAnswer(request.requestId, error)
    }
  }

  /** Sends what is answered, up to the first request that is not. */
  #send(): void {
    if (this.#closed || this.#blocked) return
    const { socket } = this.#session
    socket.cork()
    let writable = true
    let sent = 0
    for (const { answer, pages } of this.#pending) {
      if (answer === null || !writable) break
      writable = write(socket, answer)
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

  /** A timeline that was closed under a read fails in any way; what it means is that it is gone. */
  #causeOf(failure: unknown, used: Timeline | null): unknown {
    if (used === null) return failure
    try {
      if (this.#timeline() === used) return failure
    } catch (gone) {
      return gone
    }
    return new ZenithError('unavailable', 'the timeline was opened anew under a read')
  }

  #errorAnswer(requestId: bigint, error: unknown): Answer {
    const sqlState = error instanceof UnknownRelation ? error.sqlState : sqlStateOf(error)
    const hint = error instanceof ZenithError && error.hint ? ` (${error.hint})` : ''
    const message = errorMessage(error) + hint
    return toAnswer([encodeErrorReply(requestId, 0, sqlState, message)])
  }

  #logFailure(error: unknown, what: string): void {
    this.#metrics.countError()
    if (!this.#closed) this.#log.error({ err: error }, `${what} failed`)
  }
}

/** Room for the CopyData header and `ownBytes` behind it; `moreBytes` follow in other chunks. */
function copyDataHeader(ownBytes: number, moreBytes: number): Buffer {
  const header = Buffer.allocUnsafe(COPY_DATA_HEADER_SIZE + ownBytes)
  header[0] = COPY_DATA
  header.writeUInt32BE(4 + ownBytes + moreBytes, 1)
  return header
}

function toAnswer(parts: Buffer[]): Answer {
  const sizeBytes = parts.reduce((sum, part) => sum + part.length, 0)
  return { chunks: [copyDataHeader(0, sizeBytes), ...parts], pages: null }
}

/** Writes an answer; false when the socket has enough for now. */
function write(socket: Socket, { chunks, pages }: Answer): boolean {
  const last = chunks.length - 1
  let writable = true
  for (let index = 0; index < last; index += 1) writable = socket.write(chunks[index] as Buffer)
  if (pages === null) return socket.write(chunks[last] as Buffer) && writable
  return socket.write(chunks[last] as Buffer, () => buffers.release(pages)) && writable
}
