import { beforeEach, describe, expect, it } from 'vitest'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import type { TermEntry } from '#libs/protocol/term-history.ts'
import type { ProposerGreeting, ProposerMessage } from '#libs/protocol/wal-push.ts'
import { WalBuilder } from '../test_runner/fixtures/wal-builder.ts'
import { Acceptor, type AcceptorEffect } from './acceptor.ts'
import { type ControlState, newControlState } from './control-state.ts'

const TENANT = parseTenantId('a'.repeat(32))
const TIMELINE = parseTimelineId('b'.repeat(32))
const START = WAL_SEGMENT_SIZE + 4000
const MEMBERS = [{ id: 1, host: 'sk1', pgPort: 1, httpPort: 2 }]

const CONTROL: ControlState = newControlState({
  tenantId: TENANT,
  timelineId: TIMELINE,
  configuration: { generation: 1, members: MEMBERS, newMembers: null },
  pgVersion: 170011,
  systemId: 7n,
  startLsn: START,
  createdAtMs: 0,
})

let acceptor: Acceptor
let wal: WalBuilder

beforeEach(() => {
  acceptor = new Acceptor({
    nodeId: 1,
    incarnation: '0'.repeat(32),
    control: CONTROL,
    flushLsn: START,
  })
  wal = new WalBuilder(START)
})

function say(connection: number, message: ProposerMessage): AcceptorEffect[] {
  return acceptor.step({ kind: 'message', connection, message })
}

function greet(connection: number, change: Partial<ProposerGreeting> = {}): AcceptorEffect[] {
  return say(connection, {
    kind: 'greeting',
    tenantId: TENANT,
    timelineId: TIMELINE,
    configuration: CONTROL.configuration,
    pgVersion: 170005,
    systemId: 7n,
    walSegmentSize: WAL_SEGMENT_SIZE,
    proposerId: String(connection).padStart(32, '0'),
    ordinal: connection,
    ...change,
  })
}

const vote = (connection: number, term: number) =>
  say(connection, { kind: 'vote', generation: 1, term })

function elect(connection: number, term: number, startStreamingAt: number, history: TermEntry[]) {
  return say(connection, { kind: 'elected', generation: 1, term, startStreamingAt, history })
}

function append(connection: number, term: number, from: number, to: number, commitLsn = START) {
  return say(connection, {
    kind: 'append',
    generation: 1,
    term,
    beginLsn: from,
    endLsn: to,
    commitLsn,
    truncateLsn: START,
    replyRequested: false,
    wal: wal.bytes().subarray(from - START, to - START),
  })
}

const kinds = (effects: AcceptorEffect[]) => effects.map((effect) => effect.kind)
const flushed = (writeLsn: number, epoch = 0) => acceptor.step({ kind: 'flushed', epoch, writeLsn })

/** Connection 1 leads term 1 from the start. */
function lead(): void {
  greet(1)
  vote(1, 1)
  elect(1, 1, START, [...CONTROL.history, { term: 1, startLsn: START }])
}

