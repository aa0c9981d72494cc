/**
 * The proposer: what a compute decides about its safekeepers. Pure: `step` takes an event and returns
 * effects; time comes in with events, randomness through `random`, WAL bytes stay outside.
 *
 * Life: collecting (greet everybody) -> campaign (ask for votes) -> elected (recover and stream), or
 * fenced (another proposer has a higher term; final). A lost campaign starts over with a higher term.
 * Once a quorum has the log up to the start of the term, what is elected stays elected until fenced:
 * the proposer never campaigns again, since its Postgres begins at the position this election fixed.
 *
 * Positions: the log of this term begins at `termStartLsn`, the end of the best voter's log. The
 * window [windowStartLsn, windowEndLsn) is the WAL that the shell can send; what a safekeeper lacks
 * below it is fetched from another safekeeper. Nothing is committed until a quorum has acknowledged
 * `termStartLsn` or more in this term; then everything up to there is, at once.
 */
import { assert } from '#libs/errors.ts'
import { formatLsn, type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import {
  commonPoint,
  cutHistory,
  lastLogTerm,
  type TermEntry,
} from '#libs/protocol/term-history.ts'
import {
  type AcceptorGreeting,
  type AcceptorMessage,
  type Ack,
  type Append,
  MAX_APPEND_BYTES,
  type Member,
  type MemberConfiguration,
  type ProposerMessage,
  type VoteReply,
} from '#libs/protocol/wal-push.ts'
import { isQuorum, quorumLsn } from '#libs/protocol/quorum.ts'

export const HEARTBEAT_MS = 1_000
export const SILENCE_MS = 10_000
export const RECONNECT_MS = 250
/** How long the best voter may be away during recovery before the election is held again. */
export const ABANDON_MS = 3_000
/** A lost campaign is repeated after a random wait up to this, so that rivals do not stay in step. */
export const CAMPAIGN_BACKOFF_MS = 300

export type ProposerEvent =
  | { kind: 'start'; nowMs: number }
  | { kind: 'tick'; nowMs: number }
  /** The connection asked for by `connect` is ready for messages. */
  | { kind: 'connected'; node: number; nowMs: number }
  | { kind: 'disconnected'; node: number; nowMs: number }
  | { kind: 'message'; node: number; message: AcceptorMessage; nowMs: number }
  /** The shell holds WAL of this term in [startLsn, endLsn). */
  | { kind: 'window'; startLsn: Lsn; endLsn: Lsn }
  /** A fetch ended: complete, or broken off. The shell itself ends those of a lost connection. */
  | { kind: 'fetch-ended'; node: number; complete: boolean }

export type ProposerEffect =
  | { kind: 'connect'; node: number }
  | { kind: 'disconnect'; node: number; reason: string }
  | { kind: 'send'; node: number; message: ProposerMessage }
  /** From `wantedFetches`: read WAL [beginLsn, endLsn) from the safekeeper `donor` and pass it to `relay`. */
  | { kind: 'fetch'; node: number; donor: number; beginLsn: Lsn; endLsn: Lsn }
  /** The election is won; the log ends at `startLsn`, not yet committed. */
  | { kind: 'elected'; term: number; startLsn: Lsn }
  | { kind: 'committed'; lsn: Lsn }
  | { kind: 'fenced'; reason: string }

export type AppendHeader = Omit<Append, 'kind' | 'wal'>

type Phase = 'collecting' | 'campaign' | 'elected' | 'fenced'

interface Node {
  readonly member: Member
  /** waiting: to reconnect. greeting, voting: for that reply. greeted: until there is a campaign. */
  state: 'waiting' | 'connecting' | 'greeting' | 'greeted' | 'voting' | 'active'
  ordinal: number
  incarnation: string | null
  vote: VoteReply | null
  sentLsn: Lsn
  /** Highest flush position acknowledged in this term. */
  ackedLsn: Lsn
  commitSent: Lsn
  heartbeatDue: boolean
  fetching: boolean
  fetchAtMs: number
  reconnectAtMs: number
  heardAtMs: number
  /** Last time it was heard of while active. */
  activeAtMs: number
  sentAtMs: number
}

export interface ProposerCoreOptions {
  tenantId: string
  timelineId: string
  configuration: MemberConfiguration
  pgVersion: number
  /** 0 when there is no Postgres (sync mode). */
  systemId: bigint
  proposerId: string
  /** In [0, 1). */
  random: () => number
}

export class ProposerCore {
  readonly #options: ProposerCoreOptions
  #configuration: MemberConfiguration
  readonly #nodes = new Map<number, Node>()
  #phase: Phase = 'collecting'
  #nowMs = 0
  #highestTerm = 0
  #term = 0
  #history: TermEntry[] = []
  #termStart: Lsn = 0
  #donor = 0
  #commit: Lsn = 0
  #truncate: Lsn = 0
  #windowStart: Lsn = 0
  #windowEnd: Lsn = 0

  constructor(options: ProposerCoreOptions) {
    this.#options = options
    this.#configuration = options.configuration
    this.#syncNodes()
  }

  get phase(): Phase {
    return this.#phase
  }

  get term(): number {
    return this.#term
  }

  get termStartLsn(): Lsn {
    return this.#termStart
  }

  /** 0 until a quorum has acknowledged the start of the term. */
  get commitLsn(): Lsn {
    return this.#commit
  }

  get history(): readonly TermEntry[] {
    return this.#history
  }

  get configuration(): MemberConfiguration {
    return this.#configuration
  }

  /** The lowest position that a streaming safekeeper still has to be sent; null when none streams. */
  get lowestSentLsn(): Lsn | null {
    let lowest: Lsn | null = null
    for (const node of this.#nodes.values()) {
      if (node.state === 'active') lowest = Math.min(lowest ?? node.sentLsn, node.sentLsn)
    }
    return lowest
  }

  nodes(): { id: number; state: Node['state']; sentLsn: Lsn; ackedLsn: Lsn }[] {
    return [...this.#nodes.values()].map((node) => ({
      id: node.member.id,
      state: node.state,
      sentLsn: node.sentLsn,
      ackedLsn: node.ackedLsn,
    }))
  }

  step(event: ProposerEvent): ProposerEffect[] {
    const effects: ProposerEffect[] = []
    if (this.#phase === 'fenced') return effects
    if ('nowMs' in event) this.#nowMs = event.nowMs
    switch (event.kind) {
      case 'start':
        for (const node of this.#nodes.values()) this.#connect(node, effects)
        break
      case 'tick':
        this.#onTick(effects)
        break
      case 'connected':
        this.#onConnected(this.#node(event.node), effects)
        break
      case 'disconnected':
        this.#leave(this.#node(event.node), RECONNECT_MS)
        break
      case 'message':
        this.#onMessage(this.#node(event.node), event.message, effects)
        break
      case 'window':
        this.#windowStart = event.startLsn
        this.#windowEnd = event.endLsn
        break
      case 'fetch-ended':
        this.#node(event.node).fetching = false
        if (!event.complete) this.#node(event.node).fetchAtMs = this.#nowMs + RECONNECT_MS
    }
    return effects
  }

  /**
   * The next append for a safekeeper whose connection takes more, or null. The caller sends the WAL
   * bytes [beginLsn, endLsn) of the window with it; an empty one is a heartbeat or, with `withNews`,
   * tells of a commit.
   */
  nextAppend(id: number, withNews = true): AppendHeader | null {
    const node = this.#node(id)
    if (node.state !== 'active' || this.#phase !== 'elected') return null
    const begin = node.sentLsn
    const inWindow = begin >= this.#windowStart && begin < this.#windowEnd && !node.fetching
    if (inWindow) return this.#header(node, Math.min(this.#windowEnd, begin + MAX_APPEND_BYTES))
    // News of a commit rides on the next append; only a safekeeper that is not owed any gets its own.
    const idle = node.ackedLsn >= begin
    const hasNews = withNews && this.#commit > node.commitSent && idle
    return node.heartbeatDue || hasNews ? this.#header(node, begin) : null
  }

  /** What a safekeeper lacks below the window is being fetched: the header for the next piece of it. */
  relay(id: number, beginLsn: Lsn, endLsn: Lsn): AppendHeader | null {
    const node = this.#node(id)
    if (node.state !== 'active' || !node.fetching || node.sentLsn !== beginLsn) return null
    assert(endLsn - beginLsn <= MAX_APPEND_BYTES, 'a relayed piece fits an append')
    return this.#header(node, endLsn)
  }

  /** Fetches to begin now: for safekeepers that lack WAL below the window, from one that has it. */
  wantedFetches(): Extract<ProposerEffect, { kind: 'fetch' }>[] {
    const effects: Extract<ProposerEffect, { kind: 'fetch' }>[] = []
    for (const node of this.#nodes.values()) {
      const behind = node.sentLsn < this.#windowStart
      if (node.state !== 'active' || node.fetching || !behind) continue
      if (this.#nowMs < node.fetchAtMs) continue
      const donor = this.#donorFor(node)
      if (donor === null) continue
      node.fetching = true
      effects.push({
        kind: 'fetch',
        node: node.member.id,
        donor: donor.id,
        beginLsn: node.sentLsn,
        endLsn: Math.min(this.#windowStart, donor.endLsn, node.sentLsn + WAL_SEGMENT_SIZE),
      })
    }
    return effects
  }

  /** Whoever acknowledged most in this term; at first nobody did, then the best voter. */
  #donorFor(node: Node): { id: number; endLsn: Lsn } | null {
    let best: { id: number; endLsn: Lsn } | null = null
    for (const other of this.#nodes.values()) {
      if (other === node || other.state !== 'active') continue
      const isWinner = other.member.id === this.#donor
      const endLsn = isWinner ? Math.max(other.ackedLsn, this.#termStart) : other.ackedLsn
      if (endLsn < this.#termStart || endLsn <= node.sentLsn) continue
      if (best === null || endLsn > best.endLsn) best = { id: other.member.id, endLsn }
    }
    return best
  }

  #node(id: number): Node {
    const node = this.#nodes.get(id)
    assert(node !== undefined, `safekeeper ${id} is a member`)
    return node
  }

  /** Nodes follow the configuration; one that is not a member any more keeps its entry, unused. */
  #syncNodes(): void {
    const all = [...this.#configuration.members, ...(this.#configuration.newMembers ?? [])]
    for (const member of all) {
      if (this.#nodes.has(member.id)) continue
      this.#nodes.set(member.id, {
        member,
        state: 'waiting',
        ordinal: 0,
        incarnation: null,
        vote: null,
        sentLsn: 0,
        ackedLsn: 0,
        commitSent: 0,
        heartbeatDue: false,
        fetching: false,
        fetchAtMs: 0,
        reconnectAtMs: this.#nowMs,
        heardAtMs: 0,
        activeAtMs: 0,
        sentAtMs: 0,
      })
    }
  }

  #connect(node: Node, effects: ProposerEffect[]): void {
    node.state = 'connecting'
    node.ordinal += 1
    node.heardAtMs = this.#nowMs
    effects.push({ kind: 'connect', node: node.member.id })
  }

  #leave(node: Node, delayMs: number): void {
    node.state = 'waiting'
    node.vote = null
    node.heartbeatDue = false
    node.fetching = false
    node.reconnectAtMs = this.#nowMs + delayMs
  }

  #drop(node: Node, reason: string, effects: ProposerEffect[], delayMs = RECONNECT_MS): void {
    effects.push({ kind: 'disconnect', node: node.member.id, reason })
    this.#leave(node, delayMs)
  }

  #onTick(effects: ProposerEffect[]): void {
    for (const node of this.#nodes.values()) {
      if (node.state === 'waiting') {
        if (this.#nowMs >= node.reconnectAtMs) this.#connect(node, effects)
      } else if (this.#nowMs - node.heardAtMs >= SILENCE_MS) {
        this.#drop(node, 'the safekeeper is silent', effects)
      } else if (node.state === 'active' && this.#nowMs - node.sentAtMs >= HEARTBEAT_MS) {
        node.heartbeatDue = true
      }
    }
    this.#abandonHopeless(effects)
  }

  /**
   * The best voter went away before a quorum had its log. Nobody relies on this election yet, so
   * another one, without that log, may go on: what only it had was never committed.
   */
  #abandonHopeless(effects: ProposerEffect[]): void {
    if (this.#phase !== 'elected' || this.#commit >= this.#termStart) return
    const winner = this.#node(this.#donor)
    if (winner.state === 'active' || this.#nowMs - winner.activeAtMs < ABANDON_MS) return
    this.#startOver(0, 'the safekeeper with the longest log went away', effects)
  }

  #onConnected(node: Node, effects: ProposerEffect[]): void {
    node.state = 'greeting'
    node.heardAtMs = this.#nowMs
    effects.push({
      kind: 'send',
      node: node.member.id,
      message: {
        kind: 'greeting',
        tenantId: this.#options.tenantId,
        timelineId: this.#options.timelineId,
        configuration: this.#configuration,
        pgVersion: this.#options.pgVersion,
        systemId: this.#options.systemId,
        walSegmentSize: WAL_SEGMENT_SIZE,
        proposerId: this.#options.proposerId,
        ordinal: node.ordinal,
      },
    })
  }

  #onMessage(node: Node, message: AcceptorMessage, effects: ProposerEffect[]): void {
    node.heardAtMs = this.#nowMs
    if (node.state === 'active') node.activeAtMs = this.#nowMs
    if (message.kind === 'greeting' && node.state === 'greeting') {
      this.#onGreeting(node, message, effects)
    } else if (message.kind === 'vote' && node.state === 'voting') {
      this.#onVote(node, message, effects)
    } else if (message.kind === 'ack' && this.#phase === 'elected') {
      this.#onAck(node, message, effects)
    }
  }

  #onGreeting(node: Node, greeting: AcceptorGreeting, effects: ProposerEffect[]): void {
    if (greeting.nodeId !== node.member.id) {
      this.#drop(node, `safekeeper ${greeting.nodeId} answers in its place`, effects)
      return
    }
    if (node.incarnation !== null && node.incarnation !== greeting.incarnation) {
      // It lost its disk: what it acknowledged before does not count any more.
      node.ackedLsn = 0
    }
    node.incarnation = greeting.incarnation
    this.#highestTerm = Math.max(this.#highestTerm, greeting.term)
    const offered = greeting.configuration
    if (offered.generation > this.#configuration.generation) {
      this.#adopt(offered, effects)
      return
    }
    if (this.#phase === 'elected' && greeting.term > this.#term) {
      this.#fence(`safekeeper ${node.member.id} follows term ${greeting.term}`, effects)
      return
    }
    node.state = 'greeted'
    if (this.#phase !== 'collecting') this.#requestVote(node, effects)
    else if (isQuorum(this.#configuration, (id) => this.#nodes.get(id)?.state === 'greeted')) {
      this.#phase = 'campaign'
      this.#term = this.#highestTerm + 1
      for (const greeted of this.#nodes.values()) {
        if (greeted.state === 'greeted') this.#requestVote(greeted, effects)
      }
    }
  }

  /** A newer member list: everybody must be greeted with it, and votes of the old one do not count. */
  #adopt(configuration: MemberConfiguration, effects: ProposerEffect[]): void {
    if (this.#phase === 'elected' && this.#commit >= this.#termStart) {
      this.#fence(`members changed to generation ${configuration.generation}`, effects)
      return
    }
    this.#configuration = configuration
    this.#syncNodes()
    this.#startOver(0, 'members changed', effects)
  }

  #requestVote(node: Node, effects: ProposerEffect[]): void {
    node.state = 'voting'
    effects.push({
      kind: 'send',
      node: node.member.id,
      message: { kind: 'vote', generation: this.#configuration.generation, term: this.#term },
    })
  }

  #onVote(node: Node, vote: VoteReply, effects: ProposerEffect[]): void {
    this.#highestTerm = Math.max(this.#highestTerm, vote.term)
    if (this.#phase === 'elected') {
      if (vote.term > this.#term) {
        this.#fence(`safekeeper ${node.member.id} follows term ${vote.term}`, effects)
      } else this.#sendElected(node, vote, effects)
      return
    }
    if (!vote.given || vote.term !== this.#term) {
      const delayMs = this.#options.random() * CAMPAIGN_BACKOFF_MS
      this.#startOver(delayMs, `safekeeper ${node.member.id} did not vote for us`, effects)
      return
    }
    node.vote = vote
    if (isQuorum(this.#configuration, (id) => this.#nodes.get(id)?.vote?.given === true)) {
      this.#win(effects)
    }
  }

  /** Votes once asked for cannot be told from new ones on the same connections: make new ones. */
  #startOver(delayMs: number, reason: string, effects: ProposerEffect[]): void {
    this.#phase = 'collecting'
    this.#highestTerm = Math.max(this.#highestTerm, this.#term)
    for (const node of this.#nodes.values()) {
      if (node.state === 'waiting') node.reconnectAtMs = this.#nowMs + delayMs
      else this.#drop(node, reason, effects, delayMs)
    }
  }

  #win(effects: ProposerEffect[]): void {
    let donor: { id: number; vote: VoteReply; term: number } | null = null
    for (const { member, vote } of this.#nodes.values()) {
      if (vote === null) continue
      const term = lastLogTerm(vote.history, vote.flushLsn)
      const better =
        donor === null ||
        term > donor.term ||
        (term === donor.term && vote.flushLsn > donor.vote.flushLsn)
      if (better) donor = { id: member.id, vote, term }
      this.#truncate = Math.max(this.#truncate, vote.truncateLsn)
    }
    assert(donor !== null, 'somebody voted')
    const startLsn = donor.vote.flushLsn
    const history = cutHistory(donor.vote.history, startLsn)
    assert(donor.term < this.#term, 'no voter has a log of this term or a later one')
    this.#donor = donor.id
    this.#termStart = startLsn
    this.#history = [...history, { term: this.#term, startLsn }]
    this.#windowStart = startLsn
    this.#windowEnd = startLsn
    this.#phase = 'elected'
    // What was acknowledged in an election given up before counts for nothing in this term.
    for (const node of this.#nodes.values()) node.ackedLsn = 0
    effects.push({ kind: 'elected', term: this.#term, startLsn })
    for (const node of this.#nodes.values()) {
      if (node.vote !== null) this.#sendElected(node, node.vote, effects)
    }
  }

  #sendElected(node: Node, vote: VoteReply, effects: ProposerEffect[]): void {
    const start = commonPoint(this.#history, vote.history, vote.flushLsn)
    node.state = 'active'
    node.activeAtMs = this.#nowMs
    node.sentLsn = start
    node.commitSent = 0
    node.heartbeatDue = false
    node.sentAtMs = this.#nowMs
    effects.push({
      kind: 'send',
      node: node.member.id,
      message: {
        kind: 'elected',
        generation: this.#configuration.generation,
        term: this.#term,
        startStreamingAt: start,
        history: this.#history,
      },
    })
  }

  #header(node: Node, endLsn: Lsn): AppendHeader {
    const header: AppendHeader = {
      generation: this.#configuration.generation,
      term: this.#term,
      beginLsn: node.sentLsn,
      endLsn,
      commitLsn: this.#commit,
      truncateLsn: this.#truncate,
      replyRequested: node.heartbeatDue,
    }
    node.sentLsn = endLsn
    node.commitSent = this.#commit
    node.heartbeatDue = false
    node.sentAtMs = this.#nowMs
    return header
  }

  #onAck(node: Node, ack: Ack, effects: ProposerEffect[]): void {
    if (ack.term > this.#term) {
      this.#highestTerm = Math.max(this.#highestTerm, ack.term)
      this.#fence(`safekeeper ${node.member.id} follows term ${ack.term}`, effects)
      return
    }
    if (ack.term !== this.#term || node.state !== 'active') return
    if (ack.flushLsn <= node.ackedLsn) return
    node.ackedLsn = ack.flushLsn
    this.#advanceCommit(effects)
  }

  #advanceCommit(effects: ProposerEffect[]): void {
    const commit = this.quorumCommitLsn()
    if (commit <= this.#commit) return
    this.#commit = commit
    let lowest = commit
    for (const node of this.#nodes.values()) lowest = Math.min(lowest, node.ackedLsn)
    this.#truncate = Math.max(this.#truncate, lowest)
    effects.push({ kind: 'committed', lsn: commit })
  }

  /** An ack counts only when it reaches the start of this term: bytes of older terms alone do not. */
  protected quorumCommitLsn(): Lsn {
    return quorumLsn(this.#configuration, (id) => {
      const acked = this.#nodes.get(id)?.ackedLsn ?? 0
      return acked >= this.#termStart ? acked : 0
    })
  }

  /**
   * Somebody else may lead now. While this election is not yet settled nobody relies on it: the other
   * term may be the rest of a campaign that never succeeded, so ask again, with a higher one.
   */
  #fence(reason: string, effects: ProposerEffect[]): void {
    if (this.#phase === 'elected' && this.#commit < this.#termStart) {
      this.#startOver(this.#options.random() * CAMPAIGN_BACKOFF_MS, reason, effects)
      return
    }
    this.#phase = 'fenced'
    const position = formatLsn(this.#commit)
    effects.push({ kind: 'fenced', reason: `${reason}; ours was ${this.#term}, at ${position}` })
    for (const node of this.#nodes.values()) {
      if (node.state !== 'waiting') this.#drop(node, 'another proposer leads', effects)
    }
  }
}
