/** The recovery against real acceptors: everything it says goes through one, as in production. */
import { describe, expect, it } from 'vitest'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import type { TermEntry } from '#libs/protocol/term-history.ts'
import type { ProposerMessage } from '#libs/protocol/wal-push.ts'
import { WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { Acceptor, type AcceptorEffect, type AcceptorEvent } from '../acceptor.ts'
import { newControlState } from '../control-state.ts'
import {
  DONOR_PENALTY_MS,
  type DonorState,
  PeerRecovery,
  RECOVERY_INTERVAL_MS,
  RECOVERY_STALL_MS,
  type RecoveryEffect,
  type RecoveryEvent,
} from './peer-recovery.ts'

const TENANT = parseTenantId('a'.repeat(32))
const TIMELINE = parseTimelineId('b'.repeat(32))
const START = 3 * WAL_SEGMENT_SIZE + 4000
const MEMBERS = [1, 2, 3].map((id) => ({ id, host: `sk${id}`, pgPort: 1, httpPort: 2 }))
const CONFIGURATION = { generation: 4, members: MEMBERS, newMembers: null }
const RECOVERY = 99

/** An acceptor whose disk is instant, and the bytes it has. */
class Node {
  readonly id: number
  readonly acceptor: Acceptor
  wal = Buffer.alloc(0)
  closed: string[] = []
  halted: string | null = null
  onMessage: (connection: number, effect: AcceptorEffect & { kind: 'send' }) => void = () => {}
  onClose: (connection: number, reason: string) => void = () => {}

  constructor(id: number) {
    this.id = id
    const control = newControlState({
      tenantId: TENANT,
      timelineId: TIMELINE,
      configuration: CONFIGURATION,
      pgVersion: 170011,
      systemId: 7n,
      startLsn: START,
      createdAtMs: 0,
    })
    const incarnation = '0'.repeat(32)
    this.acceptor = new Acceptor({ nodeId: id, incarnation, control, flushLsn: START })
  }

  dispatch(event: AcceptorEvent): void {
    let written: { epoch: number; writeLsn: Lsn } | null = null
    for (const effect of this.acceptor.step(event)) {
      if (effect.kind === 'write') {
        this.wal = Buffer.concat([this.wal.subarray(0, effect.lsn - START), effect.wal])
        written = { epoch: effect.epoch, writeLsn: effect.lsn + effect.wal.length }
      } else if (effect.kind === 'truncate') this.wal = this.wal.subarray(0, effect.lsn - START)
      else if (effect.kind === 'send') this.onMessage(effect.connection, effect)
      else if (effect.kind === 'halt') this.halted = effect.reason
      else if (effect.kind === 'close') {
        this.closed.push(effect.reason)
        this.onClose(effect.connection, effect.reason)
      }
    }
    if (written !== null) this.dispatch({ kind: 'flushed', ...written })
  }

  say(message: ProposerMessage, connection: number): void {
    this.dispatch({ kind: 'message', connection, message })
  }

  /** What a leader of `term` does here; `wal` continues at `from`. */
  lead(term: number, history: TermEntry[], from: Lsn, wal: Buffer, commitLsn: Lsn): void {
    const connection = term
    this.say(
      {
        kind: 'greeting',
        tenantId: TENANT,
        timelineId: TIMELINE,
        configuration: CONFIGURATION,
        pgVersion: 170011,
        systemId: 7n,
        walSegmentSize: WAL_SEGMENT_SIZE,
        proposerId: String(term).padStart(32, 'c'),
        ordinal: 1,
      },
      connection,
    )
    this.say({ kind: 'vote', generation: 4, term }, connection)
    const elected = { kind: 'elected', generation: 4, term } as const
    this.say({ ...elected, startStreamingAt: from, history }, connection)
    this.append(term, from, wal, commitLsn)
  }

  append(term: number, from: Lsn, wal: Buffer, commitLsn: Lsn): void {
    const range = { beginLsn: from, endLsn: from + wal.length, commitLsn, truncateLsn: START }
    this.say({ kind: 'append', generation: 4, term, ...range, replyRequested: false, wal }, term)
  }

  leaderGone(term: number): void {
    this.dispatch({ kind: 'disconnected', connection: term })
  }

  get state(): DonorState {
    const { control, flushLsn, lastLogTerm } = this.acceptor
    const generation = control.configuration.generation
    const { term, history } = control
    return { nodeId: this.id, generation, term, lastLogTerm, flushLsn, history }
  }
}

/** Runs the recovery of `own`; reads from `donors` deliver in pieces of at most `pieceBytes`. */
class Harness {
  readonly own: Node
  readonly donors: Node[]
  readonly recovery = new PeerRecovery({
    ownId: 1,
    tenantId: TENANT,
    timelineId: TIMELINE,
    proposerId: 'd'.repeat(32),
  })
  nowMs = 0
  pieceBytes = 1000
  ends: { reason: string; caughtUp: boolean }[] = []
  asked: number[] = []
  /** What donors say instead of the truth. */
  lie: (state: DonorState) => DonorState | null = (state) => state
  onRead: (() => void) | null = null

  constructor(own: Node, donors: Node[]) {
    this.own = own
    this.donors = donors
    own.onMessage = (connection, { message }) => {
      const { attempt } = this.recovery
      const { commitLsn } = own.acceptor
      if (connection !== RECOVERY || attempt === null) return
      this.step({ kind: 'message', attempt, message, commitLsn })
    }
    own.onClose = (connection, reason) => {
      const { attempt } = this.recovery
      if (connection === RECOVERY && attempt !== null)
        this.step({ kind: 'broken', attempt, reason })
    }
  }

  tick(afterMs = RECOVERY_INTERVAL_MS): void {
    this.nowMs += afterMs
    const { acceptor } = this.own
    const streaming = acceptor.streamingConnection
    this.step({
      kind: 'tick',
      nowMs: this.nowMs,
      own: {
        configuration: acceptor.control.configuration,
        term: acceptor.control.term,
        lastLogTerm: acceptor.lastLogTerm,
        flushLsn: acceptor.flushLsn,
        proposerConnected: streaming !== null && streaming !== RECOVERY,
      },
      peers: this.donors.map((donor) => donor.state),
    })
  }

  step(event: RecoveryEvent): void {
    for (const effect of this.recovery.step(event)) {
      if (effect.kind === 'end' || effect.attempt === this.recovery.attempt) this.#perform(effect)
    }
  }

  #perform(effect: RecoveryEffect): void {
    const { attempt } = effect
    if (effect.kind === 'end') {
      this.ends.push({ reason: effect.reason, caughtUp: effect.caughtUp })
      this.own.dispatch({ kind: 'disconnected', connection: RECOVERY })
    } else if (effect.kind === 'deliver') this.own.say(effect.message, RECOVERY)
    else if (effect.kind === 'ask') {
      this.asked.push(effect.donor)
      const donor = this.donors.find(({ id }) => id === effect.donor)
      this.step({ kind: 'donor', attempt, state: donor ? this.lie(donor.state) : null })
    } else if (this.onRead) this.onRead()
    else this.#stream(effect)
  }

  #stream({ attempt, donor: id, beginLsn, term }: RecoveryEffect & { kind: 'read' }): void {
    const donor = this.donors.find((one) => one.id === id)
    for (let at = beginLsn - START; donor && at < donor.wal.length; at += this.pieceBytes) {
      if (donor.acceptor.control.term !== term) {
        this.step({ kind: 'broken', attempt, reason: 'the term changed' })
        return
      }
      const wal = donor.wal.subarray(at, at + this.pieceBytes)
      this.step({ kind: 'wal', attempt, beginLsn: START + at, wal })
    }
  }
}

