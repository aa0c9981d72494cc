/**
 * One WAL stream to a page server, a standby or a tool, as a stock walsender serves it. Sends WAL up
 * to the commit position; with a term (recovery of another safekeeper through its leader) up to the
 * end of the log, and only while the term is still that one.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn, segmentNumber, segmentOffset, WAL_PAGE_SIZE } from '#libs/lsn.ts'
import type { PgSession } from '#libs/pgwire/session.ts'
import {
  decodeReceiverMessage,
  encodeKeepalive,
  postgresTimeUs,
  WAL_DATA_HEADER_SIZE,
  writeWalDataHeader,
} from '#libs/protocol/wal-stream.ts'
import type { SafekeeperMetrics } from './metrics.ts'
import type { SegmentReader } from './offload/segment-reader.ts'
import { StreamEnd } from './stream-end.ts'
import { segmentEnd } from './store/segment-plan.ts'
import type { Timeline } from './timeline.ts'

const MAX_SEND_BYTES = 128 * 1024
const KEEPALIVE_MS = 1_000
/**
 * After a message what is committed gathers for so long before the next one, unless it is a lot. Many
 * small commits then cost few messages here and at the receiver; a lone commit is passed on at once.
 */
const GATHER_MS = 1
const GATHERED_BYTES = 64 * 1024
/** A receiver answers keepalives; a silent one is cut off. */
const SILENCE_MS = 60_000
/** Memory that unsent messages may take. */
const MAX_BUFFERED_BYTES = 2 * 1024 * 1024

export interface StreamRequest {
  startLsn: Lsn
  /** Pins the term of the safekeeper; null for the stream of committed WAL. */
  term: number | null
}

export class WalStreamSession {
  readonly #session: PgSession
  readonly #timeline: Timeline
  readonly #term: number | null
  readonly #metrics: SafekeeperMetrics
  #sent: Lsn
  #ended = false
  #wake: () => void = () => {}
  #segment: { number: number; reader: SegmentReader } | null = null
  #lastHeardMs = performance.now()
  #sentAtMs = Number.NEGATIVE_INFINITY
  readonly #streamEnd = new StreamEnd()
  /** What the page server at the other end has in object storage; null for other clients. */
  #remoteConsistentLsn: Lsn | null = null

  constructor(
    session: PgSession,
    timeline: Timeline,
    request: StreamRequest,
    metrics: SafekeeperMetrics,
  ) {
    this.#session = session
    this.#timeline = timeline
    this.#term = request.term
    this.#metrics = metrics
    this.#sent = request.startLsn
  }

