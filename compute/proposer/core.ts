/**
 * The proposer: what a compute decides about its safekeepers. Pure: `step` takes an event and returns
 * effects; time comes in with events, randomness through `random`, WAL bytes stay outside.
 *
 * Life: collecting (greet everybody) -> campaign (ask for votes) -> elected (recover and stream), or
 * fenced (another proposer leads; final). A lost campaign starts over with a higher term.
 *
 * Once a quorum has the log up to the start of the term, a Postgres relies on it: the tenure begins.
 * A higher term or newer members then send the proposer back to collecting, its Postgres alive. It
 * goes on only with its own log: when the best log of a quorum ends in a term of somebody else, it
 * is fenced. Why no commit is lost on the way: docs/wal-service/consensus.md.
 *
 * Positions: the log of this term begins at `termStartLsn`, the end of the best voter's log. The
 * window [windowStartLsn, windowEndLsn) is the WAL that the shell can send, all that is not committed
 * at least; what a safekeeper lacks below it is fetched from another safekeeper. Nothing is committed
 * until a quorum has acknowledged `termStartLsn` or more in this term; then everything up to there
 * is, at once.
 */
import { assert } from '#libs/errors.ts'
import { formatLsn, type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import {
  allMembers,
  configurationProblem,
  isQuorum,
  quorumLsn,
  sameMembers,
} from '#libs/protocol/quorum.ts'
import { commonPoint, cutHistory, type TermEntry } from '#libs/protocol/term-history.ts'
import {
  type AcceptorGreeting,
  type AcceptorMessage,
  type Ack,
  MAX_APPEND_BYTES,
  type Member,
  type MemberConfiguration,
  type VoteReply,
} from '#libs/protocol/wal-push.ts'
import type { AppendHeader, ProposerEffect, ProposerEvent } from './events.ts'
import { isBetterLog, type LogEnd, logEndOf, newNode, type Node } from './node.ts'
import { Tenure } from './tenure.ts'

export const HEARTBEAT_MS = 1_000
export const SILENCE_MS = 10_000
const RECONNECT_MS = 250
/** How long the best voter may be away during recovery before the election is held again. */
export const ABANDON_MS = 3_000
/** A lost campaign is repeated after a random wait up to this, so that rivals do not stay in step. */
const CAMPAIGN_BACKOFF_MS = 300

/** A deposed proposer looks at the logs this often until it may ask for votes. */
export const LOOK_MS = 250

type Phase = 'collecting' | 'campaign' | 'elected' | 'fenced'

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
  readonly #tenure = new Tenure()
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
    const problem = configurationProblem(options.configuration)
    assert(problem === null, `the members are sound: ${problem}`)
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

  /** A member of the configuration in force, or undefined. */
  member(id: number): Member | undefined {
    return this.#nodes.get(id)?.member
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
    if ('node' in event) {
      // Something late of a safekeeper that is no member any more says nothing.
      const node = this.#nodes.get(event.node)
      if (node !== undefined) this.#onNode(node, event, effects)
    } else if (event.kind === 'window') {
      this.#windowStart = event.startLsn
      this.#windowEnd = event.endLsn
    } else if (event.kind === 'tick') this.#onTick(effects)
    else for (const node of this.#nodes.values()) this.#connect(node, effects)
    return effects
  }

  #onNode(
    node: Node,
    event: Extract<ProposerEvent, { node: number }>,
    effects: ProposerEffect[],
  ): void {
    switch (event.kind) {
      case 'connected':
        this.#onConnected(node, effects)
        break
      case 'disconnected':
        this.#leave(node, RECONNECT_MS)
        break
      case 'message':
        this.#onMessage(node, event.message, effects)
        break
      case 'fetch-ended':
        node.fetching = false
        if (!event.complete) node.fetchAtMs = this.#nowMs + RECONNECT_MS
    }
  }

  /**
   * The next append for a safekeeper whose connection takes more, or null. The caller sends the WAL
   * bytes [beginLsn, endLsn) of the window with it; an empty one is a heartbeat or, with `withNews`,
   * tells of a commit.
   */
  nextAppend(id: number, withNews = true): AppendHeader | null {
    const node = this.#nodes.get(id)
    if (node?.state !== 'active' || this.#phase !== 'elected') return null
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
    const node = this.#nodes.get(id)
    if (node?.state !== 'active' || !node.fetching || node.sentLsn !== beginLsn) return null
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

  /** Nodes follow the configuration; addresses too. */
  #syncNodes(): void {
    const members = new Map(allMembers(this.#configuration).map((member) => [member.id, member]))
    for (const id of [...this.#nodes.keys()]) if (!members.has(id)) this.#nodes.delete(id)
    for (const [id, member] of members) {
      const node = this.#nodes.get(id)
      if (node === undefined) this.#nodes.set(id, newNode(member, this.#nowMs))
      else node.member = member
    }
  }

  #connect(node: Node, effects: ProposerEffect[]): void {
    node.state = 'connecting'
    node.ordinal += 1
    node.heardAtMs = this.#nowMs
    effects.push({ kind: 'connect', node: node.member.id, member: node.member })
  }

  #leave(node: Node, delayMs: number): void {
    node.state = 'waiting'
    node.greeting = null
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
    if (this.#phase !== 'elected') return
    if (!this.#tenure.hasBegun) this.#abandonHopeless(effects)
    else if (this.#commit >= this.#termStart) this.#tenure.leads(this.#nowMs)
  }

  /**
   * The best voter went away before a quorum had its log. Nobody relies on this election yet, so
   * another one, without that log, may go on: what only it had was never committed.
   */
  #abandonHopeless(effects: ProposerEffect[]): void {
    const winner = this.#nodes.get(this.#donor)
    assert(winner !== undefined, 'the best voter is a member')
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
    const refusal = this.#refusal(node, greeting)
    if (refusal !== null) {
      this.#drop(node, refusal, effects)
      return
    }
    if (node.incarnation !== null && node.incarnation !== greeting.incarnation) {
      // It lost its disk: what it acknowledged before does not count any more.
      node.ackedLsn = 0
    }
    node.incarnation = greeting.incarnation
    this.#highestTerm = Math.max(this.#highestTerm, greeting.term)
    if (greeting.configuration.generation > this.#configuration.generation) {
      this.#adopt(greeting.configuration, effects)
      return
    }
    if (this.#phase === 'elected' && greeting.term > this.#term) {
      this.#stepDown(`safekeeper ${node.member.id} follows term ${greeting.term}`, effects)
      return
    }
    node.state = 'greeted'
    node.greeting = greeting
    if (this.#phase !== 'collecting') this.#requestVote(node, effects)
    else if (isQuorum(this.#configuration, (id) => this.#nodes.get(id)?.state === 'greeted')) {
      if (this.#mayCampaign(effects)) this.#campaign(effects)
    }
  }

  #refusal(node: Node, greeting: AcceptorGreeting): string | null {
    const own = this.#configuration
    const offered = greeting.configuration
    if (greeting.nodeId !== node.member.id) {
      return `safekeeper ${greeting.nodeId} answers in its place`
    }
    if (offered.generation < own.generation) {
      return `it stays at generation ${offered.generation} of the members`
    }
    if (offered.generation > own.generation) return configurationProblem(offered)
    return sameMembers(offered, own) ? null : `generation ${own.generation} has other members there`
  }

  /** Newer members: everybody must be greeted with them, and votes of the old ones do not count. */
  #adopt(configuration: MemberConfiguration, effects: ProposerEffect[]): void {
    const reason = `members are at generation ${configuration.generation} now`
    if (this.#tenure.hasBegun && this.#phase === 'elected') {
      effects.push({ kind: 'deposed', reason })
    }
    this.#startOver(0, reason, effects)
    this.#configuration = configuration
    this.#syncNodes()
  }

  /**
   * A proposer whose Postgres lives looks before it asks for votes, since its term would depose
   * whoever leads now. Until its wait is over it looks again and again.
   */
  #mayCampaign(effects: ProposerEffect[]): boolean {
    if (!this.#tenure.hasBegun) return true
    let best: LogEnd | null = null
    for (const { greeting } of this.#nodes.values()) {
      if (greeting !== null && (best === null || isBetterLog(greeting, best))) best = greeting
    }
    assert(best !== null, 'a quorum has greeted')
    if (!this.ownsTerm(best.lastLogTerm)) {
      this.#fence(`the log goes on in term ${best.lastLogTerm} of another proposer`, effects)
      return false
    }
    const waitMs = this.#tenure.waitMs(this.#nowMs)
    if (waitMs === 0) return true
    this.#startOver(Math.min(LOOK_MS, waitMs), 'another proposer may be at it', effects)
    return false
  }

  #campaign(effects: ProposerEffect[]): void {
    this.#phase = 'campaign'
    this.#term = this.#highestTerm + 1
    for (const node of this.#nodes.values()) {
      if (node.state === 'greeted') this.#requestVote(node, effects)
    }
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
        this.#stepDown(`safekeeper ${node.member.id} follows term ${vote.term}`, effects)
      } else this.#sendElected(node, vote, effects)
      return
    }
    if (!vote.given || vote.term !== this.#term) {
      this.#stepDown(`safekeeper ${node.member.id} did not vote for us`, effects)
      return
    }
    node.vote = vote
    if (isQuorum(this.#configuration, (id) => this.#nodes.get(id)?.vote?.given === true)) {
      this.#win(effects)
    }
  }

  /**
   * Somebody has a higher term. Before the tenure has begun nobody relies on this election: the other
   * term may be the rest of a campaign that never succeeded, so ask again soon, with a higher one.
   * Afterwards it may be a new compute, which is to win: leave it the time to.
   */
  #stepDown(reason: string, effects: ProposerEffect[]): void {
    if (!this.#tenure.hasBegun) {
      this.#startOver(this.#options.random() * CAMPAIGN_BACKOFF_MS, reason, effects)
      return
    }
    this.#tenure.deposed(this.#nowMs, this.#options.random())
    effects.push({ kind: 'deposed', reason })
    this.#startOver(0, reason, effects)
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
    let donor: { id: number; vote: VoteReply; log: LogEnd } | null = null
    for (const { member, vote } of this.#nodes.values()) {
      if (vote === null) continue
      const log = logEndOf(vote)
      if (donor === null || isBetterLog(log, donor.log)) donor = { id: member.id, vote, log }
      this.#truncate = Math.max(this.#truncate, vote.truncateLsn)
    }
    assert(donor !== null, 'somebody voted')
    assert(donor.log.lastLogTerm < this.#term, 'no voter has a log of this term or a later one')
    const startLsn = donor.vote.flushLsn
    const again = this.#tenure.hasBegun
    if (again) {
      if (!this.ownsTerm(donor.log.lastLogTerm)) {
        this.#fence(`the log went on in term ${donor.log.lastLogTerm} of another`, effects)
        return
      }
      assert(startLsn >= this.#commit, 'a quorum of voters has everything that was committed')
      assert(startLsn <= this.#windowEnd, 'a log of our own terms holds what we wrote')
      assert(this.#windowStart <= this.#commit, 'the window holds everything from commit on')
      this.#tenure.won(this.#term)
    } else {
      this.#windowStart = startLsn
      this.#windowEnd = startLsn
    }
    this.#donor = donor.id
    this.#termStart = startLsn
    this.#history = [...cutHistory(donor.vote.history, startLsn), { term: this.#term, startLsn }]
    this.#phase = 'elected'
    // What was acknowledged in an earlier term counts for nothing in this one.
    for (const node of this.#nodes.values()) node.ackedLsn = 0
    effects.push({ kind: again ? 're-elected' : 'elected', term: this.#term, startLsn })
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
      this.#stepDown(`safekeeper ${node.member.id} follows term ${ack.term}`, effects)
      return
    }
    if (ack.term !== this.#term || node.state !== 'active') return
    // It follows other members by now, and will say so when it is greeted again.
    if (ack.generation !== this.#configuration.generation) return
    if (ack.flushLsn <= node.ackedLsn) return
    if (ack.flushLsn > node.sentLsn) {
      this.#drop(node, 'it acknowledges what it was not sent', effects)
      return
    }
    node.ackedLsn = ack.flushLsn
    this.#advanceCommit(effects)
  }

  #advanceCommit(effects: ProposerEffect[]): void {
    const commit = this.quorumCommitLsn()
    if (commit >= this.#termStart && !this.#tenure.hasBegun) this.#tenure.won(this.#term)
    if (commit <= this.#commit) return
    assert(commit <= this.#windowEnd, 'what is committed was written')
    this.#commit = commit
    let lowest = commit
    for (const node of this.#nodes.values()) lowest = Math.min(lowest, node.ackedLsn)
    this.#truncate = Math.max(this.#truncate, lowest)
    effects.push({ kind: 'committed', lsn: commit })
  }

  /** Whether a log that ends in this term is one that our own Postgres wrote. */
  protected ownsTerm(term: number): boolean {
    return this.#tenure.owns(term)
  }

  /** An ack counts only when it reaches the start of this term: bytes of older terms alone do not. */
  protected quorumCommitLsn(): Lsn {
    return quorumLsn(this.#configuration, (id) => {
      const acked = this.#nodes.get(id)?.ackedLsn ?? 0
      return acked >= this.#termStart ? acked : 0
    })
  }

  #fence(reason: string, effects: ProposerEffect[]): void {
    this.#phase = 'fenced'
    const position = formatLsn(this.#commit)
    effects.push({ kind: 'fenced', reason: `${reason}; ours was ${this.#term}, at ${position}` })
    for (const node of this.#nodes.values()) {
      if (node.state !== 'waiting') this.#drop(node, 'another proposer leads', effects)
    }
  }
}