describe('acceptor', () => {
  it('flushes, then stores the term, then votes; once per term', () => {
    greet(1)
    greet(2)
    expect(kinds(vote(1, 4))).toEqual(['flush', 'persist', 'send'])
    const [, again] = vote(2, 4)
    expect(again).toMatchObject({ kind: 'send', message: { given: false, term: 4 } })
    expect(acceptor.control.term).toBe(4)
  })

  it('acknowledges ends of whole durable records only', () => {
    lead()
    const first = wal.appendNoop(100).endLsn
    const second = wal.appendNoop(400).endLsn
    expect(kinds(append(1, 1, START, second - 8))).toEqual(['write'])
    expect(flushed(second - 8)).toMatchObject([{ message: { kind: 'ack', flushLsn: first } }])
    append(1, 1, second - 8, second)
    expect(acceptor.flushLsn).toBe(first)
    expect(flushed(second)).toMatchObject([{ message: { flushLsn: second } }])
  })

  it('commits up to what is durable here, whatever the leader knows', () => {
    lead()
    const end = wal.appendNoop(100).endLsn
    append(1, 1, START, end, end + 1000)
    expect(acceptor.commitLsn).toBe(START)
    expect(kinds(flushed(end))).toContain('committed')
    expect(acceptor.commitLsn).toBe(end)
  })

  it('drops a connection whose WAL has a gap, is damaged, or was not elected', () => {
    lead()
    const end = wal.appendNoop(100).endLsn
    const next = wal.appendNoop(100).endLsn
    expect(append(1, 1, end, next)).toMatchObject([{ kind: 'close' }])
    greet(2)
    elect(2, 1, START, [...CONTROL.history, { term: 1, startLsn: START }])
    const byte = wal.bytes()[30] as number
    wal.bytes()[30] = byte ^ 1
    expect(append(2, 1, START, end)).toMatchObject([
      { kind: 'close', reason: expect.stringContaining('CRC') },
    ])
    greet(3)
    expect(append(3, 1, START, end)).toMatchObject([{ kind: 'close' }])
  })

  it('passes on what page servers say, once, and stores how far the slowest is', () => {
    lead()
    const end = wal.appendNoop(100).endLsn
    append(1, 1, START, end, end)
    flushed(end)
    const feedback = {
      currentTimelineSizeBytes: 0,
      lastReceivedLsn: end,
      diskConsistentLsn: end,
      remoteConsistentLsn: end,
      replyTimeUs: 1n,
      shardNumber: 0,
      shardCount: 1,
      incarnation: 1,
    }
    const told = acceptor.step({ kind: 'pageserver-feedback', feedback })
    expect(told).toMatchObject([{ kind: 'send', message: { kind: 'ack', feedback: [feedback] } }])
    expect(acceptor.control.remoteConsistentLsn).toBe(end)
    const next = wal.appendNoop(100).endLsn
    append(1, 1, end, next, end)
    expect(flushed(next)).toMatchObject([{ message: { flushLsn: next, feedback: [] } }])
    // A page server that starts again says less: object storage has what it had.
    const again = { ...feedback, incarnation: 2, replyTimeUs: 2n, remoteConsistentLsn: START }
    acceptor.step({ kind: 'pageserver-feedback', feedback: again })
    expect(acceptor.control.remoteConsistentLsn).toBe(end)
    greet(2)
    expect(elect(2, 1, next, [...CONTROL.history, { term: 1, startLsn: START }])).toMatchObject([
      { message: { kind: 'ack', feedback: [{ incarnation: 2, remoteConsistentLsn: end }] } },
    ])
  })

  it('frees WAL once all shards of a timeline have it', () => {
    lead()
    const end = wal.appendNoop(100).endLsn
    append(1, 1, START, end, end)
    flushed(end)
    const told = (shardNumber: number, remoteConsistentLsn: number) => {
      const feedback = {
        currentTimelineSizeBytes: 0,
        lastReceivedLsn: end,
        diskConsistentLsn: end,
        remoteConsistentLsn,
        replyTimeUs: 1n,
        shardNumber,
        shardCount: 2,
        incarnation: 1,
      }
      return acceptor.step({ kind: 'pageserver-feedback', feedback })
    }
    const before = acceptor.control.remoteConsistentLsn
    expect(told(1, end)).toMatchObject([{ message: { feedback: [{ shardNumber: 1 }] } }])
    expect(acceptor.control.remoteConsistentLsn).toBe(before)
    told(0, end)
    expect(acceptor.control.remoteConsistentLsn).toBe(end)
  })

  it('tells the old leader at once, and a late message of it again, that it is deposed', () => {
    lead()
    greet(2)
    expect(vote(2, 2)).toMatchObject([
      { kind: 'flush' },
      { kind: 'persist' },
      { kind: 'send', connection: 2 },
      { kind: 'send', connection: 1, message: { kind: 'ack', term: 2, flushLsn: 0 } },
    ])
    const end = wal.appendNoop(100).endLsn
    expect(append(1, 1, START, end)).toMatchObject([
      { kind: 'send', message: { term: 2, flushLsn: 0 } },
    ])
    expect(acceptor.writeLsn).toBe(START)
  })

  it('cuts the tail before it stores the new history, and ignores writes of before', () => {
    lead()
    const end = wal.appendNoop(100).endLsn
    append(1, 1, START, end)
    greet(2)
    vote(2, 2)
    const history = [...CONTROL.history, { term: 2, startLsn: START }]
    expect(kinds(elect(2, 2, START, history))).toEqual(['truncate', 'persist', 'send'])
    expect(flushed(end)).toEqual([])
    expect(acceptor.flushLsn).toBe(START)
  })

  it('halts rather than cut below what is committed', () => {
    lead()
    const end = wal.appendNoop(100).endLsn
    append(1, 1, START, end, end)
    flushed(end)
    greet(2)
    const history = [...CONTROL.history, { term: 2, startLsn: START }]
    expect(elect(2, 2, START, history)).toMatchObject([{ kind: 'halt' }])
  })

  it('closes when the common point is another than the leader believes', () => {
    lead()
    append(1, 1, START, wal.appendNoop(100).endLsn)
    greet(2)
    const history = [
      ...CONTROL.history,
      { term: 1, startLsn: START },
      { term: 2, startLsn: wal.lsn },
    ]
    expect(elect(2, 2, START, history)).toMatchObject([{ kind: 'close' }])
  })

  it('refuses foreign greetings, other generations and an older connection of one proposer', () => {
    expect(greet(1, { systemId: 8n })).toMatchObject([{ kind: 'close' }])
    expect(greet(1, { pgVersion: 160001 })).toMatchObject([{ kind: 'close' }])
    expect(greet(1, { timelineId: 'c'.repeat(32) })).toMatchObject([{ kind: 'close' }])
    greet(1)
    expect(say(1, { kind: 'vote', generation: 2, term: 1 })).toMatchObject([{ kind: 'close' }])
    expect(vote(9, 1)).toMatchObject([{ kind: 'close' }])
    greet(2, { proposerId: 'f'.repeat(32), ordinal: 2 })
    greet(3, { proposerId: 'f'.repeat(32), ordinal: 1 })
    const history = [...CONTROL.history, { term: 1, startLsn: START }]
    elect(2, 1, START, history)
    expect(elect(3, 1, START, history)).toMatchObject([{ kind: 'close' }])
    expect(acceptor.streamingConnection).toBe(2)
  })

  it('adopts a newer member list that includes it, and no other', () => {
    const configuration = { generation: 2, members: MEMBERS, newMembers: null }
    expect(kinds(greet(1, { configuration }))).toEqual(['flush', 'persist', 'send'])
    const others = [{ id: 2, host: 'sk2', pgPort: 1, httpPort: 2 }]
    const foreign = { generation: 3, members: others, newMembers: null }
    expect(greet(2, { configuration: foreign })).toMatchObject([{ kind: 'close' }])
    expect(acceptor.control.configuration.generation).toBe(2)
  })

  it('switches members when told, after a flush, and sends the leader of before to greet anew', () => {
    lead()
    const configure = (generation: number, members = MEMBERS) =>
      acceptor.step({
        kind: 'configure',
        request: generation,
        configuration: { generation, members, newMembers: null },
      })
    expect(configure(3)).toMatchObject([
      { kind: 'flush' },
      { kind: 'persist', background: false, control: { configuration: { generation: 3 } } },
      { kind: 'close', connection: 1 },
      { kind: 'answer', request: 3, refusal: null },
    ])
    expect(acceptor.streamingConnection).toBeNull()
    expect(kinds(configure(3))).toEqual(['flush', 'answer'])
    expect(configure(2)).toMatchObject([{ kind: 'answer', refusal: expect.any(String) }])
    const other = [{ id: 1, host: 'sk1', pgPort: 1, httpPort: 2 }]
    for (const members of [
      [{ ...other[0]!, id: 2 }],
      [other[0]!, other[0]!],
      [other[0]!, { ...other[0]!, id: 2 }],
    ]) {
      expect(configure(4, members)).toMatchObject([{ refusal: expect.any(String) }])
    }
    expect(configure(3, [other[0]!, { ...other[0]!, id: 2, host: 'sk2' }])).toMatchObject([
      { refusal: expect.stringContaining('other members') },
    ])
  })

  it('takes a term from an operator, durably, and tells the leader', () => {
    lead()
    expect(acceptor.step({ kind: 'bump-term', request: 1, term: 5 })).toMatchObject([
      { kind: 'flush' },
      { kind: 'persist', background: false, control: { term: 5 } },
      { kind: 'send', connection: 1, message: { kind: 'ack', term: 5, flushLsn: 0 } },
      { kind: 'answer', request: 1, refusal: null },
    ])
    const again = acceptor.step({ kind: 'bump-term', request: 2, term: 5 })
    expect(kinds(again)).toEqual(['flush', 'answer'])
    const far = acceptor.step({ kind: 'bump-term', request: 3, term: 2 ** 40 })
    expect(far).toMatchObject([{ kind: 'answer', refusal: expect.any(String) }])
    expect(acceptor.control.term).toBe(5)
  })

  describe('what a peer calls committed', () => {
    const peer = (term: number, lastLogTerm: number, commitLsn: number) =>
      acceptor.step({
        kind: 'peer',
        peer: {
          term,
          lastLogTerm,
          commitLsn,
          peerHorizonLsn: START,
          remoteConsistentLsn: START,
        },
      })

    /** Three records of term 1, durable, nothing committed. */
    function followed(): number[] {
      lead()
      const ends = [100, 100, 100].map((length) => wal.appendNoop(length).endLsn)
      append(1, 1, START, ends[2]!)
      flushed(ends[2]!)
      return ends
    }

    it('is committed here when both logs end in one term', () => {
      const ends = followed()
      expect(peer(1, 1, ends[1]!)).toEqual([{ kind: 'committed', lsn: ends[1] }])
      expect(peer(1, 1, ends[0]!)).toEqual([])
      peer(1, 1, ends[2]! + 4096)
      expect(acceptor.commitLsn).toBe(ends[2])
    })

    it('is not when the logs end in different terms', () => {
      const ends = followed()
      expect(peer(1, 0, ends[1]!)).toEqual([])
      expect(peer(0, 2, ends[1]!)).toEqual([])
      expect(acceptor.commitLsn).toBe(START)
    })

    /**
     * Five safekeepers a to e. a and d hold term 1 up to the third record, b, c and e up to the
     * first. Leader 2 wins by b, c, e and stalls. Leader 3 wins by a, b, c from the third record on,
     * commits that, and is still filling e, which has the second record: last log term 1, commit
     * there, term 3. This is d: were it to adopt e's commit, the late Elected of leader 2, which cuts
     * at the first record, would have to cut below it. The WAL is safe on a, b, c all the while.
     */
    it('is not from a peer of a higher term, since a leader between may still cut', () => {
      const [first, second, third] = followed() as [number, number, number]
      expect(peer(3, 1, second)).toEqual([])
      expect(acceptor.commitLsn).toBe(START)
      greet(2)
      const late = [...CONTROL.history, { term: 1, startLsn: START }, { term: 2, startLsn: first }]
      expect(kinds(elect(2, 2, first, late))).toEqual(['truncate', 'persist', 'send'])
      expect(acceptor.writeLsn).toBe(first)
      expect(third).toBeGreaterThan(second)
    })

    it('is again once its own term has reached the peer: no older leader is followed then', () => {
      const [first, second] = followed() as [number, number, number]
      greet(2)
      vote(2, 3)
      expect(peer(3, 1, second)).toEqual([{ kind: 'committed', lsn: second }])
      const late = [...CONTROL.history, { term: 1, startLsn: START }, { term: 2, startLsn: first }]
      greet(3)
      expect(elect(3, 2, first, late)).toMatchObject([
        { kind: 'send', message: { kind: 'ack', term: 3, flushLsn: 0 } },
      ])
    })
  })

  it('keeps the backup position rising and within commit', () => {
    lead()
    const end = wal.appendNoop(100).endLsn
    append(1, 1, START, end, end)
    flushed(end)
    const record = { backupLsn: end, partialBackups: [], eviction: null }
    expect(acceptor.step({ kind: 'offload', record })).toMatchObject([
      { kind: 'persist', background: true, control: { backupLsn: end } },
    ])
    acceptor.step({ kind: 'offload', record: { ...record, backupLsn: START } })
    expect(acceptor.control.backupLsn).toBe(end)
    const beyond = { ...record, backupLsn: end + 8 }
    expect(() => acceptor.step({ kind: 'offload', record: beyond })).toThrow(/only committed/)
  })

  it('goes on after a restart where the log ends', () => {
    acceptor = new Acceptor({
      nodeId: 1,
      incarnation: '0'.repeat(32),
      control: { ...CONTROL, term: 3, history: [...CONTROL.history, { term: 3, startLsn: START }] },
      flushLsn: START + 4096,
    })
    greet(1)
    expect(vote(1, 4).at(-1)).toMatchObject({
      message: { given: true, flushLsn: START + 4096, history: [{ term: 0 }, { term: 3 }] },
    })
    expect(acceptor.lastLogTerm).toBe(3)
  })
})
