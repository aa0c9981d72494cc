/**
 * Manifests as bytes. One that names a hundred thousand layers takes a third of a second to write
 * down, so that is done in slices, and everything else goes on between them.
 */
import { setImmediate } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import type { LayerEntry } from '../layers/layer.ts'
import type { LayerList } from '../layers/layer-map.ts'
import { layerName } from '../layers/layer-name.ts'
import { type LayerJson, MANIFEST_FORMAT, type ManifestHead } from './manifest.ts'

/** Layers of one slice: about 5 ms. */
const SLICE_LAYERS = 2048
/** Memory taken for a layer's text: a name is 130 bytes, what else there may be some 100. */
const LAYER_BYTES = 256
/** The checksum is brought up to date after so many bytes, while they are in the processor's cache. */
const SUM_BYTES = 64 * 1024

/** A line with magic, format and CRC-32 of the rest, then text (docs/formats/manifest.md). */
export class ManifestText {
  /** In one piece from the start: large buffers that come and go make garbage collections long. */
  #memory: Buffer
  #length = firstLine(0).length
  #crc = 0
  /** How far the checksum goes. */
  #summed = this.#length

  /** Grows beyond `capacity` bytes when need be. */
  constructor(capacity: number) {
    this.#memory = Buffer.allocUnsafeSlow(this.#length + capacity)
  }

  /** Only ASCII. */
  add(text: string): this {
    if (this.#length + text.length > this.#memory.length) this.#grow(text.length)
    this.#length += this.#memory.write(text, this.#length, 'latin1')
    if (this.#length - this.#summed >= SUM_BYTES) this.#sum()
    return this
  }

  /** All of it; nothing is added afterwards. */
  get bytes(): Buffer {
    this.#sum()
    this.#memory.write(firstLine(this.#crc), 'latin1')
    return this.#memory.subarray(0, this.#length)
  }

  #sum(): void {
    this.#crc = crc32(this.#memory.subarray(this.#summed, this.#length), this.#crc)
    this.#summed = this.#length
  }

  #grow(more: number): void {
    const larger = Buffer.allocUnsafeSlow(Math.ceil(1.25 * (this.#length + more)))
    this.#memory.copy(larger, 0, 0, this.#length)
    this.#memory = larger
  }
}

/** Everything that the manifest says, needing no other. `layers` is walked in slices. */
export function encodeSnapshot(head: ManifestHead, layers: LayerList): Promise<Buffer> {
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
  added: readonly string[],
  removed: readonly string[],
): Promise<Buffer> {
  const fields = { kind: 'edit', snapshot, ...currentFields(head), removed }
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
  items: Iterable<T> & { readonly length: number },
  textOf: (item: T) => string,
): Promise<Buffer> {
  const end = ']}'
  const start = JSON.stringify(body).slice(0, -end.length)
  const text = new ManifestText(start.length + items.length * LAYER_BYTES)
  text.add(start)
  let count = 0
  for (const item of items) {
    if (count > 0) text.add(',')
    text.add(textOf(item))
    count++
    if (count % SLICE_LAYERS === 0) await setImmediate()
  }
  return text.add(`${end}\n`).bytes
}

function firstLine(crc: number): string {
  return `zenith-manifest ${MANIFEST_FORMAT} ${crc.toString(16).padStart(8, '0')}\n`
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
