/**
 * Keeps one timeline supplied with WAL: learns how far its safekeepers are, by discovery where there
 * is one and else by asking each, streams from the furthest, goes to another when that one dies or
 * lags. A connection that breaks is tried again. WAL
 * that cannot be taken in breaks the timeline, since going on would skip it; after a while the same
 * WAL is tried again from a clean state, for what failed may have been a disk or object storage.
 */
import type { WalSource } from '#libs/api/node-info.ts'
import type { WalReceiverInfo, WalReceiverState } from '#libs/api/pageserver.ts'
import type { Discovery } from '#libs/discovery/discovery.ts'
import type { DiscoveryMessage } from '#libs/discovery/message.ts'
import { errorMessage } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import type { Timeline } from '../timeline/timeline.ts'
import {
  type Candidate,
  commonSource,
  furthest,
  reasonToSwitch,
  worthConnecting,
} from './choice.ts'
import { type Lag, LagClock } from './lag-clock.ts'
import type { WalReceiverMetrics } from './metrics.ts'
import { SafekeeperNews } from './safekeeper-news.ts'
import { askSource, describeSource } from './source.ts'
import { SourceBackoff } from './source-backoff.ts'
import { IngestFailure, type WalSink, WalStream } from './wal-stream.ts'

const FIRST_RETRY_MS = 100
const LAST_RETRY_MS = 1000
/** How often an idle timeline asks whether there is news. */
const IDLE_POLL_MS = 2000
/** After a nudge it asks at once, and this often for a while: a compute is starting. */
const NUDGED_POLL_MS = 200
const NUDGED_FOR_MS = 15_000
const TICK_MS = 500
const SWITCH_CHECK_MS = 5000
/** Where discovery brings the news, safekeepers are asked this seldom, in case it lost some. */
const RARE_POLL_MS = 30_000
/** A broken timeline is tried again after this long, then ever more seldom. */
const FIRST_REPAIR_MS = 1000
const LAST_REPAIR_MS = 60_000

export interface WalReceiverOptions {
  tenantId: TenantId
  timelineId: TimelineId
  timeline: Timeline
  /** Opens ingest at the timeline's last record; called again after each lost connection. */
  openSink: () => Promise<WalSink>
  safekeepers: readonly WalSource[]
  log: Logger
  metrics: WalReceiverMetrics
  /** Told each time that WAL could not be taken in. */
  onBroken: (reason: string) => void
  /** Told when WAL at which the timeline broke has gone in after all. */
  onRepaired: () => void
  /** When safekeepers are asked for the first time, unless there is a nudge before; default: at once. */
  firstAskMs?: number
  /** Default 1 s. */
  firstRepairMs?: number
  /** Null or absent: all news comes by asking. */
  discovery?: Discovery | null
}

export class WalReceiver {
  readonly #options: WalReceiverOptions
  #safekeepers: readonly WalSource[]
  #state: WalReceiverState = 'connecting'
  #stream: WalStream | null = null
  #lastError: string | null = null
  #connects = 0
  #stopped = false
  #running: Promise<void> | null = null
  #wake: () => void = () => {}
  #nudged = false
  #nudgedAt = Number.NEGATIVE_INFINITY
  /** Where WAL could not be taken in, until it went in; null while all is well. */
  #brokenAt: Lsn | null = null
  #repairMs: number
  readonly #news = new SafekeeperNews()
  readonly #lag = new LagClock()
  readonly #backoff = new SourceBackoff()
  #unsubscribe: () => void = () => {}
  #waitingForNews = false

  constructor(options: WalReceiverOptions) {
    this.#options = options
    this.#safekeepers = options.safekeepers
    this.#repairMs = options.firstRepairMs ?? FIRST_REPAIR_MS
  }

  get safekeepers(): readonly WalSource[] {
    return this.#safekeepers
  }

