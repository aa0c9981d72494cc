/**
 * The acceptor: what a safekeeper decides for one timeline. Pure: `step` takes an event and returns
 * effects in the order in which they must happen; no clock, disk or network here.
 *
 * The shell runs effects strictly in order, each finished before the next begins (a `write` is
 * finished when it is queued, a background `persist` when it is started). That order carries the
 * safety: what a message says is durable before the message is sent; a foreign tail is gone before
 * the new leader's history is stored; WAL is flushed before a vote names its end.
 *
 * Positions: startLsn <= commitLsn <= flushLsn <= recordEndLsn <= writeLsn. Only flushLsn, the end of
 * the last whole durable record, appears in votes and acks.
 */
import { assert } from '#libs/errors.ts'
import { formatLsn, type Lsn, segmentNumber } from '#libs/lsn.ts'
import { commonPoint, cutHistory, lastLogTerm } from '#libs/protocol/term-history.ts'
import {
  type AcceptorMessage,
  type Ack,
  type Append,
  type Elected,
  type HotStandbyFeedback,
  type MemberConfiguration,
  NO_HOT_STANDBY,
  type ProposerGreeting,
  type ProposerMessage,
  type VoteRequest,
} from '#libs/protocol/wal-push.ts'
import { ShardFeedbacks } from '#libs/protocol/shard-feedbacks.ts'
import type { PageserverFeedback } from '#libs/protocol/wal-stream.ts'
import { RecordScanner } from '#libs/wal/record-scanner.ts'
import { AcceptorInvariants, type AcceptorView } from './acceptor-invariants.ts'
import type { ControlState } from './control-state.ts'
import { configurationRefusal, greetingRefusal } from './greeting-check.ts'
import type { OffloadRecord } from './offload/offload-plan.ts'

/** A proposer that skips further ahead would use up the terms. */
const MAX_TERM_STEP = 4294967296

/** What another safekeeper of the timeline says of itself. */
export interface PeerPositions {
  term: number
  lastLogTerm: number
  commitLsn: Lsn
  peerHorizonLsn: Lsn
  remoteConsistentLsn: Lsn
}

export type AcceptorEvent =
  | { kind: 'message'; connection: number; message: ProposerMessage }
  | { kind: 'disconnected'; connection: number }
  /** All bytes below `writeLsn` that were written in this epoch are durable. */
  | { kind: 'flushed'; epoch: number; writeLsn: Lsn }
  | { kind: 'pageserver-feedback'; feedback: PageserverFeedback }
  | { kind: 'hot-standby-feedback'; hotStandby: HotStandbyFeedback }
  /** A control file with this commit position is durable. */
  | { kind: 'persisted'; commitLsn: Lsn }
  /** Time to store positions that rose since they were last stored. */
  | { kind: 'save' }
  /** Switch to these members. `request` comes back in an `answer`, once that is durable. */
  | { kind: 'configure'; request: number; configuration: MemberConfiguration }
  /** Follow no leader below `term` any more. */
  | { kind: 'bump-term'; request: number; term: number }
  /** An authenticated peer told where it is. */
  | { kind: 'peer'; peer: PeerPositions }
  /** What is known of this timeline's WAL in object storage, to be stored now. */
  | { kind: 'offload'; record: OffloadRecord }

export type AcceptorEffect =
  | { kind: 'send'; connection: number; message: AcceptorMessage }
  | { kind: 'close'; connection: number; reason: string }
  /** Queue bytes for the disk; `wal` is valid only during the step. */
  | { kind: 'write'; epoch: number; lsn: Lsn; wal: Buffer }
  /** Wait until everything queued is durable. */
  | { kind: 'flush' }
  /** Drop all bytes from `lsn` on, durably, those queued included. */
  | { kind: 'truncate'; lsn: Lsn }
  /** Store the control file; in the background when nothing has to wait for it. */
  | { kind: 'persist'; control: ControlState; background: boolean }
  | { kind: 'committed'; lsn: Lsn }
  /** A request was carried out durably, or refused for a reason. */
  | { kind: 'answer'; request: number; refusal: string | null }
  /** This timeline must not go on: something that cannot happen has happened. */
  | { kind: 'halt'; reason: string }

interface Greeted {
  proposerId: string
  ordinal: number
}

/** The connection that may append, since its Elected was accepted. */
interface Streaming extends Greeted {
  connection: number
  termStartLsn: Lsn
}

