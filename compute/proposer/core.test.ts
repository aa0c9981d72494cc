import { describe, expect, it } from 'vitest'
import type { TermEntry } from '#libs/protocol/term-history.ts'
import type { AcceptorGreeting, AcceptorMessage, Ack } from '#libs/protocol/wal-push.ts'
import { NO_HOT_STANDBY } from '#libs/protocol/wal-push.ts'
import { ProposerCore } from './core.ts'
import type { ProposerEffect } from './events.ts'

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

  greet(node: number, term = 0, change: Partial<AcceptorGreeting> = {}): ProposerEffect[] {
    this.core.step({ kind: 'connected', node, nowMs: this.nowMs })
    return this.say(node, {
      kind: 'greeting',
      nodeId: node,
      incarnation: String(node).padStart(32, '0'),
      configuration: this.core.configuration,
      term,
      lastLogTerm: 0,
      flushLsn: 0,
      ...change,
    })
  }

  vote(node: number, flushLsn: number, history: TermEntry[], given = true): ProposerEffect[] {
    const term = this.core.term
    return this.say(node, {
      kind: 'vote',
      generation: this.core.configuration.generation,
      term,
      given,
      flushLsn,
      truncateLsn: 0,
      history,
    })
  }

  ack(node: number, flushLsn: number, term = this.core.term): ProposerEffect[] {
    const { generation } = this.core.configuration
    return this.say(node, { ...ackOf(term, flushLsn), generation })
  }

  /** Lets time pass until connections are asked for again. */
  pass(ms: number): ProposerEffect[] {
    this.nowMs += ms
    return this.core.step({ kind: 'tick', nowMs: this.nowMs })
  }

  write(endLsn: number): void {
    this.core.step({ kind: 'window', startLsn: 100, endLsn })
    for (const { id } of this.core.nodes()) this.core.nextAppend(id)
  }
}