  start(): void {
    if (this.#running !== null) return
    this.#unsubscribe =
      this.#options.discovery?.subscribe(this.#options, (frame) => {
        if (frame.kind === 'message') this.#hear(frame)
      }) ?? (() => {})
    this.#running = this.#run()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.#unsubscribe()
    this.#wake()
    await this.#stream?.close()
    await this.#running
    this.#state = 'stopped'
  }

  /** Takes a new list; a stream from a safekeeper that is no longer in it ends. */
  setSafekeepers(safekeepers: readonly WalSource[]): void {
    this.#safekeepers = safekeepers
    const id = this.#stream?.sourceId
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
    const lag = this.lag()
    return {
      state: this.#state,
      safekeeperId: stream?.sourceId ?? null,
      commitLsn: stream && stream.commitLsn > 0 ? formatLsn(stream.commitLsn) : null,
      receivedLsn: formatLsn(stream?.receivedLsn ?? this.#options.timeline.lastRecordLsn),
      lagBytes: lag?.bytes ?? null,
      lagMs: lag?.ms ?? null,
      reconnects: Math.max(0, this.#connects - 1),
      lastError: this.#lastError,
    }
  }

  /** What safekeepers have committed and we have not taken in; null while none has told. */
  lag(): Lag | null {
    const nowMs = performance.now()
    this.#lag.heard(this.#stream?.commitLsn ?? 0, nowMs)
    return this.#lag.lag(this.#options.timeline.lastRecordLsn, nowMs)
  }

  async #run(): Promise<void> {
    let retryMs = FIRST_RETRY_MS
    let progressed = true
    const { firstAskMs = 0 } = this.#options
    if (firstAskMs > 0) await this.#sleep(firstAskMs)
    while (!this.#stopped) {
      this.#nudged = false
      // News that led nowhere is not believed twice.
      const candidates = (progressed ? this.#worthyNews() : null) ?? (await this.#poll())
      const eligible = this.#backoff.eligible(candidates, performance.now())
      const isShard = (this.#options.timeline.shard ?? null) !== null
      const best = isShard ? commonSource(eligible) : furthest(eligible)
      if (best && worthConnecting(candidates, this.#options.timeline)) {
        progressed = await this.#streamFrom(best.id)
        if (progressed) this.#backoff.worked(best.id)
        else this.#backoff.failed(best.id, performance.now())
        retryMs = progressed ? FIRST_RETRY_MS : Math.min(retryMs * 2, LAST_RETRY_MS)
        await this.#sleep(retryMs)
      } else if (best) {
        this.#setState('waiting')
        retryMs = FIRST_RETRY_MS
        progressed = true
        await this.#waitForNews()
      } else {
        this.#setState('connecting')
        await this.#sleep(retryMs)
        retryMs = Math.min(retryMs * 2, LAST_RETRY_MS)
      }
    }
  }

  /** The candidates by discovery, when they say that there is something to receive. */
  #worthyNews(): Candidate[] | null {
    const candidates = this.#candidates()
    return worthConnecting(candidates, this.#options.timeline) ? candidates : null
  }

  #candidates(): Candidate[] {
    const ids = this.#safekeepers.map(({ id }) => id)
    return this.#news.candidates(ids, performance.now())
  }

  #hear(message: DiscoveryMessage): void {
    this.#news.hear(message, performance.now())
    if (this.#waitingForNews && this.#worthyNews() !== null) this.#wake()
  }

  get #hearsNews(): boolean {
    return this.#options.discovery?.connected ?? false
  }

  /** Idle: until news comes, or until it is time to ask. */
  async #waitForNews(): Promise<void> {
    const nudged = performance.now() - this.#nudgedAt < NUDGED_FOR_MS
    const idleMs = this.#hearsNews ? RARE_POLL_MS : IDLE_POLL_MS
    this.#waitingForNews = true
    await this.#sleep(nudged ? NUDGED_POLL_MS : idleMs)
    this.#waitingForNews = false
  }

  /** A broken timeline stays so until the WAL at which it broke has gone in. */
  #setState(state: WalReceiverState): void {
    if (this.#brokenAt !== null) return
    this.#state = state
    if (state !== 'connecting') this.#lastError = null
  }

  /** Asks all safekeepers at once; those that do not answer in time do not count. */
  #poll(): Promise<Candidate[]> {
    return Promise.all(
      this.#safekeepers.map(async (source): Promise<Candidate> => {
        try {
          const candidate = await askSource(this.#options, source)
          this.#lag.heard(candidate.commitLsn ?? 0, performance.now())
          return candidate
        } catch (error) {
          this.#note(`${describeSource(source)}: ${errorMessage(error)}`)
          const { id } = source
          return { id, commitLsn: null, computeConnected: false, remoteConsistentLsn: 0 }
        }
      }),
    )
  }

  /** Streams until something ends it; true when any WAL was taken in. */
  async #streamFrom(sourceId: number): Promise<boolean> {
    const { timeline, log, metrics } = this.#options
    const source = this.#safekeepers.find((one) => one.id === sourceId)
    if (!source) return false
    const before = timeline.lastRecordLsn
    let stream: WalStream
    try {
      this.#setState('connecting')
      stream = await WalStream.open({
        ...this.#options,
        source,
        sink: await this.#options.openSink(),
        onBytes: metrics.countBytes,
      })
    } catch (error) {
      this.#note(`${describeSource(source)}: ${errorMessage(error)}`)
      return false
    }
    this.#stream = stream
    this.#connects += 1
    this.#setState('streaming')
    const { tenantId, timelineId } = this.#options
    const about = { tenantId, timelineId, source: describeSource(source) }
    log.info({ ...about, lsn: formatLsn(stream.receivedLsn) }, 'receiving WAL')
    if (this.#stopped) await stream.close()
    const supervision = this.#supervise(stream)
    const error = await stream.ended
    await stream.close()
    supervision.stop()
    this.#noteProgress()
    this.#stream = null
    if (error instanceof IngestFailure) await this.#break(error)
    else if (error) this.#note(`${describeSource(source)}: ${error.message}`)
    else log.info(about, 'WAL stream ended')
    return timeline.lastRecordLsn > before
  }

  #supervise(stream: WalStream): { stop(): void } {
    let checkedAt = performance.now()
    let askedAt = checkedAt
    const tick = setInterval(() => {
      stream.sendFeedback(Date.now())
      this.#noteProgress()
      const now = performance.now()
      this.lag()
      const silent = reasonToSwitch(currentOf(stream), [])
      if (silent !== null) this.#leave(stream, silent)
      else if (now - checkedAt > SWITCH_CHECK_MS && this.#safekeepers.length > 1) {
        checkedAt = now
        // News only makes suspicious: what the others have they tell themselves before we switch.
        const suspicious = reasonToSwitch(currentOf(stream), this.#candidates()) !== null
        if (this.#hearsNews && !suspicious && now - askedAt < RARE_POLL_MS) return
        askedAt = now
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

  /** Leaves the timeline as it was after its last whole record, and waits before the next try. */
  async #break(error: IngestFailure): Promise<void> {
    const { timeline, log, onBroken, tenantId, timelineId } = this.#options
    timeline.dropUnpublished()
    const at = formatLsn(timeline.lastRecordLsn)
    const reason = `WAL after ${at} could not be taken in: ${error.message}`
    this.#brokenAt = timeline.lastRecordLsn
    this.#state = 'broken'
    this.#lastError = reason
    const retryMs = this.#repairMs
    log.error({ err: error.cause, tenantId, timelineId, retryMs }, `timeline is broken: ${reason}`)
    onBroken(reason)
    this.#repairMs = Math.min(this.#repairMs * 2, LAST_REPAIR_MS)
    const againAt = performance.now() + retryMs
    // Not sooner, however often somebody asks for news.
    for (let now = performance.now(); now < againAt && !this.#stopped; now = performance.now()) {
      this.#nudged = false
      await this.#sleep(againAt - now)
    }
  }

  #noteProgress(): void {
    const { timeline, log, onRepaired, tenantId, timelineId } = this.#options
    if (this.#brokenAt === null || timeline.lastRecordLsn <= this.#brokenAt) return
    this.#brokenAt = null
    this.#repairMs = this.#options.firstRepairMs ?? FIRST_REPAIR_MS
    this.#setState(this.#stream ? 'streaming' : 'connecting')
    this.#lastError = null
    log.info({ tenantId, timelineId }, 'the timeline takes in WAL again')
    onRepaired()
  }

  /** Remembers and logs a problem, once per change. */
  #note(message: string): void {
    if (this.#stopped || this.#lastError === message) return
    // Why it is broken says more than what went wrong since.
    if (this.#brokenAt === null) this.#lastError = message
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
    id: stream.sourceId,
    receivedLsn: stream.receivedLsn,
    silentMs: stream.silentMs,
    stalledMs: stream.stalledMs,
  }
}
