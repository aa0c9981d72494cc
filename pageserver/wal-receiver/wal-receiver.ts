/**
 * Keeps one timeline supplied with WAL: asks its safekeepers how far they are, streams from the
 * furthest, goes to another when that one dies or lags. A connection that breaks is tried again; WAL
 * that cannot be taken in breaks the timeline for good, since going on would skip it.
 */
import type { NodeInfo } from '#libs/api/control.ts'
import type { WalReceiverInfo, WalReceiverState } from '#libs/api/pageserver.ts'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { errorMessage } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { type Candidate, furthest, reasonToSwitch, worthConnecting } from './choice.ts'
import type { WalReceiverMetrics } from './metrics.ts'
import { IngestFailure, type WalSink, WalStream } from './wal-stream.ts'

const STATUS_TIMEOUT_MS = 2000
const FIRST_RETRY_MS = 100
const LAST_RETRY_MS = 1000
/** How often an idle timeline asks whether there is news. */
const IDLE_POLL_MS = 2000
/** After a nudge it asks at once, and this often for a while: a compute is starting. */
const NUDGED_POLL_MS = 200
const NUDGED_FOR_MS = 15_000
const TICK_MS = 500
const SWITCH_CHECK_MS = 5000

export interface WalReceiverOptions {
  tenantId: TenantId
  timelineId: TimelineId
  timeline: Timeline
  /** Opens ingest at the timeline's last record; called again after each lost connection. */
  openSink: () => Promise<WalSink>
  safekeepers: readonly NodeInfo[]
  log: Logger
  metrics: WalReceiverMetrics
  /** Told once, when WAL could not be taken in. */
  onBroken: (reason: string) => void
}

export class WalReceiver {
  readonly #options: WalReceiverOptions
  #safekeepers: readonly NodeInfo[]
  #state: WalReceiverState = 'connecting'
  #stream: WalStream | null = null
  #lastError: string | null = null
  #connects = 0
  #stopped = false
  #running: Promise<void> | null = null
  #wake: () => void = () => {}
  #nudged = false
  #nudgedAt = Number.NEGATIVE_INFINITY

  constructor(options: WalReceiverOptions) {
    this.#options = options
    this.#safekeepers = options.safekeepers
  }

  get safekeepers(): readonly NodeInfo[] {
    return this.#safekeepers
  }

