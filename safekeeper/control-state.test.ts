import { describe, expect, it } from 'vitest'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { crc32c } from '#libs/wal/crc32c.ts'
import { type ControlState, decodeControlState, encodeControlState } from './control-state.ts'

const STATE: ControlState = {
  tenantId: parseTenantId('a1'.repeat(16)),
  timelineId: parseTimelineId('b2'.repeat(16)),
  configuration: {
    generation: 3,
    members: [{ id: 1, host: 'sk1', pgPort: 5454, httpPort: 7676 }],
    newMembers: null,
  },
  term: 5,
  history: [
    { term: 0, startLsn: 0x1609610 },
    { term: 5, startLsn: 0x1609688 },
  ],
  pgVersion: 170011,
  systemId: 0x0102030405060708n,
  startLsn: 0x1609610,
  commitLsn: 0x1609688,
  backupLsn: 0x1609610,
  peerHorizonLsn: 0x1609611,
  remoteConsistentLsn: 0x1609612,
  createdAtMs: 1000,
  localStartLsn: 0x1609610,
  partialBackups: [],
  eviction: null,
  dirtyTail: false,
}

// By hand: files of every version must be readable for ever.
const BODY_1 =
  `${'a1'.repeat(16)}${'b2'.repeat(16)}` +
  '00000003000000010000000000000001736b3100154e1dfc00000000' +
  '0000000000000005' +
  '0000000200000000000000000000000001609610' +
  '00000000000000050000000001609688' +
  '0002981b010203040506070801000000' +
  '00000000016096100000000001609688000000000160961000000000016096110000000001609612' +
  '00000000000003e8'
const VERSION_1 = `5a534b4300000001000000a8${BODY_1}`
const VERSION_2 =
  `5a534b4300000002000000d5${BODY_1}` +
  '0000000001609610' +
  '00000001' +
  '77616c2f7400' +
  '00000000016096880000000000000005' +
  '01' +
  '010000000001609688' +
  '01'
const FULL: ControlState = {
  ...STATE,
  partialBackups: [{ name: 'wal/t', flushLsn: 0x1609688, lastLogTerm: 5, state: 'uploaded' }],
  eviction: { flushLsn: 0x1609688 },
  dirtyTail: true,
}

function framed(hex: string): Buffer {
  const bytes = Buffer.from(`${hex}00000000`, 'hex')
  bytes.writeUInt32BE(crc32c(bytes, 0, bytes.length - 4), bytes.length - 4)
  return bytes
}

describe('control file', () => {
  it('has the bytes of version 2', () => {
    const bytes = encodeControlState(FULL)
    expect(bytes.subarray(0, -4).toString('hex')).toBe(VERSION_2)
    expect(decodeControlState(bytes)).toEqual(FULL)
    expect(decodeControlState(encodeControlState(STATE))).toEqual(STATE)
  })

  it('reads version 1 as a timeline whose WAL is all here', () => {
    expect(decodeControlState(framed(VERSION_1))).toEqual(STATE)
  })

  it('refuses every cut and every changed bit', () => {
    const bytes = encodeControlState(FULL)
    for (let length = 0; length < bytes.length; length += 1) {
      expect(() => decodeControlState(bytes.subarray(0, length))).toThrow()
    }
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const changed = Buffer.from(bytes)
      changed[bit >> 3] = (changed[bit >> 3] as number) ^ (1 << (bit & 7))
      expect(() => decodeControlState(changed)).toThrow()
    }
  })

  it('says that a newer version needs a newer program', () => {
    const bytes = encodeControlState(STATE)
    bytes.writeUInt32BE(3, 4)
    expect(() => decodeControlState(bytes)).toThrow(
      expect.objectContaining({ code: 'unsupported' }),
    )
  })
})
