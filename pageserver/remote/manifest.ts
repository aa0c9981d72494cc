/**
 * The manifest: what a timeline is and which layers hold it. The newest one in object storage is
 * the truth; local files are a cache of it.
 *
 * Objects `m-<generation 8 hex>-<sequence 8 hex>` hold either everything (snapshot) or what changed
 * since a named snapshot (edit). They are text: a line with format and checksum, then JSON.
 *
 *   zenith-manifest 1 <crc32 of the rest, 8 hex>\n
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
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import type { LayerEntry } from '../layers/layer.ts'
import { layerName, parseLayerName } from '../layers/layer-name.ts'

export const MANIFEST_FORMAT = 1

/** What never changes in a timeline's life. */
export interface TimelineFacts {
  ancestorTimelineId: TimelineId | null
  /** Where it left its ancestor; null exactly when there is none. */
  ancestorLsn: Lsn | null
  /** First LSN of its own history. */
  startLsn: Lsn
  /** pg_control's system identifier, decimal. */
  systemId: string
  /** As server_version_num: 170011. */
  pgVersion: number
}

export interface Manifest {
  facts: TimelineFacts
  /** Everything up to here lies in the layers; WAL is read again from here after a restart. */
  diskConsistentLsn: Lsn
  /** Start of the record that ends at diskConsistentLsn, when known. */
  prevRecordLsn: Lsn | null
  layers: LayerEntry[]
}

const Layer = Type.Object({
  name: Type.String(),
  sizeBytes: Type.Integer({ minimum: 0 }),
  crc: Type.String({ pattern: '^[0-9a-f]{8}$' }),
})
const Lsns = {
  diskConsistentLsn: Type.String(),
  prevRecordLsn: Type.Union([Type.String(), Type.Null()]),
}
const Snapshot = Type.Object({
  kind: Type.Literal('snapshot'),
  ancestorTimelineId: Type.Union([Type.String(), Type.Null()]),
  ancestorLsn: Type.Union([Type.String(), Type.Null()]),
  startLsn: Type.String(),
  systemId: Type.String(),
  pgVersion: Type.Integer(),
  ...Lsns,
  layers: Type.Array(Layer),
})
const Edit = Type.Object({
  kind: Type.Literal('edit'),
  /** Object name (last component) of the snapshot that this changes. */
  snapshot: Type.String(),
  ...Lsns,
  added: Type.Array(Layer),
  removed: Type.Array(Type.String()),
})
const Body = Compile(Type.Union([Snapshot, Edit]))
export type ManifestBody = Static<typeof Snapshot> | Static<typeof Edit>
type LayerJson = Static<typeof Layer>

export function encodeManifest(body: ManifestBody): Buffer {
  const text = `${JSON.stringify(body)}\n`
  const crc = crc32(text).toString(16).padStart(8, '0')
  return Buffer.from(`zenith-manifest ${MANIFEST_FORMAT} ${crc}\n${text}`)
}

/** Throws `corrupt` that names the object; `unsupported` for a newer format. */
export function decodeManifest(bytes: Buffer, name: string): ManifestBody {
  const lineEnd = bytes.indexOf('\n')
  const [magic, format, crc] = bytes.subarray(0, Math.max(lineEnd, 0)).toString('latin1').split(' ')
  if (magic !== 'zenith-manifest') throw damaged(name, 'its first line is not a manifest header')
  if (format !== String(MANIFEST_FORMAT)) {
    throw new ZenithError(
      'unsupported',
      `manifest ${name} has format ${format}; this program reads format ${MANIFEST_FORMAT}`,
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

export function snapshotBody(manifest: Manifest): ManifestBody {
  const { facts } = manifest
  return {
    kind: 'snapshot',
    ancestorTimelineId: facts.ancestorTimelineId,
    ancestorLsn: facts.ancestorLsn === null ? null : formatLsn(facts.ancestorLsn),
    startLsn: formatLsn(facts.startLsn),
    systemId: facts.systemId,
    pgVersion: facts.pgVersion,
    ...lsnFields(manifest),
    layers: manifest.layers.map(layerJson),
  }
}

/** The change from `base` (the content of snapshot object `snapshot`) to `now`. */
export function editBody(base: Manifest, snapshot: string, now: Manifest): ManifestBody {
  const before = new Set(base.layers.map((layer) => layerName(layer.id)))
  const after = new Set(now.layers.map((layer) => layerName(layer.id)))
  return {
    kind: 'edit',
    snapshot,
    ...lsnFields(now),
    added: now.layers.filter((layer) => !before.has(layerName(layer.id))).map(layerJson),
    removed: [...before].filter((name) => !after.has(name)),
  }
}

/** The manifest that a snapshot, with an edit of it or without, stands for. */
export function manifestOf(snapshot: ManifestBody, edit: ManifestBody | null): Manifest {
  if (snapshot.kind !== 'snapshot' || edit?.kind === 'snapshot') {
    throw new ZenithError('corrupt', 'a manifest edit does not name a snapshot')
  }
  const removed = new Set(edit?.removed ?? [])
  const layers = [...snapshot.layers, ...(edit?.added ?? [])]
  const newest = edit ?? snapshot
  return {
    facts: {
      ancestorTimelineId: snapshot.ancestorTimelineId as TimelineId | null,
      ancestorLsn: snapshot.ancestorLsn === null ? null : parseLsn(snapshot.ancestorLsn),
      startLsn: parseLsn(snapshot.startLsn),
      systemId: snapshot.systemId,
      pgVersion: snapshot.pgVersion,
    },
    diskConsistentLsn: parseLsn(newest.diskConsistentLsn),
    prevRecordLsn: newest.prevRecordLsn === null ? null : parseLsn(newest.prevRecordLsn),
    layers: layers.filter((layer) => !removed.has(layer.name)).map(layerEntry),
  }
}

function lsnFields(manifest: Manifest): {
  diskConsistentLsn: string
  prevRecordLsn: string | null
} {
  return {
    diskConsistentLsn: formatLsn(manifest.diskConsistentLsn),
    prevRecordLsn: manifest.prevRecordLsn === null ? null : formatLsn(manifest.prevRecordLsn),
  }
}

function layerJson(layer: LayerEntry): LayerJson {
  return {
    name: layerName(layer.id),
    sizeBytes: layer.sizeBytes,
    crc: layer.crc.toString(16).padStart(8, '0'),
  }
}

function layerEntry(json: LayerJson): LayerEntry {
  return {
    id: parseLayerName(json.name),
    sizeBytes: json.sizeBytes,
    crc: Number.parseInt(json.crc, 16),
  }
}

function damaged(name: string, what: string): ZenithError {
  return new ZenithError('corrupt', `manifest ${name} is damaged: ${what}`)
}
