/**
 * One connection to a safekeeper: WAL in, positions out. WAL bytes are copied off the socket into a
 * bounded queue and handed to ingest one chunk at a time; while the queue is full the socket rests.
 *
 * A stock Postgres can take the safekeeper's place. It knows no timelines and understands a standby's
 * status only, whose flush position lets it forget WAL; so that is what object storage has. A stock
 * server that stops asks for a reply until everything it sent is flushed: such a question makes us
 * flush.
 */
import { randomInt } from 'node:crypto'
import type { WalSource } from '#libs/api/node-info.ts'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import type { PgClient } from '#libs/pgwire/client.ts'
import {
  decodeWalStreamMessage,
  encodePageserverFeedback,
  encodeStandbyStatus,
  postgresTimeUs,
} from '#libs/protocol/wal-stream.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { connectToSource, describeSource, isPostgres } from './source.ts'

const QUEUE_HIGH_BYTES = 8 * 1024 * 1024
const QUEUE_LOW_BYTES = 2 * 1024 * 1024
const FEEDBACK_INTERVAL_MS = 1000
/** Positions that changed are told no more often than this. */
const FEEDBACK_MIN_GAP_MS = 50

/** Takes WAL in; what it throws is final for the timeline. */
export interface WalSink {
  /** Where the next chunk must start. */
  readonly nextLsn: Lsn
  ingest(chunk: Buffer, startLsn: Lsn): Promise<void>
}

export interface WalStreamOptions {
  tenantId: TenantId
  timelineId: TimelineId
  source: WalSource
  timeline: Timeline
  sink: WalSink
  onBytes: (bytes: number) => void
}

/** Thrown when WAL arrived but could not be taken in; the connection is not to blame. */
export class IngestFailure extends Error {
  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause })
    this.name = 'IngestFailure'
  }
}

export class WalStream {
  readonly sourceId: number
  commitLsn: Lsn = 0
  receivedLsn: Lsn
  readonly #options: WalStreamOptions
  readonly #client: PgClient
  readonly #isPostgres: boolean
  #lastMessageAt = performance.now()
  #lastProgressAt = performance.now()
  #queue: { startLsn: Lsn; wal: Buffer }[] = []
  #queuedBytes = 0
  #pumping: Promise<void> | null = null
  #paused = false
  #flushing: Promise<void> | null = null
  #feedbackAt = 0
  #feedbackLsns = ''
  /** Positions only rise within one stream; the next may begin lower, after a start. */
  readonly #incarnation = randomInt(1, 2 ** 48 - 1)
  #end!: (error: Error | null) => void
  #ended = false
  /** Resolves when the stream is over: null for a regular end. */
  readonly ended: Promise<Error | null>

