/**
 * What a safekeeper keeps durably about one timeline, besides WAL, and its bytes on disk:
 *
 * ```
 * magic "ZSKC" | version u32 | body length u32 | body | crc32c u32 of all before     (big endian)
 * body: tenant 16 bytes | timeline 16 bytes | conf (as in wal-push.ts) | term u64 | n u32 | n x (term
 *   u64, lsn u64) | pg_version u32 | system_id u64 | seg_size u32 | start u64 | commit u64 | backup u64
 *   | peer_horizon u64 | remote_consistent u64 | created_at_ms u64
 *   | local_start u64 | n u32 | n x (name cstr | flush u64 | last_log_term u64 | state u8)
 *   | evicted u8 | evicted_flush u64 | dirty_tail u8
 * ```
 *
 * Version 1 ends after `created_at_ms`; such a file is read as one whose WAL is all here.
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
const VERSION = 2
const FRAME_HEADER_SIZE = 12
const MAX_PARTIAL_BACKUPS = 64
const MAX_OBJECT_NAME_BYTES = 1024
const PARTIAL_STATES = ['uploading', 'uploaded', 'deleting'] as const

/** A copy of the log's tail in object storage, noted before anything is done to the object. */
export interface PartialBackup {
  readonly name: string
  readonly flushLsn: Lsn
  readonly lastLogTerm: number
  readonly state: (typeof PARTIAL_STATES)[number]
}

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
  /** The oldest WAL that is on this disk; what lies below was removed, or never came here. */
  readonly localStartLsn: Lsn
  readonly partialBackups: readonly PartialBackup[]
  /** Set while the WAL of an idle timeline is in object storage only, up to `flushLsn`. */
  readonly eviction: { readonly flushLsn: Lsn } | null
  /** A cut of the tail has begun and is not known to be finished. */
  readonly dirtyTail: boolean
}

type NewTimeline = Pick<
  ControlState,
  'tenantId' | 'timelineId' | 'configuration' | 'pgVersion' | 'systemId' | 'startLsn'
> & { createdAtMs: number }

/** The state of a timeline that begins at `startLsn` and has no WAL yet. */
export function newControlState(timeline: NewTimeline): ControlState {
  const { startLsn } = timeline
  return {
    ...timeline,
    term: 0,
    history: [{ term: 0, startLsn }],
    commitLsn: startLsn,
    backupLsn: startLsn,
    peerHorizonLsn: startLsn,
    remoteConsistentLsn: startLsn,
    localStartLsn: startLsn,
    partialBackups: [],
    eviction: null,
    dirtyTail: false,
  }
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
  body.u64(state.localStartLsn).u32(state.partialBackups.length)
  for (const { name, flushLsn, lastLogTerm, state: stage } of state.partialBackups) {
    body.cstring(name).u64(flushLsn).u64(lastLogTerm).u8(PARTIAL_STATES.indexOf(stage))
  }
  body.u8(state.eviction === null ? 0 : 1).u64(state.eviction?.flushLsn ?? 0)
  body.u8(state.dirtyTail ? 1 : 0)
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
  const common = {
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
  const state = version === 1 ? upgraded(common) : { ...common, ...readLater(reader) }
  reader.end()
  return state
}

type Later = Pick<ControlState, 'localStartLsn' | 'partialBackups' | 'eviction' | 'dirtyTail'>

/** Version 1 kept all WAL on its disk and nothing anywhere else. */
function upgraded(common: Omit<ControlState, keyof Later>): ControlState {
  const localStartLsn = common.startLsn
  return { ...common, localStartLsn, partialBackups: [], eviction: null, dirtyTail: false }
}

function readLater(reader: ByteReader): Later {
  const localStartLsn = reader.u64()
  const partialBackups: PartialBackup[] = []
  for (let left = reader.count(MAX_PARTIAL_BACKUPS, 18); left > 0; left -= 1) {
    const name = reader.cstring(MAX_OBJECT_NAME_BYTES)
    const flushLsn = reader.u64()
    const lastLogTerm = reader.u64()
    const state = PARTIAL_STATES[reader.u8()]
    if (state === undefined) throw damaged('names an unknown state of a backup', RESTORE_HINT)
    partialBackups.push({ name, flushLsn, lastLogTerm, state })
  }
  const evicted = reader.u8() === 1
  const evictedFlushLsn = reader.u64()
  const eviction = evicted ? { flushLsn: evictedFlushLsn } : null
  return { localStartLsn, partialBackups, eviction, dirtyTail: reader.u8() === 1 }
}
