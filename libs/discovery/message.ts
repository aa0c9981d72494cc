/**
 * What a safekeeper tells everybody about one of its timelines, and the frames in which discovery
 * carries it. Advisory: a message may be lost, repeated, late or forged, and whoever acts on one
 * must lose nothing but time by it.
 *
 * ```
 * frame: length u32 of what follows | kind u8 | body                                  (big endian)
 * kind 'm' message: tenant 16 bytes | timeline 16 bytes | node_id u64 | generation u32 | term u64
 *   | last_log_term u64 | flush u64 | commit u64 | backup u64 | remote_consistent u64
 *   | peer_horizon u64 | local_start u64 | standby_horizon u64 (0: none) | flags u8 (bit 0: a compute
 *   is connected) | host cstr | pg_port u16 | http_port u16 | sent_at_ms u64 | later fields
 * kind 'r' request: tenant 16 bytes | timeline 16 bytes | later fields
 * ```
 *
 * A newer version appends fields, which older ones skip; a frame of an unknown kind is skipped too.
 */
import { ZenithError } from '../errors.ts'
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from '../ids.ts'
import type { Lsn } from '../lsn.ts'
import { ByteReader, ByteWriter } from '../protocol/byte-reader.ts'

/** A timeline, as keys of discovery name it. */
export interface TimelineKey {
  tenantId: TenantId
  timelineId: TimelineId
}

export interface DiscoveryMessage extends TimelineKey {
  nodeId: number
  generation: number
  /** Highest term voted for or accepted. */
  term: number
  /** Term of the leader that wrote the end of the log. */
  lastLogTerm: number
  flushLsn: Lsn
  commitLsn: Lsn
  backupLsn: Lsn
  remoteConsistentLsn: Lsn
  peerHorizonLsn: Lsn
  /** Oldest WAL that is still on its disk. */
  localStartLsn: Lsn
  /** What the slowest standby has applied; null without standbys. */
  standbyHorizonLsn: Lsn | null
  /** Where it believes to be reachable: for people. Connections go to configured addresses. */
  host: string
  pgPort: number
  httpPort: number
  computeConnected: boolean
  /** The sender's clock: orders its own messages, nothing else. */
  sentAtMs: number
}

/** Whoever keeps the timeline is asked to publish it now, even when nothing happens there. */
export interface DiscoveryRequest extends TimelineKey {
  kind: 'request'
}

export type DiscoveryFrame = (DiscoveryMessage & { kind: 'message' }) | DiscoveryRequest

/** A frame is a few hundred bytes: host names are bounded and nothing else varies. */
export const MAX_FRAME_BYTES = 4096
const FRAME_HEADER_SIZE = 4
const MAX_HOST_BYTES = 255
const KIND_MESSAGE = 0x6d
const KIND_REQUEST = 0x72
const FLAG_COMPUTE = 1

/** For maps of timelines. */
export function timelineKeyText(key: TimelineKey): string {
  return `${key.tenantId}/${key.timelineId}`
}

/** One frame with its length in front. */
export function encodeFrame(frame: DiscoveryFrame): Buffer {
  const out = new ByteWriter().u32(0)
  out.u8(frame.kind === 'message' ? KIND_MESSAGE : KIND_REQUEST)
  out.bytes(Buffer.from(frame.tenantId, 'hex')).bytes(Buffer.from(frame.timelineId, 'hex'))
  if (frame.kind === 'message') {
    out.u64(frame.nodeId).u32(frame.generation).u64(frame.term).u64(frame.lastLogTerm)
    out.u64(frame.flushLsn).u64(frame.commitLsn).u64(frame.backupLsn)
    out.u64(frame.remoteConsistentLsn).u64(frame.peerHorizonLsn).u64(frame.localStartLsn)
    out.u64(frame.standbyHorizonLsn ?? 0).u8(frame.computeConnected ? FLAG_COMPUTE : 0)
    out.cstring(frame.host).u16(frame.pgPort).u16(frame.httpPort).u64(frame.sentAtMs)
  }
  const bytes = out.finish()
  bytes.writeUInt32BE(bytes.length - FRAME_HEADER_SIZE, 0)
  return bytes
}

/**
 * Decodes a frame without its length. Null for a kind that this version does not know. Throws
 * `invalid_argument` for a cut or impossible one.
 */
export function decodeFrame(body: Buffer): DiscoveryFrame | null {
  const reader = new ByteReader(body, 0, 'a discovery frame')
  const kind = reader.u8()
  if (kind !== KIND_MESSAGE && kind !== KIND_REQUEST) return null
  const key = {
    tenantId: parseTenantId(reader.bytes(16).toString('hex')),
    timelineId: parseTimelineId(reader.bytes(16).toString('hex')),
  }
  if (kind === KIND_REQUEST) return { kind: 'request', ...key }
  const positions = {
    nodeId: reader.u64(),
    generation: reader.u32(),
    term: reader.u64(),
    lastLogTerm: reader.u64(),
    flushLsn: reader.u64(),
    commitLsn: reader.u64(),
    backupLsn: reader.u64(),
    remoteConsistentLsn: reader.u64(),
    peerHorizonLsn: reader.u64(),
    localStartLsn: reader.u64(),
  }
  const standbyHorizon = reader.u64()
  const computeConnected = (reader.u8() & FLAG_COMPUTE) !== 0
  const address = {
    host: reader.cstring(MAX_HOST_BYTES),
    pgPort: reader.u16(),
    httpPort: reader.u16(),
  }
  const sentAtMs = reader.u64()
  return {
    kind: 'message',
    ...key,
    ...positions,
    standbyHorizonLsn: standbyHorizon === 0 ? null : standbyHorizon,
    computeConnected,
    ...address,
    sentAtMs,
  }
}

/** Cuts a stream of frames at any byte back into frames. A bad one throws `invalid_argument`. */
export class FrameSplitter {
  #rest: Buffer = Buffer.alloc(0)

  push(chunk: Buffer): DiscoveryFrame[] {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    const frames: DiscoveryFrame[] = []
    let at = 0
    while (bytes.length - at >= FRAME_HEADER_SIZE) {
      const length = bytes.readUInt32BE(at)
      if (length === 0 || length > MAX_FRAME_BYTES) {
        throw new ZenithError('invalid_argument', `a discovery frame claims ${length} bytes`)
      }
      const end = at + FRAME_HEADER_SIZE + length
      if (end > bytes.length) break
      const frame = decodeFrame(bytes.subarray(at + FRAME_HEADER_SIZE, end))
      if (frame !== null) frames.push(frame)
      at = end
    }
    this.#rest = Buffer.from(bytes.subarray(at))
    return frames
  }

  /** True between frames: a body that ends elsewhere was cut short. */
  get atBoundary(): boolean {
    return this.#rest.length === 0
  }
}
