import { describe, expect, it } from 'vitest'
import type { TermEntry } from '#libs/protocol/term-history.ts'
import type { AcceptorMessage, MemberConfiguration } from '#libs/protocol/wal-push.ts'
import { NO_HOT_STANDBY } from '#libs/protocol/wal-push.ts'
import { ProposerCore, type ProposerEffect } from './core.ts'
import { isQuorum, majority, quorumLsn } from '#libs/protocol/quorum.ts'

const members = (count: number, first = 1) =>
  Array.from({ length: count }, (_, index) => ({
    id: first + index,
    host: `sk${first + index}`,
    pgPort: 1,
    httpPort: 2,
  }))

/** A core with its safekeepers played by hand. */
class Play {
  readonly core: ProposerCore
  nowMs = 0
  seen: ProposerEffect[] = []

  constructor(count: number) {
    this.core = new ProposerCore({
      tenantId: 'a'.repeat(32),
      timelineId: 'b'.repeat(32),
      configuration: { generation: 1, members: members(count), newMembers: null },
      pgVersion: 170011,
      systemId: 7n,
      proposerId: 'c'.repeat(32),
      random: () => 0.5,
    })
    this.seen = this.core.step({ kind: 'start', nowMs: 0 })
  }

  say(node: number, message: AcceptorMessage): ProposerEffect[] {
    return this.core.step({ kind: 'message', node, message, nowMs: this.nowMs })
  }

  greet(node: number, term = 0): ProposerEffect[] {
    this.core.step({ kind: 'connected', node, nowMs: this.nowMs })
    const configuration: MemberConfiguration = this.core.configuration
    const incarnation = String(node).padStart(32, '0')
    return this.say(node, { kind: 'greeting', nodeId: node, incarnation, configuration, term })
  }

  vote(node: number, flushLsn: number, history: TermEntry[], given = true): ProposerEffect[] {
    const term = this.core.term
    return this.say(node, {
      kind: 'vote',
      generation: 1,
      term,
      given,
      flushLsn,
      truncateLsn: 0,
      history,
    })
  }

  ack(node: number, flushLsn: number, term = this.core.term): ProposerEffect[] {
    return this.say(node, {
      kind: 'ack',
      generation: 1,
      term,
      flushLsn,
      commitLsn: 0,
      hotStandby: NO_HOT_STANDBY,
      heldUs: 0,
      syncUs: 0,
      feedback: [],
    })
  }
}

const entries = (...pairs: [number, number][]) =>
  pairs.map(([term, startLsn]) => ({ term, startLsn }))

describe('quorums', () => {
  it('are majorities', () => {
    expect([1, 2, 3, 4, 5, 6].map(majority)).toEqual([1, 2, 2, 3, 3, 4])
  })

  it('take the position that a majority has reached', () => {
    const position = (positions: number[]) =>
      quorumLsn(
        { generation: 1, members: members(positions.length), newMembers: null },
        (id) => positions[id - 1] ?? 0,
      )
    expect(position([5])).toBe(5)
    expect(position([5, 9])).toBe(5)
    expect(position([5, 9, 7])).toBe(7)
    expect(position([5, 9, 7, 8])).toBe(7)
    expect(position([0, 0, 9, 9, 9])).toBe(9)
  })

  it('need both sets while members change', () => {
    const configuration = { generation: 2, members: members(3), newMembers: members(3, 3) }
    expect(isQuorum(configuration, (id) => id <= 3)).toBe(false)
    expect(isQuorum(configuration, (id) => id >= 2 && id <= 4)).toBe(true)
    expect(quorumLsn(configuration, (id) => id)).toBe(2)
  })
})

