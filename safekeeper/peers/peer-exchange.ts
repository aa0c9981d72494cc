/**
 * A safekeeper among its peers: tells them by discovery about its active timelines, hears of theirs,
 * asks the one that knows more, and catches up from one whose log is better.
 *
 * Discovery only says whom to ask. Positions that move anything here come from the peer itself, at
 * the address that the stored configuration names, over a connection that shows who it is.
 */
import type { Discovery } from '#libs/discovery/discovery.ts'
import {
  type DiscoveryFrame,
  type DiscoveryMessage,
  type TimelineKey,
  timelineKeyText,
} from '#libs/discovery/message.ts'
import { errorMessage } from '#libs/errors.ts'
import { parseLsn } from '#libs/lsn.ts'
import type { Logger } from '#libs/log.ts'
import { allMembers } from '#libs/protocol/quorum.ts'
import type { PeerMetrics } from './peer-metrics.ts'
import type { Timeline } from '../timeline.ts'
import type { PeerAddresses } from './peer-addresses.ts'
import { type OwnPositions, peerToAsk, worthPublishing } from './peer-news.ts'
import type { PeerTable } from './peer-table.ts'
import type { PeerTables } from './peer-tables.ts'
import { askPeer, TimelineRecovery } from './timeline-recovery.ts'

const PUBLISH_MS = 1_000
const TICK_MS = 500
/** Requests that come together are answered together. */
const ANSWER_MS = 50
/** A timeline that was just opened is published for so long, in case it lags. */
const NEWBORN_MS = 10_000
/** Between two questions about one timeline; and to a peer that knew nothing after all. */
const ASK_AGAIN_MS = 1_000
const ASK_IN_VAIN_MS = 10_000

export interface PeerExchangeOptions {
  nodeId: number
  /** Random, 32 hex digits. */
  proposerId: string
  /** Where this safekeeper is reachable; for people who read messages. */
  host: string
  pgPort: number
  httpPort: number
  hasObjectStore: boolean
  timelines: { list(): Timeline[] }
  tables: PeerTables
  addresses: PeerAddresses
  discovery: Discovery
  metrics: PeerMetrics
  log: Logger
}

/** What is kept for one open timeline. */
interface Known {
  timeline: Timeline
  key: TimelineKey
  table: PeerTable
  recovery: TimelineRecovery
  sinceMs: number
  askAgainAtMs: number
  asking: boolean
  /** Peers that were asked in vain, and until when they are not asked again. */
  inVain: Map<number, number>
}

export class PeerExchange {
  readonly #options: PeerExchangeOptions
  readonly #known = new Map<string, Known>()
  readonly #requested = new Set<string>()
  readonly #timers: NodeJS.Timeout[]
  readonly #unsubscribe: () => void
  #answerTimer: NodeJS.Timeout | null = null

