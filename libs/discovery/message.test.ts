import { expect, test } from 'vitest'
import { newTenantId, newTimelineId } from '../ids.ts'
import {
  decodeFrame,
  type DiscoveryFrame,
  encodeFrame,
  FrameSplitter,
  MAX_FRAME_BYTES,
} from './message.ts'

const key = { tenantId: newTenantId(), timelineId: newTimelineId() }
const message: DiscoveryFrame = {
  kind: 'message',
  ...key,
  nodeId: 7,
  generation: 4_294_967_295,
  term: 2 ** 53 - 1,
  lastLogTerm: 3,
  flushLsn: 0x2000010,
  commitLsn: 0x2000008,
  backupLsn: 0x1000000,
  remoteConsistentLsn: 0x1000008,
  peerHorizonLsn: 0x1000010,
  localStartLsn: 0x1000018,
  standbyHorizonLsn: null,
  host: 'sk7.example',
  pgPort: 5454,
  httpPort: 65_535,
  computeConnected: true,
  sentAtMs: 1_763_000_000_000,
}
const request: DiscoveryFrame = { kind: 'request', ...key }
const body = (frame: DiscoveryFrame) => encodeFrame(frame).subarray(4)

test('frames survive the way through bytes, cut at every place', () => {
  const quiet: DiscoveryFrame = { ...message, computeConnected: false, standbyHorizonLsn: 8 }
  const stream = Buffer.concat([message, request, quiet].map(encodeFrame))
  for (let cut = 0; cut <= stream.length; cut += 1) {
    const splitter = new FrameSplitter()
    const frames = [
      ...splitter.push(stream.subarray(0, cut)),
      ...splitter.push(stream.subarray(cut)),
    ]
    expect(frames).toEqual([message, request, quiet])
    expect(splitter.atBoundary).toBe(true)
  }
})

test('fields of a newer version and frames of unknown kinds are skipped', () => {
  expect(decodeFrame(Buffer.concat([body(message), Buffer.from('later')]))).toEqual(message)
  expect(decodeFrame(Buffer.concat([body(request), Buffer.alloc(9)]))).toEqual(request)
  expect(decodeFrame(Buffer.from('x what is this'))).toBeNull()
})

test('a cut frame, a huge length, an endless host and a wild number are refused', () => {
  const bytes = body(message)
  for (let length = 0; length < bytes.length; length += 1) {
    expect(() => decodeFrame(bytes.subarray(0, length))).toThrow(/cut short|unterminated/)
  }
  const huge = Buffer.alloc(4)
  huge.writeUInt32BE(MAX_FRAME_BYTES + 1)
  expect(() => new FrameSplitter().push(huge)).toThrow(/claims 4097 bytes/)
  expect(() => new FrameSplitter().push(Buffer.alloc(4))).toThrow(/claims 0 bytes/)
  const long = { ...message, host: 'h'.repeat(256) }
  expect(() => decodeFrame(body(long))).toThrow(/long text/)
  const wild = Buffer.from(bytes)
  wild.fill(0xff, 33, 41)
  expect(() => decodeFrame(wild)).toThrow()
})
