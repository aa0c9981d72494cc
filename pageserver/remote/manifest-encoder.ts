/**
 * Manifests as bytes. One that names a hundred thousand layers takes a third of a second to write
 * down, so that is done in slices, and everything else goes on between them.
 */
import { setImmediate } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import type { LayerEntry } from '../layers/layer.ts'
import { layerName } from '../layers/layer-name.ts'
import { type LayerJson, MANIFEST_FORMAT, type ManifestHead } from './manifest.ts'

/** Layers of one slice: about 6 ms. */
const SLICE_LAYERS = 2048

/** A line with magic, format and CRC-32 of the rest, then text (docs/formats/manifest.md). */
export class ManifestText {
  readonly #parts: Buffer[] = []
  #crc = 0

  add(text: string): this {
    const bytes = Buffer.from(text)
    this.#crc = crc32(bytes, this.#crc)
    this.#parts.push(bytes)
    return this
  }

  get bytes(): Buffer {
    const crc = this.#crc.toString(16).padStart(8, '0')
    const line = Buffer.from(`zenith-manifest ${MANIFEST_FORMAT} ${crc}\n`)
    return Buffer.concat([line, ...this.#parts])
  }
}

/** Everything that the manifest says, needing no other. `layers` is walked in slices. */
export function encodeSnapshot(head: ManifestHead, layers: Iterable<LayerEntry>): Promise<Buffer> {
  const { systemId, pgVersion } = head.facts
  const body = { kind: 'snapshot', systemId, pgVersion, ...currentFields(head), layers: [] }
  return encodeList(body, layers, layerText)
}

/**
 * What is new since the snapshot object `snapshot`: `added` as `layerText` gives it; `removed` are
 * keys of layers that the snapshot names.
 */
export function encodeEdit(
  head: ManifestHead,
  snapshot: string,
  added: Iterable<string>,
  removed: Iterable<string>,
): Promise<Buffer> {
  const fields = { kind: 'edit', snapshot, ...currentFields(head), removed: [...removed] }
  return encodeList({ ...fields, added: [] }, added, (text) => text)
}

/** A layer in a manifest's list. */
export function layerText(layer: LayerEntry): string {
  const json: LayerJson = {
    name: layerName(layer.id),
    sizeBytes: layer.sizeBytes,
    crc: layer.crc.toString(16).padStart(8, '0'),
    ...(layer.origin === null ? {} : { origin: layer.origin }),
    ...(layer.ceilingLsn === null ? {} : { ceilingLsn: formatLsn(layer.ceilingLsn) }),
    ...(layer.splitFrom === undefined ? {} : { splitFrom: layer.splitFrom }),
  }
  return JSON.stringify(json)
}

/** The last field of `body` is an empty list, and gets the items. */
async function encodeList<T>(
  body: object,
  items: Iterable<T>,
  textOf: (item: T) => string,
): Promise<Buffer> {
  const end = ']}'
  const text = new ManifestText().add(JSON.stringify(body).slice(0, -end.length))
  let texts: string[] = []
  let separator = ''
  for (const item of items) {
    texts.push(textOf(item))
    if (texts.length < SLICE_LAYERS) continue
    text.add(separator + texts.join())
    separator = ','
    texts = []
    await setImmediate()
  }
  if (texts.length > 0) text.add(separator + texts.join())
  return text.add(`${end}\n`).bytes
}

function currentFields(head: ManifestHead) {
  const { facts } = head
  return {
    ancestorTimelineId: facts.ancestorTimelineId,
    ancestorLsn: textOrNull(facts.ancestorLsn),
    startLsn: formatLsn(facts.startLsn),
    ...(facts.walStartLsn === undefined ? {} : { walStartLsn: formatLsn(facts.walStartLsn) }),
    state: head.state,
    gcCutoffLsn: textOrNull(head.gcCutoffLsn),
    leasedLsns: head.leasedLsns.map(formatLsn),
    diskConsistentLsn: formatLsn(head.diskConsistentLsn),
    prevRecordLsn: textOrNull(head.prevRecordLsn),
  }
}

function textOrNull(lsn: Lsn | null): string | null {
  return lsn === null ? null : formatLsn(lsn)
}