export interface AcceptorOptions {
  nodeId: number
  incarnation: string
  control: ControlState
  /** Found by scanning WAL at boot; nothing lies behind it on disk. */
  flushLsn: Lsn
}

export class Acceptor {
  readonly #nodeId: number
  readonly #incarnation: string
  #control: ControlState
  /** Commit position in the newest control file that was asked for, and in the newest durable one. */
  #savedCommit: Lsn
  #durableCommit: Lsn
  /** A lagging position other than commit rose since the last control file. */
  #unsaved = false
  #flush: Lsn
  #recordEnd: Lsn
  #write: Lsn
  #commit: Lsn
  #leaderCommit: Lsn
  #epoch = 0
  /** Appends not yet durable: where each ends, and the record end known there. */
  #unflushed: { writeLsn: Lsn; recordEndLsn: Lsn }[] = []
  #scanner: RecordScanner
  readonly #invariants: AcceptorInvariants
  readonly #greeted = new Map<number, Greeted>()
  #streaming: Streaming | null = null
  readonly #shards: ShardFeedbacks
  /** The proposer that streams knows what the page servers said last. */
  #feedbackTold = false
  #hotStandby: HotStandbyFeedback = NO_HOT_STANDBY

  constructor(options: AcceptorOptions) {
    this.#nodeId = options.nodeId
    this.#incarnation = options.incarnation
    this.#control = options.control
    this.#savedCommit = options.control.commitLsn
    this.#durableCommit = options.control.commitLsn
    this.#flush = options.flushLsn
    this.#recordEnd = options.flushLsn
    this.#write = options.flushLsn
    this.#commit = options.control.commitLsn
    this.#leaderCommit = options.control.commitLsn
    this.#scanner = new RecordScanner(options.flushLsn)
    this.#shards = new ShardFeedbacks(1, options.control.remoteConsistentLsn)
    this.#invariants = new AcceptorInvariants(this.#view())
  }

