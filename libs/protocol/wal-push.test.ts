import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type Ack,
  type AcceptorMessage,
  decodeAcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
  encodeProposerMessage,
  NO_HOT_STANDBY,
  type ProposerMessage,
} from './wal-push.ts'

const MEMBERS = [{ id: 1, host: 'sk1', pgPort: 5454, httpPort: 7676 }]
const CONFIGURATION = { generation: 3, members: MEMBERS, newMembers: null }
const HISTORY = [
  { term: 0, startLsn: 0x1609610 },
  { term: 2, startLsn: 0x1_0160_9688 },
]

// Built by hand from the drawing above the codec, not by the writer.
const GOLDEN: { message: ProposerMessage | AcceptorMessage; acceptor: boolean; hex: string }[] = [
  {
    acceptor: false,
    message: {
      kind: 'greeting',
      tenantId: 'a'.repeat(32),
      timelineId: 'b'.repeat(32),
      configuration: CONFIGURATION,
      pgVersion: 170011,
      systemId: 0x0102030405060708n,
      walSegmentSize: 16777216,
      proposerId: '000102030405060708090a0b0c0d0e0f',
      ordinal: 7,
    },
    hex:
      `67${'61'.repeat(32)}00${'62'.repeat(32)}00` +
      '00000003000000010000000000000001736b3100154e1dfc00000000' +
      '0002981b010203040506070801000000000102030405060708090a0b0c0d0e0f00000007',
  },
  {
    acceptor: false,
    message: { kind: 'vote', generation: 3, term: 5 },
    hex: '76000000030000000000000005',
  },
  {
    acceptor: false,
    message: {
      kind: 'elected',
      generation: 3,
      term: 5,
      startStreamingAt: 0x1609688,
      history: HISTORY,
    },
    hex:
      '6500000003000000000000000500000000016096880000000200000000000000000000000001609610' +
      '00000000000000020000000101609688',
  },
  {
    acceptor: false,
    message: {
      kind: 'append',
      generation: 3,
      term: 5,
      beginLsn: 0x1609688,
      endLsn: 0x160968b,
      commitLsn: 0x1609610,
      truncateLsn: 0x1609600,
      replyRequested: true,
      wal: Buffer.from([1, 2, 3]),
    },
    hex:
      '610000000300000000000000050000000001609688000000000160968b' +
      '0000000001609610000000000160960001b5a51a8f010203',
  },
  {
    acceptor: true,
    message: {
      kind: 'greeting',
      nodeId: 2,
      incarnation: 'ff'.repeat(16),
      configuration: CONFIGURATION,
      term: 4,
      lastLogTerm: 2,
      flushLsn: 0x1609688,
    },
    hex:
      `670000000000000002${'ff'.repeat(16)}` +
      '00000003000000010000000000000001736b3100154e1dfc000000000000000000000004' +
      '00000000000000020000000001609688',
  },
  {
    acceptor: true,
    message: {
      kind: 'vote',
      generation: 3,
      term: 5,
      given: true,
      flushLsn: 0x1609688,
      truncateLsn: 0x1609610,
      history: [HISTORY[0] as (typeof HISTORY)[0]],
    },
    hex: '7600000003000000000000000501000000000160968800000000016096100000000100000000000000000000000001609610',
  },
  {
    acceptor: true,
    message: {
      kind: 'ack',
      generation: 3,
      term: 5,
      flushLsn: 0x1609688,
      commitLsn: 0x1609610,
      hotStandby: NO_HOT_STANDBY,
      heldUs: 10,
      syncUs: 9,
      feedback: [],
    },
    hex: `610000000300000000000000050000000001609688000000000160961${'0'.repeat(49)}0000000a000000090000`,
  },
]

describe('WAL push codec', () => {
  it.each(GOLDEN)('$message.kind: golden bytes both ways', ({ message, acceptor, hex }) => {
    const bytes = acceptor
      ? encodeAcceptorMessage(message as AcceptorMessage)
      : encodeProposerMessage(message as ProposerMessage)
    expect(bytes.toString('hex')).toBe(hex)
    const payload = Buffer.from(hex, 'hex')
    expect(acceptor ? decodeAcceptorMessage(payload) : decodeProposerMessage(payload)).toEqual(
      message,
    )
  })

  it.each(GOLDEN)('$message.kind: every cut is an error', ({ acceptor, hex }) => {
    const payload = Buffer.from(hex, 'hex')
    for (let length = 0; length < payload.length; length += 1) {
      const cut = payload.subarray(0, length)
      expect(() => (acceptor ? decodeAcceptorMessage(cut) : decodeProposerMessage(cut))).toThrow(
        expect.objectContaining({ code: 'invalid_argument' }),
      )
    }
  })

  it('never does worse than a typed error on any bytes', () => {
    fc.assert(
      fc.property(fc.constantFrom(0x67, 0x76, 0x65, 0x61), fc.uint8Array(), (tag, bytes) => {
        const payload = Buffer.concat([Buffer.from([tag]), bytes])
        for (const decode of [decodeProposerMessage, decodeAcceptorMessage]) {
          try {
            decode(payload)
          } catch (error) {
            expect(error).toHaveProperty('code', 'invalid_argument')
          }
        }
      }),
    )
  })

  it('refuses a member listed twice, a falling history, and a changed append header', () => {
    const twice = { ...CONFIGURATION, members: [...MEMBERS, ...MEMBERS] }
    const greeting = { ...(GOLDEN[0]?.message as ProposerMessage), configuration: twice }
    expect(() => decodeProposerMessage(encodeProposerMessage(greeting as ProposerMessage))).toThrow(
      'listed twice',
    )
    const elected = { ...(GOLDEN[2]?.message as ProposerMessage), history: HISTORY.toReversed() }
    expect(() => decodeProposerMessage(encodeProposerMessage(elected as ProposerMessage))).toThrow(
      'must rise',
    )
    const append = Buffer.from(GOLDEN[3]?.hex ?? '', 'hex')
    append[20] = 0x89
    expect(() => decodeProposerMessage(append)).toThrow('CRC')
  })

  it('carries page server feedback in an ack', () => {
    const ack: Ack = {
      ...(GOLDEN[6]?.message as Ack),
      feedback: [0, 1].map((shardNumber) => ({
        currentTimelineSizeBytes: 1 << 30,
        lastReceivedLsn: 3,
        diskConsistentLsn: 2,
        remoteConsistentLsn: 1,
        replyTimeUs: -5n,
        shardNumber,
        shardCount: 2,
        incarnation: 7,
      })),
    }
    expect(decodeAcceptorMessage(encodeAcceptorMessage(ack))).toEqual(ack)
  })
})
