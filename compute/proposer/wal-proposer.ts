/**
 * The WAL proposer: wins the timeline for this compute, brings a quorum of safekeepers to one log,
 * then streams the WAL of the local Postgres to them and tells it what a quorum has durably.
 *
 * A shell: decisions are in core.ts. The path of a commit has no timer and one copy: bytes from the
 * walsender's socket go to the window, from there to each safekeeper's socket in the same turn; the
 * acknowledgement that completes a quorum sends the status update in its own turn.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import type { Logger } from '#libs/log.ts'
import { DonorReader } from '#libs/pgwire/donor-reader.ts'
import type { SessionTarget } from '#libs/pgwire/session-target.ts'
import { configurationProblem } from '#libs/protocol/quorum.ts'
import {
  type ClusterSize,
  type ShardPositions,
  ShardFeedbacks,
} from '#libs/protocol/shard-feedbacks.ts'
import type { AcceptorMessage, Member, MemberConfiguration } from '#libs/protocol/wal-push.ts'
import type { PageserverFeedback } from '#libs/protocol/wal-stream.ts'
import { ProposerCore } from './core.ts'
import type { ProposerEffect, ProposerEvent } from './events.ts'
import { type PostgresAddress, PostgresStream } from './postgres-stream.ts'
import { SafekeeperLink } from './safekeeper-link.ts'
import { StandbyHorizon } from './standby-horizon.ts'
import { WalWindow } from './wal-window.ts'

const TICK_MS = 100
/** How soon safekeepers, and so readers of committed WAL, hear of a commit when no WAL follows it. */
const NEWS_DELAY_MS = 1
const SETTLE_MS = 1_000
const STOP_LOG_MS = 5_000

export interface WalProposerOptions {
  tenantId: TenantId
  timelineId: TimelineId
  /** For logs. */
  endpointName: string
  /** The members as known at the start; safekeepers may tell of newer ones. */
  configuration: MemberConfiguration
  pgVersion: number
  /** Decimal; "0" when there is no Postgres. */
  systemId: string
  log: Logger
}

export interface Election {
  term: number
  /** S: the end of the log, committed; this compute's own WAL begins here. */
  startLsn: Lsn
}

export interface WalProposerStatus {
  phase: 'idle' | 'collecting' | 'campaign' | 'elected' | 'fenced' | 'stopped'
  term: number
  /** Of the member list in force. */
  generation: number
  commitLsn: Lsn
  /** End of the WAL taken from Postgres. */
  receivedLsn: Lsn
  /** What all shards of the page server have, as the safekeepers heard last; null at first. */
  pageserver: ShardPositions | null
  postgresConnected: boolean
  safekeepers: { id: number; state: string; sentLsn: Lsn; ackedLsn: Lsn }[]
}

export class WalProposer {
  readonly #target: SessionTarget
  readonly #core: ProposerCore
  readonly #log: Logger
  readonly #links = new Map<number, SafekeeperLink>()
  readonly #readers = new Map<number, DonorReader>()
  readonly #lostReasons = new Map<number, string>()
  readonly #dropReasons = new Map<number, string>()
  #window = new WalWindow(0)
  #postgres: PostgresStream | null = null
  #postgresPaused = false
  #pumping = false
  #timer: NodeJS.Timeout | undefined
  #newsTimer: NodeJS.Timeout | undefined
  readonly #shards = new ShardFeedbacks(1, 0)
  readonly #horizon = new StandbyHorizon()
  #fencedReason: string | null = null
  #stopped = false
  #onPageserver: (positions: ShardPositions, size: ClusterSize | null) => void = () => {}
  readonly #fencedCallbacks: ((reason: string) => void)[] = []
  #electionWaiter: { resolve: (won: Election) => void; reject: (error: Error) => void } | null =
    null
  #commitWaiters: { lsn: Lsn; resolve: () => void }[] = []

