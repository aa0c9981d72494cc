/**
 * What a safekeeper keeps durably about one timeline, besides WAL, and its bytes on disk:
 *
 * ```
 * magic "ZSKC" | version u32 | body length u32 | body | crc32c u32 of all before     (big endian)
 * body: tenant 16 bytes | timeline 16 bytes | conf (as in wal-push.ts) | term u64 | n u32 | n x (term
 *   u64, lsn u64) | pg_version u32 | system_id u64 | seg_size u32 | start u64 | commit u64 | backup u64
 *   | peer_horizon u64 | remote_consistent u64 | created_at_ms u64
 * ```
 *
 * The end of the log (flush LSN) is not here: it is found by scanning WAL from `commitLsn`.
 */
import { ZenithError } from '#libs/errors.ts'
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import { type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { ByteReader, ByteWriter } from '#libs/protocol/byte-reader.ts'
import type { TermEntry } from '#libs/protocol/term-history.ts'
import {
  type MemberConfiguration,
  readConfiguration,
  readHistory,
  writeConfiguration,
  writeHistory,
} from '#libs/protocol/wal-push.ts'
import { crc32c } from '#libs/wal/crc32c.ts'

const MAGIC = 0x5a534b43
const VERSION = 1
const FRAME_HEADER_SIZE = 12

export interface ControlState {
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
  readonly configuration: MemberConfiguration
  /** Highest term voted for or accepted. */
  readonly term: number
  readonly history: readonly TermEntry[]
  readonly pgVersion: number
  readonly systemId: bigint
  readonly startLsn: Lsn
  /** Durable copies of positions that only rise; all but `startLsn` may lag behind memory. */
  readonly commitLsn: Lsn
  readonly backupLsn: Lsn
  readonly peerHorizonLsn: Lsn
  readonly remoteConsistentLsn: Lsn
  readonly createdAtMs: number
}

export function encodeControlState(state: ControlState): Buffer {
  const body = new ByteWriter()
  body.bytes(Buffer.from(state.tenantId, 'hex')).bytes(Buffer.from(state.timelineId, 'hex'))
  writeConfiguration(body, state.configuration)
  body.u64(state.term)
  writeHistory(body, state.history)
  body.u32(state.pgVersion).bigU64(state.systemId).u32(WAL_SEGMENT_SIZE)
  body.u64(state.startLsn).u64(state.commitLsn).u64(state.backupLsn)
  body.u64(state.peerHorizonLsn).u64(state.remoteConsistentLsn).u64(state.createdAtMs)
  const bytes = body.finish()
  const framed = new ByteWriter().u32(MAGIC).u32(VERSION).u32(bytes.length).bytes(bytes).finish()
  return new ByteWriter().bytes(framed).u32(crc32c(framed)).finish()
}

function damaged(what: string, hint: string): ZenithError {
  return new ZenithError('corrupt', `the control file of a timeline ${what}`, { hint })
}

const RESTORE_HINT =
  'Its WAL is untouched. Restore the file from a copy, or remove the timeline here and have it ' +
  'copied from another safekeeper; never start it empty.'

/** Throws `corrupt` for a damaged file and `unsupported` for one of a newer version. */
export function decodeControlState(bytes: Buffer): ControlState {
  if (bytes.length < FRAME_HEADER_SIZE + 4) throw damaged('is cut short', RESTORE_HINT)
  if (bytes.readUInt32BE(0) !== MAGIC) throw damaged('is something else', RESTORE_HINT)
  const version = bytes.readUInt32BE(4)
  if (version > VERSION) {
    throw new ZenithError('unsupported', `the control file has version ${version}`, {
      hint: `This program knows versions up to ${VERSION}; start the newer one.`,
    })
  }
  const crcOffset = FRAME_HEADER_SIZE + bytes.readUInt32BE(8)
  if (bytes.length !== crcOffset + 4) throw damaged('has a wrong length', RESTORE_HINT)
  if (crc32c(bytes, 0, crcOffset) !== bytes.readUInt32BE(crcOffset)) {
    throw damaged('has a wrong CRC', RESTORE_HINT)
  }
  const reader = new ByteReader(bytes.subarray(0, crcOffset), FRAME_HEADER_SIZE, 'a control file')
  const tenantId = parseTenantId(reader.bytes(16).toString('hex'))
  const timelineId = parseTimelineId(reader.bytes(16).toString('hex'))
  const configuration = readConfiguration(reader)
  const term = reader.u64()
  const history = readHistory(reader)
  const pgVersion = reader.u32()
  const systemId = reader.bigU64()
  if (reader.u32() !== WAL_SEGMENT_SIZE) throw damaged('has another segment size', RESTORE_HINT)
  const state: ControlState = {
    tenantId,
    timelineId,
    configuration,
    term,
    history,
    pgVersion,
    systemId,
    startLsn: reader.u64(),
    commitLsn: reader.u64(),
    backupLsn: reader.u64(),
    peerHorizonLsn: reader.u64(),
    remoteConsistentLsn: reader.u64(),
    createdAtMs: reader.u64(),
  }
  reader.end()
  return state
}