/** WAL from START on, of 20 records that all logs have and others of `bytes` bytes each. */
function walOf(records: number, bytes: number): Buffer {
  const builder = new WalBuilder(START)
  for (let index = 0; index < 20; index += 1) builder.appendNoop(300 + index)
  for (let index = 0; index < records; index += 1) builder.appendNoop(bytes)
  return Buffer.from(builder.bytes())
}

const first = walOf(0, 0)
const firstEnd = START + first.length
const both = walOf(30, 500)
const second = both.subarray(first.length)
const secondEnd = firstEnd + second.length
const H1 = [
  { term: 0, startLsn: START },
  { term: 1, startLsn: START },
]
const H2 = [...H1, { term: 2, startLsn: firstEnd }]

/** 2 has two terms of WAL, 1 has what `own` gets; the compute is dead. */
function scene(prepare: (own: Node) => void = () => {}): Harness {
  const own = new Node(1)
  const donor = new Node(2)
  donor.lead(1, H1, START, first, firstEnd)
  donor.lead(2, H2, firstEnd, second, secondEnd)
  donor.leaderGone(2)
  prepare(own)
  return new Harness(own, [donor])
}

describe('peer recovery', () => {
  it('brings an empty safekeeper to the log of a peer, commits nothing by itself', () => {
    const harness = scene()
    harness.tick()
    const { own, donors, ends } = harness
    expect(ends).toEqual([{ reason: 'caught up', caughtUp: true }])
    expect(own.wal.equals(donors[0]?.wal as Buffer)).toBe(true)
    expect(own.acceptor.flushLsn).toBe(secondEnd)
    expect(own.acceptor.lastLogTerm).toBe(2)
    expect(own.acceptor.commitLsn).toBe(START)
    expect(own.acceptor.streamingConnection).toBeNull()
    harness.tick()
    expect(harness.asked).toEqual([2])
  })

  it('cuts a tail that no leader knows and takes pieces of any size', () => {
    for (const pieceBytes of [1, 7, 128 * 1024, 1 << 20]) {
      const harness = scene((own) => {
        // An older leader wrote on, to this safekeeper alone.
        own.lead(1, H1, START, walOf(3, 200), firstEnd)
        own.leaderGone(1)
      })
      harness.pieceBytes = pieceBytes
      harness.tick()
      expect(harness.ends).toEqual([{ reason: 'caught up', caughtUp: true }])
      expect(harness.own.wal.equals(both)).toBe(true)
      expect(harness.own.acceptor.commitLsn).toBe(firstEnd)
    }
  })

  it('leaves a safekeeper alone that a proposer streams to, and makes room for one', () => {
    const busy = scene((own) =>
      own.lead(2, H2.slice(0, 2).concat(H2.slice(2)), START, first, START),
    )
    busy.tick()
    expect(busy.asked).toEqual([])

    const harness = scene()
    harness.onRead = () =>
      harness.own.lead(3, [...H1, { term: 3, startLsn: START }], START, first, START)
    harness.tick()
    harness.tick()
    expect(harness.ends.map(({ caughtUp }) => caughtUp)).toEqual([false])
    expect(harness.own.acceptor.lastLogTerm).toBe(3)
    expect(harness.own.halted).toBeNull()
  })

  it('takes nothing from between two leaders, from a term that is over, from a worse log', () => {
    const voted = scene()
    voted.donors[0]?.say({ kind: 'vote', generation: 4, term: 9 }, 2)
    const donor = voted.donors[0] as Node
    donor.lead(9, [...H2, { term: 9, startLsn: secondEnd + 8 }], secondEnd, Buffer.alloc(0), START)
    expect(donor.acceptor.control.term).toBe(9)
    voted.tick()
    expect(voted.asked).toEqual([])

    const over = scene((own) => own.dispatch({ kind: 'bump-term', request: 1, term: 3 }))
    over.tick()
    expect(over.asked).toEqual([])

    const ahead = scene((own) => {
      own.lead(3, [...H1, { term: 3, startLsn: START }], START, first, START)
      own.leaderGone(3)
    })
    ahead.tick()
    expect(ahead.asked).toEqual([])
  })

  it('goes to another donor when one fails, and back to it after a while', () => {
    const harness = scene()
    const spare = new Node(3)
    spare.lead(1, H1, START, first, START)
    spare.leaderGone(1)
    harness.donors.push(spare)
    harness.lie = (state) => (state.nodeId === 2 ? null : state)
    harness.tick()
    harness.tick()
    expect(harness.asked).toEqual([2, 3])
    expect(harness.own.wal.equals(first)).toBe(true)
    harness.lie = (state) => state
    harness.tick()
    expect(harness.asked).toEqual([2, 3])
    harness.tick(DONOR_PENALTY_MS)
    expect(harness.asked).toEqual([2, 3, 2])
    expect(harness.own.wal.equals(both)).toBe(true)
  })

  it('gives up what does not get on, and does not mind late events', () => {
    const harness = scene()
    harness.onRead = () => {}
    harness.tick()
    const { attempt } = harness.recovery
    expect(attempt).not.toBeNull()
    harness.tick(RECOVERY_STALL_MS + 1)
    expect(harness.ends).toEqual([{ reason: 'it does not get on', caughtUp: false }])
    harness.step({ kind: 'wal', attempt: attempt ?? 0, beginLsn: START, wal: first })
    expect(harness.own.wal).toHaveLength(0)
  })

  it('asks members only, however many others praise themselves', () => {
    const harness = scene()
    const stranger = new Node(66)
    stranger.lead(
      8,
      [
        { term: 0, startLsn: START },
        { term: 8, startLsn: START },
      ],
      START,
      first,
      START,
    )
    harness.donors.splice(0, 1, stranger)
    harness.tick()
    expect(harness.asked).toEqual([])
  })

  it('a donor that lies costs time: nothing committed is cut, nothing halts', () => {
    const lies: ((state: DonorState) => DonorState)[] = [
      // Another history from the start: it would cut what is committed here.
      (state) => ({
        ...state,
        history: [
          { term: 0, startLsn: START },
          { term: 2, startLsn: START },
        ],
      }),
      // The same term at another place.
      (state) => ({
        ...state,
        history: [
          { term: 0, startLsn: START },
          { term: 1, startLsn: START + 8 },
          { term: 2, startLsn: firstEnd },
        ],
      }),
      (state) => ({ ...state, history: [...state.history].reverse() }),
      (state) => ({ ...state, history: [] }),
      (state) => ({ ...state, generation: 5 }),
      (state) => ({ ...state, nodeId: 3 }),
      (state) => ({ ...state, term: 2 ** 50, lastLogTerm: 2 ** 50 }),
      (state) => ({ ...state, flushLsn: START }),
    ]
    for (const lie of lies) {
      const harness = scene((own) => {
        own.lead(1, H1, START, first, firstEnd)
        own.leaderGone(1)
      })
      harness.lie = lie
      harness.tick()
      expect(harness.ends).toMatchObject([{ caughtUp: false }])
      expect(harness.own.halted).toBeNull()
      expect(harness.own.acceptor.commitLsn).toBe(firstEnd)
      expect(harness.own.wal.equals(first)).toBe(true)
      expect(harness.own.acceptor.control.term).toBeLessThanOrEqual(2)
    }
  })
})