  /** Streams until the client ends the copy or goes away. Throws before it when it cannot start. */
  async run(): Promise<void> {
    this.#checkStart()
    const session = this.#session
    session.startCopyBoth(
      (payload) => this.#receive(payload),
      () => {
        this.#ended = true
        this.#wake()
      },
    )
    const unsubscribe = this.#timeline.subscribe(() => this.#wake())
    const unsubscribeDurable =
      this.#term === null ? () => {} : this.#timeline.onDurable(() => this.#wake())
    // Whoever reads for a copy cannot get it elsewhere as long as it is not in object storage.
    const release = this.#term === null ? () => {} : this.#timeline.holdWal(this.#sent)
    const keepalive = setInterval(() => this.#keepalive(), KEEPALIVE_MS)
    this.#metrics.walReceivers.inc()
    try {
      this.#keepalive()
      while (!this.#ended) await this.#sendAvailable()
      session.sendCopyDone()
      session.sendCommandComplete('START_STREAMING')
    } finally {
      this.#metrics.walReceivers.dec()
      clearInterval(keepalive)
      this.#timeline.standbyXmins(this, null)
      unsubscribe()
      unsubscribeDurable()
      release()
      await this.#closeSegment()
    }
  }

  /** A stock standby begins at a segment start, which may lie below the start of the timeline. */
  #checkStart(): void {
    const { startLsn } = this.#timeline.control
    const first = startLsn - segmentOffset(startLsn)
    if (this.#sent < first) {
      throw new ZenithError(
        'out_of_range',
        `WAL at ${formatLsn(this.#sent)} is before the start of this timeline, ${formatLsn(startLsn)}`,
      )
    }
    const end = this.#endLsn()
    if (this.#sent > end && this.#sent - segmentOffset(this.#sent) > end) {
      throw new ZenithError(
        'out_of_range',
        `WAL at ${formatLsn(this.#sent)} is not here yet; it ends at ${formatLsn(end)}`,
      )
    }
  }

  #endLsn(): Lsn {
    if (this.#timeline.closed) {
      throw new ZenithError('unavailable', 'this timeline is being closed here')
    }
    if (this.#term === null) return this.#timeline.commitLsn
    if (this.#timeline.control.term !== this.#term) {
      throw new ZenithError(
        'fenced',
        `the term here is ${this.#timeline.control.term}, not ${this.#term}`,
      )
    }
    return this.#timeline.flushLsn
  }

  /** Sends what there is, or waits for more. */
  async #sendAvailable(): Promise<void> {
    const endLsn = this.#endLsn()
    if (this.#sent >= endLsn) {
      // What comes next is in memory; an idle reader keeps no file, and no timeline on this disk.
      if (this.#segment) {
        await this.#closeSegment()
        return
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
        if (this.#ended) resolve()
      })
      this.#wake = () => {}
      return
    }
    if (this.#gathers(endLsn)) {
      await sleep(GATHER_MS)
      return
    }
    if (this.#session.socket.writableLength > MAX_BUFFERED_BYTES) {
      await this.#session.drained()
      return
    }
    const chunkEnd = this.#chunkEnd(endLsn)
    const wal = this.#timeline.recentWal(this.#sent, chunkEnd) ?? (await this.#read(chunkEnd))
    if (this.#ended) return
    // The read may have taken a while: with a pinned term the bytes count only if it still holds.
    // Where the WAL ends by now is what receivers measure their lag by.
    const walEndLsn = this.#endLsn()
    const header = Buffer.allocUnsafe(WAL_DATA_HEADER_SIZE)
    const sentAtUs = postgresTimeUs(Date.now())
    writeWalDataHeader(header, { startLsn: this.#sent, walEndLsn, sentAtUs })
    this.#session.sendCopyData(header, wal)
    this.#metrics.sentBytes.inc(wal.length)
    this.#sent += wal.length
    this.#sentAtMs = performance.now()
  }

  /** Recovery, for which an election may wait, gathers nothing. */
  #gathers(endLsn: Lsn): boolean {
    if (this.#term !== null || endLsn - this.#sent >= GATHERED_BYTES) return false
    return performance.now() - this.#sentAtMs < GATHER_MS
  }

  /** At most 128 KiB, within the segment, up to a page end unless that is all there is. */
  #chunkEnd(endLsn: Lsn): Lsn {
    const limit = this.#sent + MAX_SEND_BYTES
    if (endLsn <= limit) return Math.min(endLsn, segmentEnd(this.#sent))
    return Math.min(limit - (limit % WAL_PAGE_SIZE), segmentEnd(this.#sent))
  }

  async #read(endLsn: Lsn): Promise<Buffer> {
    const number = segmentNumber(this.#sent)
    if (this.#segment?.number !== number) {
      await this.#closeSegment()
      this.#segment = { number, reader: await this.#timeline.openSegment(this.#sent) }
    }
    const bytes = Buffer.allocUnsafe(endLsn - this.#sent)
    const { reader } = this.#segment
    const bytesRead = await reader.read(bytes, bytes.length, segmentOffset(this.#sent))
    if (bytesRead === 0) {
      throw new ZenithError('corrupt', `the segment at ${formatLsn(this.#sent)} is too short`)
    }
    return bytes.subarray(0, bytesRead)
  }

  async #closeSegment(): Promise<void> {
    const segment = this.#segment
    this.#segment = null
    await segment?.reader.close()
  }

  #keepalive(): void {
    if (this.#ended) return
    if (performance.now() - this.#lastHeardMs > SILENCE_MS) {
      this.#session.socket.destroy()
      return
    }
    let endLsn: Lsn
    try {
      endLsn = this.#endLsn()
    } catch {
      // The term changed: the sending loop reports it.
      this.#wake()
      return
    }
    if (this.#hasServed()) {
      this.#ended = true
      this.#wake()
      return
    }
    if (this.#sent < endLsn) return
    const askForReply = performance.now() - this.#lastHeardMs > SILENCE_MS / 4
    this.#session.sendCopyData(encodeKeepalive(endLsn, postgresTimeUs(Date.now()), askForReply))
  }

  #hasServed(): boolean {
    const { commitLsn, computeConnected } = this.#timeline
    return this.#streamEnd.isDue({
      nowMs: performance.now(),
      computeConnected,
      commitLsn,
      sentLsn: this.#sent,
      remoteConsistentLsn: this.#remoteConsistentLsn,
    })
  }

  #receive(payload: Buffer): void {
    this.#lastHeardMs = performance.now()
    const message = decodeReceiverMessage(payload)
    if (message.kind === 'pageserver-feedback') {
      this.#remoteConsistentLsn = message.feedback.remoteConsistentLsn
      this.#timeline.pageserverFeedback(message.feedback)
    } else if (message.kind === 'standby-status' && message.replyRequested) {
      const endLsn = this.#timeline.commitLsn
      this.#session.sendCopyData(encodeKeepalive(endLsn, postgresTimeUs(Date.now()), false))
    } else if (message.kind === 'hot-standby-feedback') {
      this.#timeline.standbyXmins(this, {
        xmin: fullXid(message.xminEpoch, message.xmin),
        catalogXmin: fullXid(message.catalogXminEpoch, message.catalogXmin),
      })
    }
  }
}

function fullXid(epoch: number, xid: number): bigint {
  return xid === 0 ? 0n : (BigInt(epoch) << 32n) | BigInt(xid)
}