  get control(): ControlState {
    return { ...this.#control, commitLsn: this.#commit }
  }

  get flushLsn(): Lsn {
    return this.#flush
  }

  get writeLsn(): Lsn {
    return this.#write
  }

  get commitLsn(): Lsn {
    return this.#commit
  }

  get lastLogTerm(): number {
    return lastLogTerm(this.#control.history, this.#flush)
  }

  /** How often the log was cut. */
  get cuts(): number {
    return this.#epoch
  }

  /** The connection that appends at present, or null. */
  get streamingConnection(): number | null {
    return this.#streaming?.connection ?? null
  }

  /** What the page servers said last, by shard. */
  get shards(): readonly PageserverFeedback[] {
    return this.#shards.latest
  }

  step(event: AcceptorEvent): AcceptorEffect[] {
    const effects: AcceptorEffect[] = []
    switch (event.kind) {
      case 'message':
        this.#onMessage(event.connection, event.message, effects)
        break
      case 'disconnected':
        // What arrived is made durable now: the next compute's start must not race with it.
        if (this.#streaming?.connection === event.connection) effects.push({ kind: 'flush' })
        this.#forget(event.connection)
        break
      case 'flushed':
        this.#onFlushed(event.epoch, event.writeLsn, effects)
        break
      case 'pageserver-feedback':
        this.#onFeedback(event.feedback, effects)
        break
      case 'hot-standby-feedback':
        this.#hotStandby = event.hotStandby
        // An idle compute gets no other acks, and its vacuum should know.
        if (this.#streaming) this.#ack(this.#streaming.connection, effects)
        break
      case 'persisted':
        this.#durableCommit = Math.max(this.#durableCommit, event.commitLsn)
        break
      case 'save':
        if (this.#unsaved || this.#commit > this.#savedCommit) this.#persist(effects, true)
        break
      case 'configure':
        this.#onConfigure(event.request, event.configuration, effects)
        break
      case 'bump-term':
        this.#onBumpTerm(event.request, event.term, effects)
        break
      case 'peer':
        this.#onPeer(event.peer, effects)
        break
      case 'offload':
        this.#onOffload(event.record, effects)
    }
    this.#invariants.check(this.#view())
    return effects
  }

  #view(): AcceptorView {
    return {
      control: this.#control,
      savedCommit: this.#savedCommit,
      commit: this.#commit,
      flush: this.#flush,
      recordEnd: this.#recordEnd,
      write: this.#write,
      epoch: this.#epoch,
    }
  }

  #onMessage(connection: number, message: ProposerMessage, effects: AcceptorEffect[]): void {
    if (message.kind === 'greeting') {
      this.#onGreeting(connection, message, effects)
      return
    }
    if (!this.#greeted.has(connection)) {
      this.#close(connection, 'a greeting must come first', effects)
      return
    }
    const generation = this.#control.configuration.generation
    if (message.generation !== generation) {
      const reason = `members are at generation ${generation}, not ${message.generation}`
      this.#close(connection, reason, effects)
      return
    }
    if (message.term > this.#control.term + MAX_TERM_STEP) {
      this.#close(connection, `term ${message.term} is too far ahead`, effects)
    } else if (message.kind === 'vote') this.#onVoteRequest(connection, message, effects)
    else if (message.kind === 'elected') this.#onElected(connection, message, effects)
    else this.#onAppend(connection, message, effects)
  }

  #onGreeting(connection: number, greeting: ProposerGreeting, effects: AcceptorEffect[]): void {
    const control = this.#control
    const refusal = greetingRefusal(control, this.#nodeId, greeting)
    if (refusal !== null) {
      this.#close(connection, refusal, effects)
      return
    }
    if (greeting.configuration.generation > control.configuration.generation) {
      this.#switchTo(greeting.configuration, effects)
    }
    this.#greeted.set(connection, { proposerId: greeting.proposerId, ordinal: greeting.ordinal })
    effects.push({
      kind: 'send',
      connection,
      message: {
        kind: 'greeting',
        nodeId: this.#nodeId,
        incarnation: this.#incarnation,
        configuration: this.#control.configuration,
        term: this.#control.term,
        lastLogTerm: this.lastLogTerm,
        flushLsn: this.#flush,
      },
    })
  }

  /**
   * What was received under the members of before is made durable first: an answer that names our
   * position must cover every byte that those members may still count. Their leader's connections
   * end; on the next greeting it learns of the new members.
   */
  #switchTo(configuration: MemberConfiguration, effects: AcceptorEffect[]): void {
    effects.push({ kind: 'flush' })
    const { generation } = configuration
    this.#control = { ...this.#control, configuration }
    this.#persist(effects, false)
    for (const connection of [...this.#greeted.keys()]) {
      this.#close(connection, `members are at generation ${generation} now`, effects)
    }
  }

  #onConfigure(
    request: number,
    configuration: MemberConfiguration,
    effects: AcceptorEffect[],
  ): void {
    const own = this.#control.configuration
    const refusal = configurationRefusal(own, this.#nodeId, configuration)
    if (refusal === null && configuration.generation > own.generation) {
      this.#switchTo(configuration, effects)
    } else if (refusal === null) effects.push({ kind: 'flush' })
    effects.push({ kind: 'answer', request, refusal })
  }

  #onBumpTerm(request: number, term: number, effects: AcceptorEffect[]): void {
    let refusal: string | null = null
    if (term > this.#control.term + MAX_TERM_STEP) refusal = `term ${term} is too far ahead`
    else {
      effects.push({ kind: 'flush' })
      if (term > this.#control.term) {
        this.#control = { ...this.#control, term }
        this.#persist(effects, false)
        if (this.#streaming) this.#sendDeposed(this.#streaming.connection, effects)
      }
    }
    effects.push({ kind: 'answer', request, refusal })
  }

  /**
   * A peer whose log ends in the same term has the same log as far as both reach, so what it calls
   * committed is committed here too. Unless a leader of a lower term than the peer's may still cut
   * this log: hence the second condition.
   */
  #onPeer(peer: PeerPositions, effects: AcceptorEffect[]): void {
    if (peer.lastLogTerm === this.lastLogTerm && this.#control.term >= peer.term) {
      this.#commitUpTo(peer.commitLsn, effects)
    }
    this.#raise('peerHorizonLsn', peer.peerHorizonLsn)
    this.#raise('remoteConsistentLsn', peer.remoteConsistentLsn)
  }

  #onOffload(record: OffloadRecord, effects: AcceptorEffect[]): void {
    assert(record.backupLsn <= this.#commit, 'only committed WAL is backed up')
    const { eviction } = record
    if (eviction !== null) {
      assert(eviction.flushLsn === this.#flush, 'an evicted log ends where this one does')
      assert(this.#write === this.#flush && this.#commit === this.#flush, 'all of it is committed')
      assert(this.#streaming === null, 'nobody writes to an evicted log')
    }
    const backupLsn = Math.max(record.backupLsn, this.#control.backupLsn)
    this.#control = { ...this.#control, ...record, backupLsn }
    this.#persist(effects, true)
  }

  /** Raises a lagging position, never beyond commit. */
  #raise(name: 'peerHorizonLsn' | 'remoteConsistentLsn', lsn: Lsn): void {
    const capped = Math.min(lsn, this.#commit)
    if (capped <= this.#control[name]) return
    this.#control = { ...this.#control, [name]: capped }
    this.#unsaved = true
  }

  #onVoteRequest(connection: number, request: VoteRequest, effects: AcceptorEffect[]): void {
    // After the vote, WAL of older terms is refused, so the position must be final: flush first.
    effects.push({ kind: 'flush' })
    const given = request.term > this.#control.term
    if (given) {
      this.#control = { ...this.#control, term: request.term }
      this.#persist(effects, false)
    }
    effects.push({
      kind: 'send',
      connection,
      message: {
        kind: 'vote',
        generation: request.generation,
        term: this.#control.term,
        given,
        flushLsn: this.#recordEnd,
        truncateLsn: this.#control.peerHorizonLsn,
        history: cutHistory(this.#control.history, this.#recordEnd),
      },
    })
    // The leader until now learns at once that it is deposed, not at its next append.
    const streaming = this.#streaming
    if (given && streaming && streaming.connection !== connection) {
      this.#sendDeposed(streaming.connection, effects)
    }
  }

  #onElected(connection: number, elected: Elected, effects: AcceptorEffect[]): void {
    const control = this.#control
    if (elected.term < control.term) {
      this.#sendDeposed(connection, effects)
      return
    }
    const greeted = this.#greeted.get(connection) as Greeted
    const current = this.#streaming
    if (
      current !== null &&
      current.connection !== connection &&
      current.proposerId === greeted.proposerId &&
      current.ordinal > greeted.ordinal
    ) {
      this.#close(connection, 'a newer connection of this proposer streams already', effects)
      return
    }
    const [first, last] = [elected.history[0], elected.history.at(-1)]
    if (first?.startLsn !== control.startLsn || last?.term !== elected.term) {
      const reason = "the leader's history does not begin with this timeline or end with its term"
      this.#close(connection, reason, effects)
      return
    }
    const start = commonPoint(elected.history, control.history, this.#recordEnd)
    if (start !== elected.startStreamingAt) {
      const reason =
        `the logs are equal up to ${formatLsn(start)}, not ` +
        `${formatLsn(elected.startStreamingAt)}; the position changed since the vote`
      this.#close(connection, reason, effects)
      return
    }
    if (start < this.#commit) {
      const reason =
        `a leader of term ${elected.term} wants to cut the log at ${formatLsn(start)}, ` +
        `below the commit position ${formatLsn(this.#commit)}`
      effects.push({ kind: 'halt', reason })
      return
    }
    // Truncate before the history is stored: a crash between must not stamp a foreign tail with it.
    this.#truncate(start, effects)
    const unchanged = control.history.at(-1)?.term === elected.term
    this.#control = { ...control, term: elected.term, history: elected.history }
    if (!unchanged) this.#persist(effects, false)
    this.#streaming = { ...greeted, connection, termStartLsn: last.startLsn }
    this.#feedbackTold = false
    if (!unchanged) this.#leaderCommit = this.#commit
    this.#ack(connection, effects)
  }

  #truncate(lsn: Lsn, effects: AcceptorEffect[]): void {
    assert(lsn >= this.#commit, 'I10: what is committed is never cut')
    this.#scanner = new RecordScanner(lsn)
    if (this.#write === lsn) return
    // Bytes below the cut that are still queued: they stay, so they must be durable too.
    if (this.#flush < lsn) effects.push({ kind: 'flush' })
    this.#write = lsn
    this.#recordEnd = lsn
    this.#flush = lsn
    this.#unflushed = []
    this.#epoch += 1
    effects.push({ kind: 'truncate', lsn })
  }

  #onAppend(connection: number, append: Append, effects: AcceptorEffect[]): void {
    if (append.term < this.#control.term) {
      this.#sendDeposed(connection, effects)
      return
    }
    if (this.#streaming?.connection !== connection || append.term > this.#control.term) {
      this.#close(connection, 'another connection streams, or none was elected', effects)
      return
    }
    if (append.beginLsn !== this.#write) {
      const reason = `WAL at ${formatLsn(append.beginLsn)} does not continue ${formatLsn(this.#write)}`
      this.#close(connection, reason, effects)
      return
    }
    if (append.wal.length > 0) {
      if (!this.#scanner.feed(append.wal)) {
        this.#close(connection, this.#scanner.damage ?? 'damaged WAL', effects)
        return
      }
      effects.push({ kind: 'write', epoch: this.#epoch, lsn: append.beginLsn, wal: append.wal })
      this.#write = append.endLsn
      this.#recordEnd = this.#scanner.recordEndLsn
      this.#unflushed.push({ writeLsn: this.#write, recordEndLsn: this.#recordEnd })
    }
    this.#leaderCommit = Math.max(this.#leaderCommit, append.commitLsn)
    this.#advanceCommit(effects)
    this.#raise('peerHorizonLsn', append.truncateLsn)
    if (append.replyRequested) this.#ack(connection, effects)
  }

  #onFlushed(epoch: number, writeLsn: Lsn, effects: AcceptorEffect[]): void {
    if (epoch !== this.#epoch) return
    let flush = this.#flush
    let done = 0
    for (const append of this.#unflushed) {
      if (append.writeLsn > writeLsn) break
      flush = append.recordEndLsn
      done += 1
    }
    this.#unflushed.splice(0, done)
    if (flush <= this.#flush) return
    this.#flush = flush
    this.#advanceCommit(effects)
    if (this.#streaming) this.#ack(this.#streaming.connection, effects)
  }

  #advanceCommit(effects: AcceptorEffect[]): void {
    this.#commitUpTo(this.#leaderCommit, effects)
  }

  #commitUpTo(lsn: Lsn, effects: AcceptorEffect[]): void {
    const commit = Math.min(lsn, this.#flush)
    if (commit <= this.#commit) return
    const before = this.#commit
    this.#commit = commit
    effects.push({ kind: 'committed', lsn: commit })
    const termStart = this.#streaming?.termStartLsn ?? 0
    const crossesTermStart = before < termStart && commit >= termStart
    const crossesSegment = segmentNumber(commit) > segmentNumber(this.#savedCommit)
    if (crossesTermStart || crossesSegment) this.#persist(effects, true)
  }

  #onFeedback(feedback: PageserverFeedback, effects: AcceptorEffect[]): void {
    if (!this.#shards.heard(feedback)) return
    this.#raise('remoteConsistentLsn', this.#shards.remoteConsistentLsn)
    this.#feedbackTold = false
    if (this.#streaming) this.#ack(this.#streaming.connection, effects)
  }

  #ack(connection: number, effects: AcceptorEffect[]): void {
    const message: Ack = {
      kind: 'ack',
      generation: this.#control.configuration.generation,
      term: this.#control.term,
      flushLsn: this.#flush,
      commitLsn: this.#durableCommit,
      hotStandby: this.#hotStandby,
      heldUs: 0,
      syncUs: 0,
      feedback: this.#feedbackTold ? [] : this.#shards.latest,
    }
    this.#feedbackTold = true
    effects.push({ kind: 'send', connection, message })
  }

  #sendDeposed(connection: number, effects: AcceptorEffect[]): void {
    const message: Ack = {
      kind: 'ack',
      generation: this.#control.configuration.generation,
      term: this.#control.term,
      flushLsn: 0,
      commitLsn: 0,
      hotStandby: NO_HOT_STANDBY,
      heldUs: 0,
      syncUs: 0,
      feedback: [],
    }
    effects.push({ kind: 'send', connection, message })
  }

  #persist(effects: AcceptorEffect[], background: boolean): void {
    effects.push({ kind: 'persist', control: this.control, background })
    this.#savedCommit = this.#commit
    this.#unsaved = false
  }

  #close(connection: number, reason: string, effects: AcceptorEffect[]): void {
    this.#forget(connection)
    effects.push({ kind: 'close', connection, reason })
  }

  #forget(connection: number): void {
    this.#greeted.delete(connection)
    if (this.#streaming?.connection === connection) this.#streaming = null
  }
}
