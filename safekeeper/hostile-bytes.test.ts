/**
 * Random and damaged bytes into every decoder that a stranger, a compute or a bad disk can reach:
 * each takes them or throws a ZenithError, and takes no more memory than the bytes are worth.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decodeFrame, encodeFrame, FrameSplitter } from '#libs/discovery/message.ts'
import { ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { sessionTarget } from '#libs/pgwire/session-target.ts'
import {
  decodeAcceptorMessage,
  decodeProposerMessage,
  encodeAcceptorMessage,
  encodeProposerMessage,
} from '#libs/protocol/wal-push.ts'
import {
  decodeReceiverMessage,
  decodeWalStreamMessage,
  encodeHotStandbyFeedback,
  encodeKeepalive,
  encodePageserverFeedback,
  encodeStandbyStatus,
} from '#libs/protocol/wal-stream.ts'
import { crc32c } from '#libs/wal/crc32c.ts'
import { decodeControlState, encodeControlState, newControlState } from './control-state.ts'

const tenantId = 'a'.repeat(32) as TenantId
const timelineId = 'b'.repeat(32) as TimelineId
const member = (id: number) => ({ id, host: '10.0.0.1', pgPort: 5454, httpPort: 7676 })
const configuration = { generation: 3, members: [1, 2, 3].map(member), newMembers: [member(4)] }
const history = [
  { term: 0, startLsn: 8 },
  { term: 3, startLsn: 800 },
]
const feedback = {
  currentTimelineSizeBytes: 1,
  lastReceivedLsn: 3,
  diskConsistentLsn: 2,
  remoteConsistentLsn: 1,
  replyTimeUs: 5n,
  shardNumber: 0,
  shardCount: 1,
  incarnation: 1,
}

const control = encodeControlState(
  newControlState({
    tenantId,
    timelineId,
    configuration,
    pgVersion: 170011,
    systemId: 7n,
    startLsn: 800,
    createdAtMs: 0,
  }),
)

/** A message of each kind, and what reads it. */
const DECODERS: Record<string, { decode: (bytes: Buffer) => unknown; examples: Buffer[] }> = {
  'a proposer': {
    decode: decodeProposerMessage,
    examples: [
      encodeProposerMessage({
        kind: 'greeting',
        tenantId,
        timelineId,
        configuration,
        pgVersion: 170011,
        systemId: 7n,
        walSegmentSize: 1 << 24,
        proposerId: 'c'.repeat(32),
        ordinal: 1,
      }),
      encodeProposerMessage({ kind: 'vote', generation: 1, term: 7 }),
      encodeProposerMessage({
        kind: 'elected',
        generation: 1,
        term: 7,
        startStreamingAt: 800,
        history,
      }),
      encodeProposerMessage({
        kind: 'append',
        generation: 1,
        term: 7,
        beginLsn: 800,
        endLsn: 840,
        commitLsn: 800,
        truncateLsn: 800,
        replyRequested: true,
        wal: Buffer.alloc(40, 7),
      }),
    ],
  },
  'an acceptor': {
    decode: decodeAcceptorMessage,
    examples: [
      encodeAcceptorMessage({
        kind: 'vote',
        generation: 1,
        term: 7,
        given: true,
        flushLsn: 840,
        truncateLsn: 800,
        history,
      }),
    ],
  },
  'a receiver of WAL': {
    decode: decodeReceiverMessage,
    examples: [
      encodePageserverFeedback(feedback),
      encodeStandbyStatus({
        writeLsn: 1,
        flushLsn: 1,
        applyLsn: 1,
        replyRequested: true,
        sentAtUs: 1,
      }),
      encodeHotStandbyFeedback({ xmin: 7n, catalogXmin: 0n }, 1),
    ],
  },
  'a sender of WAL': { decode: decodeWalStreamMessage, examples: [encodeKeepalive(800, 1, true)] },
  discovery: {
    decode: decodeFrame,
    examples: [encodeFrame({ kind: 'request', tenantId, timelineId }).subarray(4)],
  },
  'a stream of discovery': {
    decode: (bytes) => new FrameSplitter().push(bytes),
    examples: [encodeFrame({ kind: 'request', tenantId, timelineId })],
  },
  'a control file': { decode: decodeControlState, examples: [control] },
  'a control file with the right sum': {
    // What a checksum vouches for may still be nonsense, by a bug or by intent.
    decode: (bytes) => {
      if (bytes.length < 16) return null
      const framed = Buffer.from(bytes)
      control.copy(framed, 0, 0, 8)
      framed.writeUInt32BE(framed.length - 16, 8)
      framed.writeUInt32BE(crc32c(framed, 0, framed.length - 4), framed.length - 4)
      return decodeControlState(framed)
    },
    examples: [control],
  },
  'start-up options': {
    decode: (bytes) => sessionTarget(new Map([['options', bytes.toString('latin1')]])),
    examples: [Buffer.from(`-c tenant_id=${tenantId} -c timeline_id=${timelineId}`)],
  },
}

/** A message with bytes changed, counts made huge, cut, repeated or extended. */
function damaged(examples: readonly Buffer[]): fc.Arbitrary<Buffer> {
  const change = fc.tuple(fc.nat(), fc.constantFrom(0, 1, 127, 128, 254, 255), fc.nat(4))
  return fc
    .tuple(fc.constantFrom(...examples), fc.array(change, { maxLength: 6 }), fc.nat(), fc.boolean())
    .map(([example, changes, length, cut]) => {
      const bytes = Buffer.concat([example, cut ? Buffer.alloc(0) : Buffer.alloc(length % 64, 1)])
      for (const [at, value, run] of changes) {
        const from = at % bytes.length
        bytes.fill(value, from, Math.min(from + run, bytes.length))
      }
      return cut ? bytes.subarray(0, length % (bytes.length + 1)) : bytes
    })
}

function attempt(decode: (bytes: Buffer) => unknown, bytes: Buffer): void {
  try {
    decode(bytes)
  } catch (error) {
    if (!(error instanceof ZenithError)) throw error
    expect(['invalid_argument', 'corrupt', 'unsupported']).toContain(error.code)
  }
}

for (const [name, { decode, examples }] of Object.entries(DECODERS)) {
  test(`bytes from ${name}`, () => {
    for (const example of examples) decode(example)
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 300 }).map((value) => Buffer.from(value)),
      damaged(examples),
    )
    fc.assert(
      fc.property(bytes, (value) => attempt(decode, value)),
      { numRuns: 3_000 },
    )
  })

  test(`counts from ${name} take no memory before they are checked`, () => {
    const before = process.memoryUsage()
    for (let round = 0; round < 20; round++) {
      for (const example of examples) {
        for (let at = 0; at + 4 <= example.length; at++) {
          const bytes = Buffer.from(example)
          bytes.writeUInt32BE(0x7fffffff - round, at)
          attempt(decode, bytes)
        }
      }
    }
    const after = process.memoryUsage()
    // One claim that is believed would take gigabytes.
    expect(after.rss + after.external - before.rss - before.external).toBeLessThan(200 << 20)
  })
}
