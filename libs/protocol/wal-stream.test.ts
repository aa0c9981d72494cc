import { describe, expect, it } from 'vitest'
import {
  decodeReceiverMessage,
  decodeWalStreamMessage,
  encodeKeepalive,
  encodePageserverFeedback,
  encodeStandbyStatus,
  postgresTimeUs,
  WAL_DATA_HEADER_SIZE,
  writeWalDataHeader,
} from './wal-stream.ts'

describe('WAL stream codec', () => {
  it('writes WAL data and keepalives as a stock walsender', () => {
    const header = Buffer.alloc(WAL_DATA_HEADER_SIZE)
    writeWalDataHeader(header, { startLsn: 0x1_0000_0010, walEndLsn: 0x1_0000_0020, sentAtUs: 258 })
    expect(header.toString('hex')).toBe('77000000010000001000000001000000200000000000000102')
    expect(decodeWalStreamMessage(Buffer.concat([header, Buffer.from('xy')]))).toEqual({
      kind: 'wal-data',
      startLsn: 0x1_0000_0010,
      walEndLsn: 0x1_0000_0020,
      wal: Buffer.from('xy'),
    })
    expect(encodeKeepalive(0x20, -1, true).toString('hex')).toBe(
      '6b0000000000000020ffffffffffffffff01',
    )
    expect(decodeWalStreamMessage(encodeKeepalive(0x20, 0, true))).toEqual({
      kind: 'keepalive',
      walEndLsn: 0x20,
      replyRequested: true,
    })
  })

  it('reads standby status and hot standby feedback', () => {
    const status = { writeLsn: 3, flushLsn: 2, applyLsn: 1, replyRequested: false }
    const bytes = encodeStandbyStatus({ ...status, sentAtUs: 7 })
    expect(bytes.toString('hex')).toBe(
      '72000000000000000300000000000000020000000000000001000000000000000700',
    )
    expect(decodeReceiverMessage(bytes)).toEqual({ kind: 'standby-status', ...status })
    const xmin = Buffer.from('68000000000000000700000005000000010000000400000001', 'hex')
    expect(decodeReceiverMessage(xmin)).toEqual({
      kind: 'hot-standby-feedback',
      xmin: 5,
      xminEpoch: 1,
      catalogXmin: 4,
      catalogXminEpoch: 1,
    })
  })

  it('carries page server feedback and skips keys it does not know', () => {
    const feedback = {
      currentTimelineSizeBytes: 9,
      lastReceivedLsn: 3,
      diskConsistentLsn: 2,
      remoteConsistentLsn: 1,
      replyTimeUs: 4n,
      shardNumber: 1,
      shardCount: 2,
      incarnation: 0xffff_ffff_ffff,
    }
    const bytes = encodePageserverFeedback(feedback)
    expect(decodeReceiverMessage(bytes)).toEqual({ kind: 'pageserver-feedback', feedback })
    const more = Buffer.concat([bytes, Buffer.from('new\0\0\0\0\x02zz', 'latin1')])
    more[9] = 9
    more.writeBigInt64BE(BigInt(more.length - 9), 1)
    expect(decodeReceiverMessage(more)).toEqual({ kind: 'pageserver-feedback', feedback })
    for (let length = 0; length < bytes.length; length += 1) {
      expect(() => decodeReceiverMessage(bytes.subarray(0, length))).toThrow()
    }
  })

  it('refuses feedback that contradicts itself', () => {
    const feedback = {
      currentTimelineSizeBytes: 0,
      lastReceivedLsn: 3,
      diskConsistentLsn: 2,
      remoteConsistentLsn: 1,
      replyTimeUs: 4n,
      shardNumber: 0,
      shardCount: 1,
      incarnation: 1,
    }
    const decoded = (change: Partial<typeof feedback>) =>
      decodeReceiverMessage(encodePageserverFeedback({ ...feedback, ...change }))
    expect(() => decoded({})).not.toThrow()
    expect(() => decoded({ diskConsistentLsn: 4 })).toThrow('received WAL up to 0/3')
    expect(() => decoded({ remoteConsistentLsn: 3 })).toThrow('in object storage up to 0/3')
    expect(() => decoded({ shardNumber: 1 })).toThrow('no shard 1 of 1')
    expect(() => decoded({ shardNumber: 300, shardCount: 1000 })).toThrow('no shard')
  })

  it('never tells an end of 0', () => {
    expect(() => encodeKeepalive(0, 0, false)).toThrow('where the WAL ends')
  })

  it('counts time from 2000-01-01', () => {
    expect(postgresTimeUs(Date.UTC(2000, 0, 1, 0, 0, 1))).toBe(1_000_000)
  })
})
