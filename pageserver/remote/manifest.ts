/**
 * The manifest: what a timeline is and which layers hold it. The newest one in object storage is
 * the truth; local files are a cache of it.
 *
 * Objects `m-<generation 8 hex>-<sequence 8 hex>` hold either everything (snapshot) or what changed
 * since a named snapshot (edit). They are text: a line with format and checksum, then JSON.
 *
 *   zenith-manifest 3 <crc32 of the rest, 8 hex>\n
 *   {"kind":"snapshot", ...}\n
 *
 * The newest is the highest sequence of the highest generation that is not above our own. The
 * first one that a generation writes is a snapshot, so an edit and its snapshot share one.
 */
import { crc32 } from 'node:zlib'
import { type Static, Type } from 'typebox'
import { Compile } from 'typebox/compile'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { TimelineId } from '#libs/ids.ts'
import { type Lsn, parseLsn } from '#libs/lsn.ts'
import { parseTenantShardId } from '#libs/sharding.ts'
import { type LayerEntry, layerKey } from '../layers/layer.ts'
import { parseLayerName } from '../layers/layer-name.ts'

export const MANIFEST_FORMAT = 3
/** Format 1 had neither state nor cutoff nor layers of other timelines; format 2 none of other shards. */
const OLDEST_FORMAT = 1

/** What a timeline is; where it comes from changes only when it is detached from its ancestor. */
export interface TimelineFacts {
  ancestorTimelineId: TimelineId | null
  /** Where it left its ancestor; null exactly when there is none. */
  ancestorLsn: Lsn | null
  /** First LSN of its own history; for one that was detached, of what it took over. */
  startLsn: Lsn
  /** Where its own WAL begins, when that is not startLsn: it was detached there. */
  walStartLsn?: Lsn
  /** pg_control's system identifier, decimal. */
  systemId: string
  /** As server_version_num: 170011. */
  pgVersion: number
}

/** Where its own WAL begins. */
export function walStartOf({ walStartLsn, startLsn }: TimelineFacts): Lsn {
  return walStartLsn ?? startLsn
}

/**
 * `archived`: kept in object storage only. `deleted`: about to go; whoever finds it so goes on
 * deleting, and nobody reads it any more.
 */
export type TimelineState = 'active' | 'archived' | 'deleted'

/** All of a manifest but the layers. */
export interface ManifestHead {
  facts: TimelineFacts
  state: TimelineState
  /** History below may be gone: reads there are refused. It only goes up; null = all is there. */
  gcCutoffLsn: Lsn | null
  /** LSNs below the cutoff whose states are kept, since they were leased when it was set. */
  leasedLsns: readonly Lsn[]
  /** Everything up to here lies in the layers; WAL is read again from here after a restart. */
  diskConsistentLsn: Lsn
  /** Start of the record that ends at diskConsistentLsn, when known. */
  prevRecordLsn: Lsn | null
}

export interface Manifest extends ManifestHead {
  layers: LayerEntry[]
}

const Layer = Type.Object({
  name: Type.String(),
  sizeBytes: Type.Integer({ minimum: 0 }),
  crc: Type.String({ pattern: '^[0-9a-f]{8}$' }),
  origin: Type.Optional(Type.String({ pattern: '^[0-9a-f]{32}$' })),
  ceilingLsn: Type.Optional(Type.String()),
  splitFrom: Type.Optional(Type.String()),
})
const NullableText = Type.Union([Type.String(), Type.Null()])
/** What snapshots and edits both say. */
const Current = {
  ancestorTimelineId: Type.Optional(NullableText),
  ancestorLsn: Type.Optional(NullableText),
  startLsn: Type.Optional(Type.String()),
  walStartLsn: Type.Optional(Type.String()),
  state: Type.Optional(
    Type.Union([Type.Literal('active'), Type.Literal('archived'), Type.Literal('deleted')]),
  ),
  gcCutoffLsn: Type.Optional(NullableText),
  leasedLsns: Type.Optional(Type.Array(Type.String())),
  diskConsistentLsn: Type.String(),
  prevRecordLsn: NullableText,
}
const Snapshot = Type.Object({
  kind: Type.Literal('snapshot'),
  systemId: Type.String(),
  pgVersion: Type.Integer(),
  ...Current,
  startLsn: Type.String(),
  layers: Type.Array(Layer),
})
const Edit = Type.Object({
  kind: Type.Literal('edit'),
  /** Object name (last component) of the snapshot that this changes. */
  snapshot: Type.String(),
  ...Current,
  added: Type.Array(Layer),
  removed: Type.Array(Type.String()),
})
const Body = Compile(Type.Union([Snapshot, Edit]))
export type ManifestBody = Static<typeof Snapshot> | Static<typeof Edit>
export type LayerJson = Static<typeof Layer>