const ackOf = (term: number, flushLsn: number): Ack => ({
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

const entries = (...pairs: [number, number][]) =>
  pairs.map(([term, startLsn]) => ({ term, startLsn }))

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
    expect(play.core.wantedFetches()).toMatchObject([{ node: 2, beginLsn: 100, endLsn: 200 }])
    play.core.relay(2, 100, 200)
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
    expect(play.core.step({ kind: 'tick', nowMs: play.nowMs })).toMatchObject([
      { kind: 'connect', node: 1 },
    ])
    expect(play.greet(1, 3)).toMatchObject([{ message: { kind: 'vote', term: 4 } }])
  })

  it('asks again before a quorum has its log, whoever leads', () => {
    const play = new Play(1)
    play.greet(1)
    play.vote(1, 100, entries([0, 100]))
    expect(play.ack(1, 0, 9)).toMatchObject([{ kind: 'disconnect' }])
    expect(play.core.phase).toBe('collecting')
    play.pass(1_000)
    expect(play.greet(1, 9, { lastLogTerm: 9 })).toMatchObject([{ message: { term: 10 } }])
  })

  it('does not count an acknowledgement of more than was sent, or under other members', () => {
    const play = new Play(1)
    play.greet(1)
    play.vote(1, 100, entries([0, 100]))
    expect(play.say(1, { ...ackOf(1, 100), generation: 2 })).toEqual([])
    expect(play.ack(1, 108)).toMatchObject([{ kind: 'disconnect' }])
    expect(play.core.commitLsn).toBe(0)
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
    expect(play.core.step({ kind: 'tick', nowMs: 12_000 })).toMatchObject([
      { kind: 'connect', node: 1 },
    ])
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

describe('proposer core with a Postgres behind it', () => {
  /** Three safekeepers; term 1 settled at 100; WAL up to 400 written, committed up to 300 by 1 and 2. */
  function leader(): Play {
    const play = new Play(3)
    for (const node of [1, 2, 3]) play.greet(node)
    for (const node of [1, 2, 3]) play.vote(node, 100, entries([0, 100]))
    for (const node of [1, 2, 3]) play.ack(node, 100)
    play.write(400)
    play.ack(1, 300)
    expect(play.ack(2, 300)).toEqual([{ kind: 'committed', lsn: 300 }])
    return play
  }

  const kinds = (effects: ProposerEffect[]) => effects.map((effect) => effect.kind)
  const mine = (flushLsn: number) => ({ lastLogTerm: 1, flushLsn })

  it('is fenced when the best log of a quorum ends in a term of another', () => {
    const play = leader()
    expect(kinds(play.ack(1, 0, 5))).toEqual(['deposed', 'disconnect', 'disconnect', 'disconnect'])
    play.pass(10)
    play.greet(1, 5, mine(300))
    const seen = play.greet(3, 5, { lastLogTerm: 5, flushLsn: 200 })
    expect(seen[0]).toMatchObject({ kind: 'fenced', reason: expect.stringContaining('term 5') })
    expect(play.core.phase).toBe('fenced')
    expect(play.ack(1, 400)).toEqual([])
  })

  it('leaves a newcomer time to settle, looking on meanwhile, and asks for no vote until then', () => {
    const play = leader()
    play.ack(1, 0, 5)
    let looks = 0
    while (play.nowMs < 1_400) {
      play.pass(50)
      for (const { id, state } of play.core.nodes()) {
        if (state === 'connecting') play.greet(id, 5, mine(300))
      }
      looks += 1
      expect(play.core.phase).toBe('collecting')
    }
    expect(looks).toBeGreaterThan(3)
    // Now the newcomer has settled after all.
    play.pass(250)
    play.greet(2, 5, { lastLogTerm: 5, flushLsn: 300 })
    play.greet(1, 5, mine(300))
    expect(play.core.phase).toBe('fenced')
  })

  function reelected(play: Play): ProposerEffect[] {
    play.ack(1, 0, 5)
    play.pass(2_000)
    play.greet(2, 5, mine(350))
    expect(play.greet(3, 1, mine(100))).toMatchObject([
      { node: 2, message: { kind: 'vote', term: 6 } },
      { node: 3, message: { kind: 'vote', term: 6 } },
    ])
    play.vote(2, 350, entries([0, 100], [1, 100]))
    return play.vote(3, 100, entries([0, 100], [1, 100]))
  }

  it('goes on with its own log under a higher term, its window kept', () => {
    const play = leader()
    expect(reelected(play)).toMatchObject([
      { kind: 're-elected', term: 6, startLsn: 350 },
      { node: 2, message: { kind: 'elected', startStreamingAt: 350 } },
      { node: 3, message: { kind: 'elected', startStreamingAt: 100 } },
    ])
    expect(play.core.history).toEqual(entries([0, 100], [1, 100], [6, 350]))
    expect(play.core.commitLsn).toBe(300)
    // What the third lacks comes from the window, all of it.
    expect(play.core.wantedFetches()).toEqual([])
    expect(play.core.nextAppend(3)).toMatchObject({ beginLsn: 100, endLsn: 400, commitLsn: 300 })
    expect(play.core.nextAppend(2)).toMatchObject({ beginLsn: 350, endLsn: 400 })
    // Acknowledgements of the term before count for nothing, nor does less than its own start.
    expect(play.ack(2, 350)).toEqual([])
    expect(play.ack(3, 340)).toEqual([])
    expect(play.ack(3, 400)).toEqual([{ kind: 'committed', lsn: 350 }])
    expect(play.ack(2, 400)).toEqual([{ kind: 'committed', lsn: 400 }])
  })

  it('takes a log of any term of its own for its own, and waits longer each time', () => {
    const play = leader()
    reelected(play)
    expect(kinds(play.ack(2, 0, 7))).toContain('deposed')
    play.pass(2_000)
    play.greet(2, 7, { lastLogTerm: 6, flushLsn: 350 })
    play.greet(1, 7, mine(400))
    expect(play.core.phase).toBe('collecting')
    play.pass(2_000)
    play.greet(2, 7, { lastLogTerm: 6, flushLsn: 350 })
    play.greet(1, 7, mine(400))
    expect(play.core.term).toBe(8)
    play.vote(1, 400, entries([0, 100], [1, 100]))
    const won = play.vote(2, 350, entries([0, 100], [1, 100], [6, 350]))
    expect(won).toMatchObject([
      { kind: 're-elected', startLsn: 350 },
      { node: 1, message: { startStreamingAt: 350 } },
      { node: 2 },
    ])
  })

  it('is fenced by votes that show what the greetings did not', () => {
    const play = leader()
    play.ack(1, 0, 5)
    play.pass(2_000)
    play.greet(2, 5, mine(350))
    play.greet(3, 5, mine(350))
    play.vote(2, 350, entries([0, 100], [1, 100]))
    const won = play.vote(3, 350, entries([0, 100], [1, 100], [5, 350]))
    expect(won[0]).toMatchObject({ kind: 'fenced' })
  })

  it('refuses to go on with less than it has called committed', () => {
    const play = leader()
    play.ack(1, 0, 5)
    play.pass(2_000)
    play.greet(2, 5, mine(290))
    play.greet(3, 5, mine(290))
    play.vote(2, 290, entries([0, 100], [1, 100]))
    expect(() => play.vote(3, 290, entries([0, 100], [1, 100]))).toThrow('everything')
  })

  it('follows a change of members: both sets elect and commit, new addresses count', () => {
    const play = leader()
    const moved = { id: 3, host: 'elsewhere', pgPort: 9, httpPort: 2 }
    const joint = {
      generation: 2,
      members: members(3),
      newMembers: [...members(2).slice(1), moved, ...members(1, 4)],
    }
    play.core.step({ kind: 'disconnected', node: 1, nowMs: play.nowMs })
    play.pass(300)
    expect(play.greet(1, 1, { ...mine(400), configuration: joint })).toMatchObject([
      { kind: 'deposed' },
      { kind: 'disconnect' },
      { kind: 'disconnect' },
      { kind: 'disconnect' },
    ])
    expect(play.pass(50)).toMatchObject([
      { node: 1 },
      { node: 2 },
      { node: 3, member: moved },
      { node: 4 },
    ])
    // No rival: the election follows at once. 1 and 2 are no majority of the new three.
    play.greet(1, 1, mine(400))
    play.greet(2, 1, mine(400))
    expect(play.core.phase).toBe('collecting')
    play.greet(4, 0, { lastLogTerm: 0, flushLsn: 100 })
    expect(play.core.term).toBe(2)
    play.vote(1, 400, entries([0, 100], [1, 100]))
    play.vote(2, 400, entries([0, 100], [1, 100]))
    expect(play.vote(4, 100, entries([0, 100]))[0]).toMatchObject({ kind: 're-elected' })
    expect(play.core.nextAppend(4)).toMatchObject({ generation: 2, beginLsn: 100, endLsn: 400 })
    play.ack(1, 400)
    expect(play.ack(2, 400)).toEqual([])
    expect(play.ack(4, 400)).toEqual([{ kind: 'committed', lsn: 400 }])
    // Later the old set is gone, and so is its first member.
    play.core.step({ kind: 'disconnected', node: 2, nowMs: play.nowMs })
    play.pass(300)
    const last = { generation: 3, members: joint.newMembers, newMembers: null }
    play.greet(2, 2, { lastLogTerm: 2, flushLsn: 400, configuration: last })
    expect(play.core.nodes().map(({ id }) => id)).toEqual([2, 3, 4])
    expect(play.core.step({ kind: 'disconnected', node: 1, nowMs: play.nowMs })).toEqual([])
  })

  it('follows no list that names a safekeeper or an address twice, or other members', () => {
    const twice = [...members(3), { id: 4, host: 'sk1', pgPort: 1, httpPort: 2 }]
    for (const configuration of [
      { generation: 2, members: [...members(1), ...members(1)], newMembers: null },
      { generation: 2, members: twice, newMembers: null },
      { generation: 2, members: [], newMembers: null },
      { generation: 1, members: members(2), newMembers: null },
      { generation: 0, members: members(3), newMembers: null },
    ]) {
      const play = new Play(3)
      expect(play.greet(1, 0, { configuration })).toMatchObject([{ kind: 'disconnect', node: 1 }])
      expect(play.core.configuration.generation).toBe(1)
    }
  })
})
