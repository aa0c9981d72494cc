/**
 * How a safekeeper that lags catches up from another one when no compute sends it WAL. Pure: `step`
 * takes an event and returns effects; time comes in with ticks.
 *
 * The donor holds the log of a leader whose term it accepted. This safekeeper takes that log as if
 * the leader itself sent it: a greeting, a vote request of that term, the leader's Elected, then WAL
 * read from the donor while its term is pinned, all through the own acceptor's usual messages on a
 * connection of its own. So nothing here can break what the acceptor guards, and a real leader that
 * comes along replaces this one at once. What is committed is not told this way (commit 0).
 *
 * idle -> asking (the donor for its state) -> greeting -> voting -> streaming -> idle
 *
 * A peer's hint only says whom to ask. A donor that is gone, lies or has nothing better is left alone
 * for a while.
 *
 * Use: `new PeerRecovery(options)`, then `step` with a tick every half second or so. Every effect and
 * every event but the tick carries the attempt. Events of an attempt that has ended change nothing;
 * its effects, should an effect before them have ended it, must not be performed.
 */
import { formatLsn, type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import {
  commonPoint,
  cutHistory,
  isTermHistory,
  type TermEntry,
} from '#libs/protocol/term-history.ts'
import {
  type AcceptorMessage,
  MAX_APPEND_BYTES,
  type MemberConfiguration,
  type ProposerMessage,
} from '#libs/protocol/wal-push.ts'

/** Between two looks for a donor. */
export const RECOVERY_INTERVAL_MS = 2_000
/** An attempt that gets on no more is given up. */
export const RECOVERY_STALL_MS = 10_000
/** A donor that failed is not asked again before. */
export const DONOR_PENALTY_MS = 10_000

/** What a peer told by discovery; only a hint. */
export interface PeerHint {
  nodeId: number
  term: number
  lastLogTerm: number
  flushLsn: Lsn
}

/** What the donor itself answers. */
export interface DonorState {
  nodeId: number
  generation: number
  term: number
  lastLogTerm: number
  flushLsn: Lsn
  history: readonly TermEntry[]
}

/** The own acceptor. */
export interface OwnLog {
  configuration: MemberConfiguration
  term: number
  lastLogTerm: number
  flushLsn: Lsn
  /** A proposer other than this recovery streams. */
  proposerConnected: boolean
}

export type RecoveryEvent =
  | { kind: 'tick'; nowMs: number; own: OwnLog; peers: readonly PeerHint[] }
  /** Answer to `ask`; null when there was none. */
  | { kind: 'donor'; attempt: number; state: DonorState | null }
  /** From the own acceptor, whose commit position is `commitLsn` at this moment. */
  | { kind: 'message'; attempt: number; message: AcceptorMessage; commitLsn: Lsn }
  /** From the donor; `wal` is valid during the step only. */
  | { kind: 'wal'; attempt: number; beginLsn: Lsn; wal: Buffer }
  /** The donor's stream or the connection to the own acceptor ended. */
  | { kind: 'broken'; attempt: number; reason: string }

export type RecoveryEffect =
  /** Ask the donor itself for its state, at the address that the configuration names. */
  | { kind: 'ask'; attempt: number; donor: number }
  /** Hand a message to the own acceptor; the first of an attempt opens its connection. */
  | { kind: 'deliver'; attempt: number; message: ProposerMessage }
  /** Read the donor's log [beginLsn, endLsn) as long as its term is `term`. */
  | { kind: 'read'; attempt: number; donor: number; term: number; beginLsn: Lsn; endLsn: Lsn }
  /** Close what the attempt has open. */
  | { kind: 'end'; attempt: number; donor: number | null; reason: string; caughtUp: boolean }

export interface PeerRecoveryOptions {
  ownId: number
  tenantId: string
  timelineId: string
  /** Random, 32 hex digits: tells this recovery's connections from those of proposers. */
  proposerId: string
}

type State =
  | { kind: 'idle' }
  | { kind: 'asking'; donor: number }
  | { kind: 'greeting' | 'voting'; donor: DonorState }
  | { kind: 'streaming'; donor: DonorState; nextLsn: Lsn }

export class PeerRecovery {
  readonly #options: PeerRecoveryOptions
  #state: State = { kind: 'idle' }
  #attempt = 0
  #nowMs = 0
  #lookAtMs = 0
  #progressAtMs = 0
  #own: OwnLog | null = null
  /** Donors to leave alone, and until when. */
  readonly #avoided = new Map<number, number>()

  constructor(options: PeerRecoveryOptions) {
    this.#options = options
  }

  /** The attempt under way, or null. */
  get attempt(): number | null {
    return this.#state.kind === 'idle' ? null : this.#attempt
  }

  /** Donor of the attempt under way, or null. */
  get donor(): number | null {
    const state = this.#state
    if (state.kind === 'idle') return null
    return state.kind === 'asking' ? state.donor : state.donor.nodeId
  }

  step(event: RecoveryEvent): RecoveryEffect[] {
    const effects: RecoveryEffect[] = []
    if (event.kind === 'tick') {
      this.#onTick(event, effects)
      return effects
    }
    if (this.#state.kind === 'idle' || event.attempt !== this.#attempt) return effects
    switch (event.kind) {
      case 'donor':
        this.#onDonor(event.state, effects)
        break
      case 'message':
        this.#onMessage(event.message, event.commitLsn, effects)
        break
      case 'wal':
        this.#onWal(event.beginLsn, event.wal, effects)
        break
      case 'broken':
        this.#fail(event.reason, effects)
    }
    return effects
  }

  #onTick(event: Extract<RecoveryEvent, { kind: 'tick' }>, effects: RecoveryEffect[]): void {
    this.#nowMs = event.nowMs
    this.#own = event.own
    if (this.#state.kind !== 'idle') {
      if (event.own.proposerConnected) this.#end('a proposer streams', false, effects)
      else if (event.nowMs - this.#progressAtMs > RECOVERY_STALL_MS) {
        this.#fail('it does not get on', effects)
      }
      return
    }
    if (event.own.proposerConnected || event.nowMs < this.#lookAtMs) return
    this.#lookAtMs = event.nowMs + RECOVERY_INTERVAL_MS
    const donor = this.#choose(event.own, event.peers)
    if (donor === null) return
    this.#attempt += 1
    this.#progressAtMs = event.nowMs
    this.#state = { kind: 'asking', donor }
    effects.push({ kind: 'ask', attempt: this.#attempt, donor })
  }

  /** The member with the best log among those whose log this safekeeper may take. */
  #choose(own: OwnLog, peers: readonly PeerHint[]): number | null {
    const { members, newMembers } = own.configuration
    const known = new Set([...members, ...(newMembers ?? [])].map((member) => member.id))
    let best: PeerHint | null = null
    for (const peer of peers) {
      if (peer.nodeId === this.#options.ownId || !known.has(peer.nodeId)) continue
      if ((this.#avoided.get(peer.nodeId) ?? 0) > this.#nowMs) continue
      if (objection(own, peer) !== null) continue
      if (best === null || compareLogs(peer, best) > 0) best = peer
    }
    return best?.nodeId ?? null
  }

  #onDonor(donor: DonorState | null, effects: RecoveryEffect[]): void {
    const own = this.#own
    if (this.#state.kind !== 'asking' || own === null) return
    if (donor === null || donor.nodeId !== this.#state.donor) {
      this.#fail('it does not answer', effects)
      return
    }
    const history = cutHistory(donor.history, donor.flushLsn)
    const generation = own.configuration.generation
    if (!isTermHistory(history) || history.at(-1)?.term !== donor.lastLogTerm) {
      this.#fail('its term history makes no sense', effects)
    } else if (donor.generation !== generation) {
      this.#fail(`its members are at generation ${donor.generation}, not ${generation}`, effects)
    } else {
      const why = objection(own, donor)
      if (why !== null) {
        this.#fail(why, effects)
        return
      }
      this.#state = { kind: 'greeting', donor: { ...donor, history } }
      this.#deliver(
        {
          kind: 'greeting',
          tenantId: this.#options.tenantId,
          timelineId: this.#options.timelineId,
          configuration: own.configuration,
          pgVersion: 0,
          systemId: 0n,
          walSegmentSize: WAL_SEGMENT_SIZE,
          proposerId: this.#options.proposerId,
          ordinal: this.#attempt,
        },
        effects,
      )
    }
  }

  #onMessage(message: AcceptorMessage, commitLsn: Lsn, effects: RecoveryEffect[]): void {
    const state = this.#state
    if (state.kind === 'idle' || state.kind === 'asking') return
    const { donor } = state
    if (message.term > donor.term) {
      this.#end(`term ${message.term} has begun here`, false, effects)
    } else if (message.kind === 'greeting' && state.kind === 'greeting') {
      this.#state = { kind: 'voting', donor }
      this.#deliver({ kind: 'vote', generation: donor.generation, term: donor.term }, effects)
    } else if (message.kind === 'vote' && state.kind === 'voting') {
      this.#onVote(donor, message, commitLsn, effects)
    } else if (message.kind === 'ack' && state.kind === 'streaming') {
      this.#progressAtMs = this.#nowMs
      if (message.flushLsn >= donor.flushLsn) this.#end('caught up', true, effects)
    }
  }

  /** The vote tells where the own log ends now, whether it was given or not. */
  #onVote(
    donor: DonorState,
    vote: { flushLsn: Lsn; history: readonly TermEntry[] },
    commitLsn: Lsn,
    effects: RecoveryEffect[],
  ): void {
    if (contradicts(donor.history, vote.history)) {
      this.#fail('its term history contradicts ours', effects)
      return
    }
    const start = commonPoint(donor.history, vote.history, vote.flushLsn)
    if (start < commitLsn) {
      // Cannot happen among honest safekeepers; the acceptor would halt over it.
      const [cut, commit] = [formatLsn(start), formatLsn(commitLsn)]
      this.#fail(`its log departs from ours at ${cut}, below our commit ${commit}`, effects)
      return
    }
    this.#state = { kind: 'streaming', donor, nextLsn: start }
    this.#deliver(
      {
        kind: 'elected',
        generation: donor.generation,
        term: donor.term,
        startStreamingAt: start,
        history: [...donor.history],
      },
      effects,
    )
    effects.push({
      kind: 'read',
      attempt: this.#attempt,
      donor: donor.nodeId,
      term: donor.term,
      beginLsn: start,
      endLsn: donor.flushLsn,
    })
  }

  #onWal(beginLsn: Lsn, wal: Buffer, effects: RecoveryEffect[]): void {
    const state = this.#state
    if (state.kind !== 'streaming') return
    if (beginLsn !== state.nextLsn) {
      const [got, wanted] = [formatLsn(beginLsn), formatLsn(state.nextLsn)]
      this.#fail(`it sent WAL at ${got}, not ${wanted}`, effects)
      return
    }
    const { donor } = state
    for (let at = 0; at < wal.length; at += MAX_APPEND_BYTES) {
      const piece = wal.subarray(at, at + MAX_APPEND_BYTES)
      this.#deliver(
        {
          kind: 'append',
          generation: donor.generation,
          term: donor.term,
          beginLsn: beginLsn + at,
          endLsn: beginLsn + at + piece.length,
          commitLsn: 0,
          truncateLsn: 0,
          replyRequested: false,
          wal: piece,
        },
        effects,
      )
    }
    state.nextLsn = beginLsn + wal.length
    this.#progressAtMs = this.#nowMs
  }

  #deliver(message: ProposerMessage, effects: RecoveryEffect[]): void {
    effects.push({ kind: 'deliver', attempt: this.#attempt, message })
  }

  #fail(reason: string, effects: RecoveryEffect[]): void {
    const { donor } = this
    if (donor !== null) this.#avoided.set(donor, this.#nowMs + DONOR_PENALTY_MS)
    this.#end(reason, false, effects)
  }

  #end(reason: string, caughtUp: boolean, effects: RecoveryEffect[]): void {
    effects.push({ kind: 'end', attempt: this.#attempt, donor: this.donor, reason, caughtUp })
    this.#state = { kind: 'idle' }
    for (const [donor, untilMs] of this.#avoided) {
      if (untilMs <= this.#nowMs) this.#avoided.delete(donor)
    }
  }
}

/** Positive when `a` is the log to prefer: the later leader's, then the longer. */
function compareLogs(
  a: { lastLogTerm: number; flushLsn: Lsn },
  b: { lastLogTerm: number; flushLsn: Lsn },
): number {
  return a.lastLogTerm - b.lastLogTerm || a.flushLsn - b.flushLsn
}

/** Why not to take a peer's log; null when it may be taken. */
function objection(
  own: OwnLog,
  peer: { term: number; lastLogTerm: number; flushLsn: Lsn },
): string | null {
  if (compareLogs(peer, own) <= 0) return 'it has no better log'
  // In between two leaders nobody can tell what the next one will keep.
  if (peer.term !== peer.lastLogTerm) return 'it has voted for a leader that it has not heard since'
  if (peer.term < own.term) return `its term ${peer.term} is over: ours is ${own.term}`
  return null
}

/** The same term cannot begin at two places. */
function contradicts(a: readonly TermEntry[], b: readonly TermEntry[]): boolean {
  return a.some((entry) =>
    b.some((other) => other.term === entry.term && other.startLsn !== entry.startLsn),
  )
}