/** Throws `corrupt` that names the object; `unsupported` for a newer format. */
export function decodeManifest(bytes: Buffer, name: string): ManifestBody {
  const lineEnd = bytes.indexOf('\n')
  const [magic, format, crc] = bytes.subarray(0, Math.max(lineEnd, 0)).toString('latin1').split(' ')
  if (magic !== 'zenith-manifest') throw damaged(name, 'its first line is not a manifest header')
  const number = Number(format)
  if (!(number >= OLDEST_FORMAT && number <= MANIFEST_FORMAT)) {
    throw new ZenithError(
      'unsupported',
      `manifest ${name} has format ${format}; this program reads formats ${OLDEST_FORMAT} to ${MANIFEST_FORMAT}`,
    )
  }
  const text = bytes.subarray(lineEnd + 1)
  if (crc !== crc32(text).toString(16).padStart(8, '0'))
    throw damaged(name, 'its checksum is wrong')
  let body: unknown
  try {
    body = JSON.parse(text.toString())
  } catch (error) {
    throw damaged(name, errorMessage(error))
  }
  if (!Body.Check(body)) throw damaged(name, 'fields are missing or of the wrong type')
  return body
}

/** The manifest that a snapshot, with an edit of it or without, stands for. */
export function manifestOf(snapshot: ManifestBody, edit: ManifestBody | null): Manifest {
  if (snapshot.kind !== 'snapshot' || edit?.kind === 'snapshot') {
    throw new ZenithError('corrupt', 'a manifest edit does not name a snapshot')
  }
  const removed = new Set(edit?.removed ?? [])
  const layers = [...snapshot.layers, ...(edit?.added ?? [])]
  // An edit of format 1 does not repeat what could not change then.
  const newest = { ...snapshot, ...edit }
  return {
    facts: {
      ancestorTimelineId: (newest.ancestorTimelineId ?? null) as TimelineId | null,
      ancestorLsn: lsnOrNull(newest.ancestorLsn),
      startLsn: parseLsn(newest.startLsn),
      ...(newest.walStartLsn === undefined ? {} : { walStartLsn: parseLsn(newest.walStartLsn) }),
      systemId: snapshot.systemId,
      pgVersion: snapshot.pgVersion,
    },
    state: newest.state ?? 'active',
    gcCutoffLsn: lsnOrNull(newest.gcCutoffLsn),
    leasedLsns: (newest.leasedLsns ?? []).map(parseLsn),
    diskConsistentLsn: parseLsn(newest.diskConsistentLsn),
    prevRecordLsn: lsnOrNull(newest.prevRecordLsn),
    layers: layers
      .map(layerEntry)
      .filter((layer) => removed.size === 0 || !removed.has(layerKey(layer))),
  }
}

function layerEntry(json: LayerJson): LayerEntry {
  return {
    id: parseLayerName(json.name),
    sizeBytes: json.sizeBytes,
    crc: Number.parseInt(json.crc, 16),
    origin: (json.origin ?? null) as TimelineId | null,
    ceilingLsn: lsnOrNull(json.ceilingLsn),
    ...(json.splitFrom === undefined ? {} : { splitFrom: parseTenantShardId(json.splitFrom) }),
  }
}

function lsnOrNull(text: string | null | undefined): Lsn | null {
  return text === null || text === undefined ? null : parseLsn(text)
}

function damaged(name: string, what: string): ZenithError {
  return new ZenithError('corrupt', `manifest ${name} is damaged: ${what}`)
}