describe('proposer core', () => {
  it('campaigns above every term it has seen, when a majority has greeted', () => {
    const play = new Play(3)
    expect(play.seen.map((effect) => effect.kind)).toEqual(['connect', 'connect', 'connect'])
    expect(play.greet(1, 4)).toEqual([])
    const requests = play.greet(2, 7)
    expect(requests).toMatchObject([
      { node: 1, message: { kind: 'vote', term: 8 } },
      { node: 2, message: { kind: 'vote', term: 8 } },
    ])
    expect(play.greet(3)).toMatchObject([{ node: 3, message: { kind: 'vote', term: 8 } }])
  })

  it('takes the log of the highest last term, though another is longer', () => {
    const play = new Play(3)
    play.greet(1, 3)
    play.greet(2, 3)
    play.vote(1, 180, entries([1, 8], [2, 100]))
    const won = play.vote(2, 160, entries([1, 8], [3, 150]))
    expect(won).toMatchObject([
      { kind: 'elected', term: 4, startLsn: 160 },
      { node: 1, message: { kind: 'elected', startStreamingAt: 100 } },
      { node: 2, message: { kind: 'elected', startStreamingAt: 160 } },
    ])
    expect(play.core.history).toEqual(entries([1, 8], [3, 150], [4, 160]))
    expect(play.core.wantedFetches()).toEqual([
      { kind: 'fetch', node: 1, donor: 2, beginLsn: 100, endLsn: 160 },
    ])
    play.greet(3, 1)
    const late = play.vote(3, 150, entries([1, 8]), false)
    expect(late).toMatchObject([{ node: 3, message: { startStreamingAt: 150 } }])
  })

  it('commits nothing of older terms before a majority has reached the start of its own', () => {
    const play = new Play(3)
    for (const node of [1, 2]) play.greet(node)
    play.vote(1, 200, entries([0, 100]))
    play.vote(2, 100, entries([0, 100]))
    expect(play.ack(1, 200)).toEqual([])
    expect(play.ack(2, 150)).toEqual([])
    expect(play.ack(2, 192)).toEqual([])
    expect(play.ack(2, 200)).toEqual([{ kind: 'committed', lsn: 200 }])
  })

  it('with one safekeeper votes, streams and commits all the same', () => {
    const play = new Play(1)
    play.greet(1)
    play.vote(1, 100, entries([0, 100]))
    expect(play.ack(1, 100)).toEqual([{ kind: 'committed', lsn: 100 }])
    play.core.step({ kind: 'window', startLsn: 100, endLsn: 300_100 })
    const sizes: number[] = []
    for (let next = play.core.nextAppend(1); next; next = play.core.nextAppend(1)) {
      sizes.push(next.endLsn - next.beginLsn)
    }
    expect(sizes).toEqual([131_072, 131_072, 37_856])
    // News of a commit goes by itself only to a safekeeper that is owed no WAL.
    expect(play.ack(1, 300_000)).toEqual([{ kind: 'committed', lsn: 300_000 }])
    expect(play.core.nextAppend(1)).toBeNull()
    play.ack(1, 300_100)
    expect(play.core.nextAppend(1)).toMatchObject({ beginLsn: 300_100, commitLsn: 300_100 })
    expect(play.core.nextAppend(1)).toBeNull()
  })

  it('asks again, with a higher term, when a vote is denied', () => {
    const play = new Play(1)
    play.greet(1, 2)
    const effects = play.vote(1, 100, entries([0, 100]), false)
    expect(effects).toMatchObject([{ kind: 'disconnect' }])
    expect(play.core.phase).toBe('collecting')
    play.nowMs = 1_000
    expect(play.core.step({ kind: 'tick', nowMs: play.nowMs })).toEqual([
      { kind: 'connect', node: 1 },
    ])
    expect(play.greet(1, 3)).toMatchObject([{ message: { kind: 'vote', term: 4 } }])
  })

  it('is fenced by a higher term once its election is settled, and asks again before', () => {
    const play = new Play(1)
    play.greet(1)
    play.vote(1, 100, entries([0, 100]))
    expect(play.ack(1, 0, 9)).toMatchObject([{ kind: 'disconnect' }])
    expect(play.core.phase).toBe('collecting')
    play.nowMs = 1_000
    play.core.step({ kind: 'tick', nowMs: play.nowMs })
    play.greet(1, 9)
    play.vote(1, 100, entries([0, 100]))
    expect(play.core.term).toBe(10)
    play.ack(1, 100)
    expect(play.ack(1, 0, 11)).toMatchObject([{ kind: 'fenced' }, { kind: 'disconnect' }])
    expect(play.core.phase).toBe('fenced')
    expect(play.ack(1, 500)).toEqual([])
  })

  it('drops a silent safekeeper, asks a quiet one for a sign of life, and connects again', () => {
    const play = new Play(1)
    play.greet(1)
    play.vote(1, 100, entries([0, 100]))
    play.ack(1, 100)
    play.core.nextAppend(1)
    play.core.step({ kind: 'tick', nowMs: 1_500 })
    expect(play.core.nextAppend(1)).toMatchObject({
      beginLsn: 100,
      endLsn: 100,
      replyRequested: true,
    })
    expect(play.core.step({ kind: 'tick', nowMs: 11_000 })).toMatchObject([{ kind: 'disconnect' }])
    expect(play.core.step({ kind: 'tick', nowMs: 12_000 })).toEqual([{ kind: 'connect', node: 1 }])
  })

  it('gives an election up when the only holder of the log goes away before it is settled', () => {
    const play = new Play(3)
    for (const node of [1, 2]) play.greet(node)
    play.vote(1, 200, entries([0, 100]))
    play.vote(2, 100, entries([0, 100]))
    play.ack(1, 200)
    play.core.step({ kind: 'disconnected', node: 1, nowMs: 100 })
    play.core.step({ kind: 'tick', nowMs: 5_000 })
    expect(play.core.phase).toBe('collecting')
  })
})