  private constructor(client: PgClient, options: WalStreamOptions) {
    this.#client = client
    this.#options = options
    this.sourceId = options.source.id
    this.#isPostgres = isPostgres(options.source)
    this.receivedLsn = options.sink.nextLsn
    this.ended = new Promise((resolve) => {
      this.#end = (error) => {
        this.#ended = true
        resolve(error)
      }
    })
  }

  /** Connects and starts streaming where the sink wants to go on. Throws when that fails. */
  static async open(options: WalStreamOptions): Promise<WalStream> {
    const { source, timeline } = options
    const client = await connectToSource(options, source)
    try {
      await checkSystem(client, timeline)
      const stream = new WalStream(client, options)
      const slot = isPostgres(source) && source.slot ? `SLOT ${source.slot} ` : ''
      await client.startCopyBoth(
        `START_REPLICATION ${slot}PHYSICAL ${formatLsn(stream.receivedLsn)}`,
        (payload) => stream.#onFrame(payload),
        (error) => stream.#finish(error ?? null),
      )
      return stream
    } catch (error) {
      client.destroy()
      throw error
    }
  }

  get silentMs(): number {
    return performance.now() - this.#lastMessageAt
  }

  get stalledMs(): number {
    return performance.now() - this.#lastProgressAt
  }

  /** Ends the connection; WAL that is queued but not taken in is dropped and comes again later. */
  async close(): Promise<void> {
    this.#finish(null)
    await this.#pumping
    await this.#flushing
  }

  /** Tells the safekeeper our positions if they changed, or if it is time. */
  sendFeedback(nowMs: number): void {
    const sinceLastMs = nowMs - this.#feedbackAt
    if (this.#ended || sinceLastMs < FEEDBACK_MIN_GAP_MS) return
    const { timeline } = this.#options
    const { lastRecordLsn, diskConsistentLsn, remoteConsistentLsn, shard } = timeline
    const lsns = `${lastRecordLsn} ${diskConsistentLsn} ${remoteConsistentLsn}`
    if (lsns === this.#feedbackLsns && sinceLastMs < FEEDBACK_INTERVAL_MS) return
    this.#feedbackAt = nowMs
    this.#feedbackLsns = lsns
    const timeUs = postgresTimeUs(nowMs)
    if (this.#isPostgres) {
      this.#client.sendCopyData(
        encodeStandbyStatus({
          writeLsn: lastRecordLsn,
          // Local layers that no manifest names are dropped at a start, so they do not count.
          flushLsn: remoteConsistentLsn,
          applyLsn: lastRecordLsn,
          sentAtUs: timeUs,
          // An idle stock server is silent for longer than we take for alive.
          replyRequested: true,
        }),
      )
      return
    }
    this.#client.sendCopyData(
      encodeStandbyStatus({
        writeLsn: lastRecordLsn,
        flushLsn: diskConsistentLsn,
        applyLsn: remoteConsistentLsn,
        sentAtUs: timeUs,
        replyRequested: false,
      }),
    )
    this.#client.sendCopyData(
      encodePageserverFeedback({
        currentTimelineSizeBytes: timeline.logicalBytes ?? 0,
        lastReceivedLsn: lastRecordLsn,
        diskConsistentLsn,
        remoteConsistentLsn,
        replyTimeUs: BigInt(timeUs),
        shardNumber: shard?.identity.number ?? 0,
        shardCount: shard?.identity.count ?? 1,
        incarnation: this.#incarnation,
      }),
    )
  }

  #onFrame(payload: Buffer): void {
    if (this.#ended) return
    this.#lastMessageAt = performance.now()
    try {
      const message = decodeWalStreamMessage(payload)
      this.commitLsn = Math.max(this.commitLsn, message.walEndLsn)
      if (message.kind === 'keepalive') {
        if (message.replyRequested) this.#feedbackAt = 0
        if (message.replyRequested && this.#isPostgres) this.#flushing ??= this.#flushAndTell()
        else this.sendFeedback(Date.now())
        return
      }
      this.#enqueue(message.startLsn, message.wal)
    } catch (error) {
      this.#finish(error as Error)
    }
  }

  async #flushAndTell(): Promise<void> {
    const { timeline } = this.#options
    try {
      await this.#pumping
      const isSafe = timeline.remoteConsistentLsn >= timeline.lastRecordLsn
      // Of a draft nothing is safe before all of it is.
      if (!isSafe && !timeline.isDraft) await timeline.flush()
    } catch (error) {
      this.#finish(new ZenithError('unavailable', `no flush: ${errorMessage(error)}`))
    } finally {
      this.#flushing = null
    }
    this.#feedbackAt = 0
    this.sendFeedback(Date.now())
  }

  #enqueue(startLsn: Lsn, wal: Buffer): void {
    if (startLsn !== this.receivedLsn) {
      throw new ZenithError(
        'corrupt',
        `${describeSource(this.#options.source)} sent WAL from ${formatLsn(startLsn)} where ${formatLsn(this.receivedLsn)} comes next`,
      )
    }
    // The payload is a view of the socket's buffer and will be overwritten.
    this.#queue.push({ startLsn, wal: Buffer.from(wal) })
    this.#queuedBytes += wal.length
    this.receivedLsn += wal.length
    this.#lastProgressAt = this.#lastMessageAt
    this.#options.onBytes(wal.length)
    if (this.#queuedBytes > QUEUE_HIGH_BYTES && !this.#paused) {
      this.#paused = true
      this.#client.pause()
    }
    this.#pumping ??= this.#pump()
  }

  async #pump(): Promise<void> {
    const { sink } = this.#options
    try {
      for (let next = this.#queue.shift(); next && !this.#ended; next = this.#queue.shift()) {
        assert(next.startLsn === sink.nextLsn, 'WAL is taken in without gaps')
        await sink.ingest(next.wal, next.startLsn)
        this.#queuedBytes -= next.wal.length
        if (this.#paused && this.#queuedBytes < QUEUE_LOW_BYTES) {
          this.#paused = false
          // While paused no keepalive could come in, so the silence was ours.
          this.#lastMessageAt = performance.now()
          this.#client.resume()
        }
        this.sendFeedback(Date.now())
      }
    } catch (error) {
      this.#finish(new IngestFailure(error))
    } finally {
      this.#pumping = null
    }
  }

  #finish(error: Error | null): void {
    if (this.#ended) return
    this.#end(error)
    this.#queue = []
    this.#client.destroy()
  }
}

/** A stock server has one WAL timeline of Postgres in use, which must be the first. */
async function checkSystem(client: PgClient, timeline: Timeline): Promise<void> {
  const { columns, rows } = await client.query('IDENTIFY_SYSTEM')
  const field = (name: string) => rows[0]?.[columns.indexOf(name)]
  const systemId = field('systemid')
  if (systemId !== timeline.systemId) {
    throw new ZenithError(
      'corrupt',
      `the source has WAL of system ${systemId}, the timeline belongs to ${timeline.systemId}`,
    )
  }
  const walTimeline = field('timeline') ?? '1'
  if (walTimeline === '1') return
  throw new ZenithError('unsupported', `the source writes WAL timeline ${walTimeline}, not 1`, {
    hint: 'A server that was promoted cannot be followed; dump and restore its databases instead.',
  })
}