  start(): void {
    this.#running ??= this.#run()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#wake()
    await this.#stream?.close()
    await this.#running
    if (this.#state !== 'broken') this.#state = 'stopped'
  }

  /** Takes a new list; a stream from a safekeeper that is no longer in it ends. */
  setSafekeepers(safekeepers: readonly NodeInfo[]): void {
    this.#safekeepers = safekeepers
    const id = this.#stream?.safekeeperId
    const kept = safekeepers.some((safekeeper) => safekeeper.id === id)
    if (this.#stream && !kept) void this.#stream.close()
    this.nudge()
  }

  /** Someone is about to need new WAL: look for it now instead of at the next poll. */
  nudge(): void {
    this.#nudged = true
    this.#nudgedAt = performance.now()
    this.#wake()
  }

  info(): WalReceiverInfo {
    const stream = this.#stream
    return {
      state: this.#state,
      safekeeperId: stream?.safekeeperId ?? null,
      commitLsn: stream && stream.commitLsn > 0 ? formatLsn(stream.commitLsn) : null,
      receivedLsn: formatLsn(stream?.receivedLsn ?? this.#options.timeline.lastRecordLsn),
      reconnects: Math.max(0, this.#connects - 1),
      lastError: this.#lastError,
    }
  }

  /** Bytes that a safekeeper has committed and we have not taken in, as far as known. */
  lagBytes(): number {
    const commitLsn = this.#stream?.commitLsn ?? 0
    return Math.max(0, commitLsn - this.#options.timeline.lastRecordLsn)
  }

  async #run(): Promise<void> {
    let retryMs = FIRST_RETRY_MS
    while (!this.#stopped && this.#state !== 'broken') {
      this.#nudged = false
      const candidates = await this.#poll()
      const best = furthest(candidates)
      if (best && worthConnecting(candidates, this.#options.timeline)) {
        const progressed = await this.#streamFrom(best.id)
        retryMs = progressed ? FIRST_RETRY_MS : Math.min(retryMs * 2, LAST_RETRY_MS)
        await this.#sleep(retryMs)
      } else if (best) {
        this.#state = 'waiting'
        this.#lastError = null
        retryMs = FIRST_RETRY_MS
        const nudged = performance.now() - this.#nudgedAt < NUDGED_FOR_MS
        await this.#sleep(nudged ? NUDGED_POLL_MS : IDLE_POLL_MS)
      } else {
        this.#state = 'connecting'
        await this.#sleep(retryMs)
        retryMs = Math.min(retryMs * 2, LAST_RETRY_MS)
      }
    }
  }

  /** Asks all safekeepers at once; those that do not answer in time do not count. */
  #poll(): Promise<Candidate[]> {
    const { tenantId, timelineId } = this.#options
    return Promise.all(
      this.#safekeepers.map(async ({ id, host, httpPort }): Promise<Candidate> => {
        try {
          const status = await callSafekeeper(`http://${host}:${httpPort}`, 'getTimeline', {
            params: { tenantId, timelineId },
            timeoutMs: STATUS_TIMEOUT_MS,
          })
          const { computeConnected } = status
          const commitLsn = parseLsn(status.commitLsn)
          const remoteConsistentLsn = parseLsn(status.remoteConsistentLsn)
          return { id, commitLsn, computeConnected, remoteConsistentLsn }
        } catch (error) {
          this.#note(`safekeeper ${id}: ${errorMessage(error)}`)
          return { id, commitLsn: null, computeConnected: false, remoteConsistentLsn: 0 }
        }
      }),
    )
  }

  /** Streams until something ends it; true when any WAL was taken in. */
  async #streamFrom(safekeeperId: number): Promise<boolean> {
    const { timeline, log, metrics } = this.#options
    const safekeeper = this.#safekeepers.find((one) => one.id === safekeeperId)
    if (!safekeeper) return false
    const before = timeline.lastRecordLsn
    let stream: WalStream
    try {
      this.#state = 'connecting'
      stream = await WalStream.open({
        ...this.#options,
        safekeeper,
        sink: await this.#options.openSink(),
        onBytes: metrics.countBytes,
      })
    } catch (error) {
      this.#note(`safekeeper ${safekeeperId}: ${errorMessage(error)}`)
      return false
    }
    this.#stream = stream
    this.#connects += 1
    this.#state = 'streaming'
    this.#lastError = null
    const { tenantId, timelineId } = this.#options
    const about = { tenantId, timelineId, safekeeperId }
    log.info({ ...about, lsn: formatLsn(stream.receivedLsn) }, 'receiving WAL')
    if (this.#stopped) await stream.close()
    const supervision = this.#supervise(stream)
    const error = await stream.ended
    await stream.close()
    supervision.stop()
    this.#stream = null
    if (error instanceof IngestFailure) this.#break(error)
    else if (error) this.#note(`safekeeper ${safekeeperId}: ${error.message}`)
    else log.info(about, 'WAL stream ended')
    return timeline.lastRecordLsn > before
  }

  #supervise(stream: WalStream): { stop(): void } {
    let checkedAt = performance.now()
    const tick = setInterval(() => {
      stream.sendFeedback(Date.now())
      const now = performance.now()
      const silent = reasonToSwitch(currentOf(stream), [])
      if (silent !== null) this.#leave(stream, silent)
      else if (now - checkedAt > SWITCH_CHECK_MS && this.#safekeepers.length > 1) {
        checkedAt = now
        void this.#poll().then((candidates) => {
          const reason = reasonToSwitch(currentOf(stream), candidates)
          if (reason !== null) this.#leave(stream, reason)
        })
      }
    }, TICK_MS)
    return { stop: () => clearInterval(tick) }
  }

  #leave(stream: WalStream, reason: string): void {
    if (this.#stream !== stream) return
    this.#note(`switching: ${reason}`)
    void stream.close()
  }

  #break(error: IngestFailure): void {
    const { timeline, log, onBroken, tenantId, timelineId } = this.#options
    const at = formatLsn(timeline.lastRecordLsn)
    const reason = `WAL after ${at} could not be taken in: ${error.message}`
    this.#state = 'broken'
    this.#lastError = reason
    log.error({ err: error.cause, tenantId, timelineId }, `timeline is broken: ${reason}`)
    onBroken(reason)
  }

  /** Remembers and logs a problem, once per change. */
  #note(message: string): void {
    if (this.#stopped || this.#lastError === message) return
    this.#lastError = message
    const { tenantId, timelineId } = this.#options
    this.#options.log.warn({ tenantId, timelineId }, `WAL receiver: ${message}`)
  }

  /** Sleeps until the time is over, a nudge or the stop. */
  #sleep(ms: number): Promise<void> {
    if (this.#stopped || this.#nudged) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}

function currentOf(stream: WalStream) {
  return {
    id: stream.safekeeperId,
    receivedLsn: stream.receivedLsn,
    silentMs: stream.silentMs,
    stalledMs: stream.stalledMs,
  }
}