  constructor(options: PeerExchangeOptions) {
    this.#options = options
    this.#unsubscribe = options.discovery.subscribe(null, (frame) => this.#hear(frame))
    this.#timers = [
      setInterval(() => this.#publishActive(), PUBLISH_MS),
      setInterval(() => this.#tick(), TICK_MS),
    ]
    this.#syncKnown()
  }

  close(): void {
    for (const timer of this.#timers) clearInterval(timer)
    if (this.#answerTimer !== null) clearTimeout(this.#answerTimer)
    this.#unsubscribe()
    for (const { recovery } of this.#known.values()) recovery.close()
  }

  #hear(frame: DiscoveryFrame): void {
    const name = timelineKeyText(frame)
    const known = this.#known.get(name)
    if (known === undefined) return
    if (frame.kind === 'message') known.table.hear(frame, performance.now())
    else {
      this.#requested.add(name)
      this.#answerTimer ??= setTimeout(() => this.#answer(), ANSWER_MS)
    }
  }

  #answer(): void {
    this.#answerTimer = null
    const messages: DiscoveryMessage[] = []
    for (const name of this.#requested) {
      const known = this.#known.get(name)
      if (known !== undefined && !known.timeline.closed) messages.push(this.#message(known))
    }
    this.#requested.clear()
    if (messages.length > 0) this.#options.discovery.publish(messages)
  }

  #publishActive(): void {
    const nowMs = performance.now()
    const messages: DiscoveryMessage[] = []
    for (const known of this.#known.values()) {
      const { timeline, table, sinceMs } = known
      if (timeline.closed || timeline.halted !== null) continue
      const active =
        nowMs - sinceMs < NEWBORN_MS ||
        worthPublishing(positionsOf(timeline), table.fresh(nowMs), this.#options.hasObjectStore)
      if (active) messages.push(this.#message(known))
    }
    this.#options.metrics.active.set(messages.length)
    if (messages.length > 0) this.#options.discovery.publish(messages)
  }

  #tick(): void {
    this.#syncKnown()
    this.#options.metrics.connected.set(this.#options.discovery.connected ? 1 : 0)
    const nowMs = performance.now()
    for (const known of this.#known.values()) {
      const { timeline, table, recovery } = known
      if (timeline.closed || timeline.halted !== null) continue
      const peers = table.fresh(nowMs)
      if (peers.length > 0 || recovery.running) recovery.tick(nowMs, peers)
      if (!known.asking && nowMs >= known.askAgainAtMs) void this.#askWhoKnows(known, peers)
    }
  }

  /** Follows the timelines that are open here, as they come and go. */
  #syncKnown(): void {
    const open = new Set<Timeline>(this.#options.timelines.list())
    for (const [name, { timeline, recovery, key }] of this.#known) {
      if (open.delete(timeline)) continue
      recovery.close()
      this.#known.delete(name)
      this.#options.tables.forget(key)
    }
    for (const timeline of open) {
      const { tenantId, timelineId } = timeline.control
      const key = { tenantId, timelineId }
      const { nodeId, proposerId, addresses, log, metrics } = this.#options
      this.#known.set(timelineKeyText(key), {
        timeline,
        key,
        table: this.#options.tables.of(key),
        recovery: new TimelineRecovery({
          timeline,
          nodeId,
          proposerId,
          addresses,
          log: log.child({ timeline: timelineId }),
          onEnd: (caughtUp) => metrics.recoveries.inc({ result: caughtUp ? 'ok' : 'failed' }),
        }),
        sinceMs: performance.now(),
        askAgainAtMs: 0,
        asking: false,
        inVain: new Map(),
      })
      // Peers of a quiet timeline say nothing by themselves, and this copy may lag.
      this.#options.discovery.request(key)
    }
  }

  async #askWhoKnows(known: Known, peers: readonly DiscoveryMessage[]): Promise<void> {
    const { timeline, inVain } = known
    const nowMs = performance.now()
    const members = new Set(allMembers(timeline.control.configuration).map(({ id }) => id))
    // Whoever praises itself without reason must not keep us from asking the others.
    const askable = peers.filter(
      ({ nodeId }) => members.has(nodeId) && (inVain.get(nodeId) ?? nowMs) <= nowMs,
    )
    const id = peerToAsk(positionsOf(timeline), askable)
    if (id === null) return
    known.asking = true
    const before = positionsOf(timeline)
    try {
      const peer = await this.#options.addresses.of(timeline.control.configuration, id)
      if (peer === null) return
      const status = await askPeer(timeline, peer)
      if (timeline.closed || timeline.halted !== null) return
      timeline.peerPositions({
        term: status.term,
        lastLogTerm: status.lastLogTerm,
        commitLsn: parseLsn(status.commitLsn),
        // The leader tells it to all; nothing here waits for it.
        peerHorizonLsn: timeline.control.peerHorizonLsn,
        remoteConsistentLsn: parseLsn(status.remoteConsistentLsn),
      })
    } catch (error) {
      this.#options.log.debug({ peer: id, err: errorMessage(error) }, 'a peer does not answer')
    } finally {
      known.asking = false
      const after = positionsOf(timeline)
      const gained =
        after.commitLsn > before.commitLsn || after.remoteConsistentLsn > before.remoteConsistentLsn
      const askedAtMs = performance.now()
      known.askAgainAtMs = askedAtMs + ASK_AGAIN_MS
      if (gained) inVain.delete(id)
      else inVain.set(id, askedAtMs + ASK_IN_VAIN_MS)
    }
  }

  #message({ timeline, key }: Known): DiscoveryMessage {
    const { control } = timeline
    const { nodeId, host, pgPort, httpPort } = this.#options
    return {
      ...key,
      nodeId,
      generation: control.configuration.generation,
      term: control.term,
      lastLogTerm: timeline.lastLogTerm,
      flushLsn: timeline.flushLsn,
      commitLsn: control.commitLsn,
      backupLsn: control.backupLsn,
      remoteConsistentLsn: control.remoteConsistentLsn,
      peerHorizonLsn: control.peerHorizonLsn,
      localStartLsn: control.localStartLsn,
      standbyHorizonLsn: null,
      host,
      pgPort,
      httpPort,
      computeConnected: timeline.computeConnected,
      sentAtMs: Date.now(),
    }
  }
}

function positionsOf(timeline: Timeline): OwnPositions {
  const { control, flushLsn, lastLogTerm, computeConnected } = timeline
  return {
    term: control.term,
    lastLogTerm,
    flushLsn,
    commitLsn: control.commitLsn,
    backupLsn: control.backupLsn,
    remoteConsistentLsn: control.remoteConsistentLsn,
    proposerConnected: computeConnected,
  }
}