  constructor(options: WalProposerOptions) {
    this.#target = { tenantId: options.tenantId, timelineId: options.timelineId }
    this.#log = options.log.child({ part: 'proposer', endpoint: options.endpointName })
    const problem = configurationProblem(options.configuration)
    if (problem !== null) {
      throw new ZenithError('invalid_argument', `the list of safekeepers is wrong: ${problem}`, {
        hint: 'Each safekeeper must be listed once, at an address of its own, and one at least.',
      })
    }
    this.#core = new ProposerCore({
      ...this.#target,
      configuration: options.configuration,
      pgVersion: options.pgVersion,
      systemId: BigInt(options.systemId),
      proposerId: randomBytes(16).toString('hex'),
      random: Math.random,
    })
  }

  readonly lagBytes = null

  /** Term of the newest election; it rises when the election is held again. */
  get term(): number {
    return this.#core.term
  }

  /** End of the WAL that a quorum has durably; 0 before the election. */
  get commitLsn(): Lsn {
    return this.#core.commitLsn
  }

  /**
   * Wins the election and brings a quorum to the end of the log. Waits as long as a quorum is
   * missing. Throws `fenced` when another proposer takes the timeline meanwhile.
   */
  elect(): Promise<Election> {
    return new Promise((resolve, reject) => {
      this.#electionWaiter = { resolve, reject }
      this.#timer = setInterval(() => this.#step({ kind: 'tick', nowMs: nowMs() }), TICK_MS)
      this.#step({ kind: 'start', nowMs: nowMs() })
    })
  }

  /** Streams from the local Postgres, which began at the elected position, until `stop`. */
  stream(options: PostgresAddress & { startLsn: Lsn }): void {
    const { startLsn, ...address } = options
    if (startLsn !== this.#core.termStartLsn || this.#core.commitLsn < startLsn) {
      throw new ZenithError(
        'precondition_failed',
        `this term starts at ${formatLsn(this.#core.termStartLsn)}, not ${formatLsn(startLsn)}`,
      )
    }
    this.#postgres = new PostgresStream({
      address,
      nextLsn: () => this.#window.endLsn,
      positions: () => ({
        commitLsn: this.#core.commitLsn,
        appliedLsn: this.#shards.remoteConsistentLsn,
      }),
      standbyXmins: () => this.#horizon.at(nowMs()),
      onWal: (wal) => this.#guard(() => this.#onWal(wal)),
      log: this.#log,
    })
  }

  /** Calls back once when another proposer has taken the timeline. Postgres must die at once then. */
  onFenced(callback: (reason: string) => void): void {
    this.#fencedCallbacks.push(callback)
    if (this.#fencedReason !== null) callback(this.#fencedReason)
  }

  /** Calls back now and whenever the page server's positions have been heard. One listener. */
  onPageserver(listener: (positions: ShardPositions, size: ClusterSize | null) => void): void {
    this.#onPageserver = listener
    this.#tellPageserver()
  }

  status(): WalProposerStatus {
    return {
      phase: this.#stopped ? 'stopped' : this.#timer === undefined ? 'idle' : this.#core.phase,
      term: this.#core.term,
      generation: this.#core.configuration.generation,
      commitLsn: this.#core.commitLsn,
      receivedLsn: this.#window.endLsn,
      pageserver: this.#shards.lowest,
      postgresConnected: this.#postgres?.isConnected ?? false,
      safekeepers: this.#core.nodes(),
    }
  }

  /** Resolves when a quorum has everything up to `lsn`, or the proposer was stopped or fenced. */
  waitCommitted(lsn: Lsn): Promise<void> {
    if (this.#core.commitLsn >= lsn || this.#stopped || this.#fencedReason !== null) {
      return Promise.resolve()
    }
    return new Promise((resolve) => this.#commitWaiters.push({ lsn, resolve }))
  }

  /**
   * Ends the work. Call after Postgres has shut down: waits until a quorum has everything that came
   * from it and knows that it is committed, then closes the connections. Before the election it just
   * gives up.
   */
  async stop(): Promise<void> {
    if (this.#stopped) return
    if (this.#postgres !== null) {
      const reminder = setInterval(
        () => this.#log.warn(this.status(), 'waiting for a quorum to have the last WAL'),
        STOP_LOG_MS,
      )
      await this.waitCommitted(this.#window.endLsn)
      clearInterval(reminder)
    }
    if (this.#core.phase === 'elected' && this.#core.commitLsn > 0) await this.#settle()
    this.#shutDown()
    this.#electionWaiter?.reject(new ZenithError('unavailable', 'the proposer was stopped'))
    this.#electionWaiter = null
  }

  /**
   * Gives the other connected safekeepers a moment to get the last WAL too, and tells all of them that
   * it is committed: nobody else will before the next election, and readers wait for it.
   */
  async #settle(): Promise<void> {
    const endLsn = this.#window.endLsn
    const deadline = nowMs() + SETTLE_MS
    const isBehind = () =>
      this.#core.nodes().some((node) => node.state === 'active' && node.ackedLsn < endLsn)
    while (isBehind() && nowMs() < deadline && !this.#stopped) await sleep(5)
    this.#pumpAll(true)
  }

  /** Ends the work at once, as a crash would. */
  abandon(): void {
    if (!this.#stopped) this.#shutDown()
  }

  #shutDown(): void {
    this.#stopped = true
    clearInterval(this.#timer)
    clearTimeout(this.#newsTimer)
    this.#postgres?.stop()
    for (const reader of this.#readers.values()) reader.close()
    for (const link of this.#links.values()) link.close()
    this.#links.clear()
    this.#releaseWaiters(Number.POSITIVE_INFINITY)
  }

  #step(event: ProposerEvent): void {
    this.#guard(() => {
      for (const effect of this.#core.step(event)) this.#perform(effect)
      this.#pumpAll()
    })
  }

  /** A broken invariant here must stop the compute, not look like a connection that failed. */
  #guard(run: () => void): void {
    if (this.#stopped) return
    try {
      run()
    } catch (error) {
      this.#log.fatal({ err: error }, 'the proposer failed')
      this.#onFenced(`the proposer failed: ${errorMessage(error)}`)
    }
  }

  #perform(effect: ProposerEffect): void {
    switch (effect.kind) {
      case 'connect':
        this.#connect(effect.member)
        break
      case 'disconnect':
        this.#logDropped(effect.node, effect.reason)
        this.#unlink(effect.node)
        break
      case 'send':
        this.#links.get(effect.node)?.send(effect.message)
        break
      case 'fetch':
        this.#fetch(effect)
        break
      case 'elected':
        this.#window = new WalWindow(effect.startLsn)
        this.#log.info({ term: effect.term, lsn: formatLsn(effect.startLsn) }, 'election won')
        break
      case 're-elected':
        this.#log.info(
          { term: effect.term, lsn: formatLsn(effect.startLsn) },
          'election won again; Postgres went on meanwhile',
        )
        break
      case 'deposed':
        this.#log.warn({ reason: effect.reason }, 'holding the election again; commits wait')
        break
      case 'committed':
        this.#onCommitted(effect.lsn)
        break
      case 'fenced':
        this.#onFenced(effect.reason)
    }
  }

  #connect(member: Member): void {
    const { id } = member
    this.#unlink(id)
    const link: SafekeeperLink = new SafekeeperLink(member, this.#target, {
      onConnected: () => {
        this.#lostReasons.delete(id)
        this.#fromLink(link, { kind: 'connected', node: id, nowMs: nowMs() })
      },
      onMessage: (message) => this.#onMessage(link, message),
      onWritable: () => this.#guard(() => this.#pumpAll()),
      onEnd: (error) => {
        this.#logLost(id, error?.message ?? 'closed')
        if (this.#links.get(id) !== link) return
        this.#unlink(id)
        this.#step({ kind: 'disconnected', node: id, nowMs: nowMs() })
      },
    })
    this.#links.set(id, link)
  }

  /** A deposed proposer drops all connections four times a second while it waits: say so once. */
  #logDropped(id: number, reason: string): void {
    const level = this.#dropReasons.get(id) === reason ? 'debug' : 'info'
    this.#dropReasons.set(id, reason)
    this.#log[level]({ safekeeper: id, reason }, 'dropping a connection')
  }

  /** A safekeeper that is down is tried four times a second: say so once, not each time. */
  #logLost(id: number, reason: string): void {
    if (this.#lostReasons.get(id) === reason) return
    this.#lostReasons.set(id, reason)
    this.#log.info({ safekeeper: id, reason }, 'connection to a safekeeper ended')
  }

  #unlink(id: number): void {
    this.#links.get(id)?.close()
    this.#links.delete(id)
    this.#horizon.lost(id, nowMs())
    this.#readers.get(id)?.close()
    this.#readers.delete(id)
  }

  #fromLink(link: SafekeeperLink, event: ProposerEvent): void {
    if (this.#links.get(link.member.id) === link) this.#step(event)
  }

  #onMessage(link: SafekeeperLink, message: AcceptorMessage): void {
    if (message.kind === 'ack') {
      if (message.feedback.length > 0) this.#onFeedback(message.feedback)
      this.#horizon.heard(link.member.id, message.hotStandby, nowMs())
      this.#postgres?.reportXmins()
    }
    this.#fromLink(link, { kind: 'message', node: link.member.id, message, nowMs: nowMs() })
  }

  #onFeedback(feedbacks: readonly PageserverFeedback[]): void {
    for (const feedback of feedbacks) this.#shards.heard(feedback)
    this.#tellPageserver()
  }

  #tellPageserver(): void {
    const positions = this.#shards.lowest
    if (positions !== null) this.#onPageserver(positions, this.#shards.clusterSize)
  }

  #onWal(wal: Buffer): void {
    this.#window.append(wal)
    this.#pumpSoon()
    if (!this.#window.isFull(this.#core.commitLsn)) return
    if (!this.#postgresPaused) {
      this.#log.warn('too much WAL waits for a quorum; not taking more from Postgres')
    }
    this.#postgresPaused = true
    this.#postgres?.pause()
  }

  /** Once all that one read brought is in the window: more commits share a message, none waits. */
  #pumpSoon(): void {
    if (this.#pumping) return
    this.#pumping = true
    process.nextTick(() => {
      this.#pumping = false
      this.#guard(() => {
        this.#shareWindow()
        this.#pumpAll()
      })
    })
  }

  #shareWindow(): void {
    const { startLsn, endLsn } = this.#window
    this.#core.step({ kind: 'window', startLsn, endLsn })
  }

  #onCommitted(lsn: Lsn): void {
    this.#postgres?.report()
    // Under load the news rides on the next append, so give that a moment to come.
    this.#newsTimer ??= setTimeout(() => {
      this.#newsTimer = undefined
      this.#guard(() => this.#pumpAll(true))
    }, NEWS_DELAY_MS)
    this.#window.trim(lsn, this.#core.lowestSentLsn)
    this.#shareWindow()
    if (this.#postgresPaused && !this.#window.isFull(lsn)) {
      this.#postgresPaused = false
      this.#postgres?.resume()
    }
    const waiter = this.#electionWaiter
    if (waiter !== null && lsn >= this.#core.termStartLsn) {
      this.#electionWaiter = null
      // Readers must reach this position before anything can start there.
      this.#pumpAll(true)
      waiter.resolve({ term: this.#core.term, startLsn: this.#core.termStartLsn })
    }
    this.#releaseWaiters(lsn)
  }

  #releaseWaiters(lsn: Lsn): void {
    if (this.#commitWaiters.length === 0) return
    for (const waiter of this.#commitWaiters) if (waiter.lsn <= lsn) waiter.resolve()
    this.#commitWaiters = this.#commitWaiters.filter((waiter) => waiter.lsn > lsn)
  }

  #onFenced(reason: string): void {
    this.#log.error({ reason }, 'fenced: this compute must not go on')
    this.#fencedReason = reason
    this.#shutDown()
    this.#electionWaiter?.reject(new ZenithError('fenced', reason))
    this.#electionWaiter = null
    for (const callback of this.#fencedCallbacks) callback(reason)
  }

  /** Sends whatever the safekeepers can take. */
  #pumpAll(withNews = false): void {
    if (this.#core.phase !== 'elected') return
    for (const [id, link] of this.#links) this.#pump(id, link, withNews)
    for (const fetch of this.#core.wantedFetches()) this.#fetch(fetch)
  }

  #pump(id: number, link: SafekeeperLink, withNews: boolean): void {
    let corked = false
    while (link.isWritable) {
      const header = this.#core.nextAppend(id, withNews)
      if (header === null) break
      if (!corked) link.cork()
      corked = true
      link.append(header, this.#window.pieces(header.beginLsn, header.endLsn))
    }
    if (corked) link.uncork()
    if (link.isWritable) this.#readers.get(id)?.resume()
  }

  #fetch(fetch: Extract<ProposerEffect, { kind: 'fetch' }>): void {
    const { node, beginLsn, endLsn } = fetch
    const donor = this.#core.member(fetch.donor)
    assert(donor !== undefined, 'a donor is a member')
    this.#log.info(
      { safekeeper: node, donor: donor.id, from: formatLsn(beginLsn), to: formatLsn(endLsn) },
      'bringing a safekeeper up to date from another',
    )
    const link = this.#links.get(node)
    const reader: DonorReader = new DonorReader({
      donor,
      target: this.#target,
      term: this.#core.term,
      beginLsn,
      endLsn,
      applicationName: 'walproposer-recovery',
      onWal: (lsn, wal) => {
        if (link === undefined || this.#links.get(node) !== link) return false
        const header = this.#core.relay(node, lsn, lsn + wal.length)
        if (header === null) return false
        // The bytes are the reader's, valid during this call only.
        link.append(header, [Buffer.from(wal)])
        if (!link.isWritable) reader.pause()
        return true
      },
      onEnd: (error) => {
        if (error !== null) {
          this.#log.warn({ safekeeper: node, reason: error.message }, 'recovery read broke off')
        }
        this.#readers.delete(node)
        this.#step({ kind: 'fetch-ended', node, complete: error === null })
      },
    })
    this.#readers.set(node, reader)
  }
}

/** Milliseconds of a clock that never jumps. */
function nowMs(): number {
  return performance.now()
}
