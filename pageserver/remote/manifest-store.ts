/**
 * Reads the newest manifest of a timeline and writes its successors, one at a time, under our own
 * generation only. A write that finds its name taken means that another process uses the same
 * generation: we are fenced and must stop writing.
 *
 * A write that failed may have gone through all the same, so its bytes are written again before
 * anything else gets the next name. A change costs what has changed since the last snapshot, not the
 * number of layers; only a snapshot names them all. What lies before the last two snapshots is handed
 * out to be deleted: nobody who may still write starts from there.
 */
import { assert, ZenithError } from '#libs/errors.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { type LayerEntry, layerKey } from '../layers/layer.ts'
import type { LayerList } from '../layers/layer-map.ts'
import { encodeEdit, encodeSnapshot, layerText } from './manifest-encoder.ts'
import { decodeManifest, type Manifest, type ManifestHead, manifestOf } from './manifest.ts'

const NAME = /^m-([0-9a-f]{8})-([0-9a-f]{8})$/
/** A snapshot follows after so many edits, or when an edit outgrows a quarter of its snapshot. */
const MAX_EDITS = 256
const SMALL_EDIT_BYTES = 16 * 1024

/** As `ObjectStore.put`; may try for as long as the signal lets it. */
export type ManifestPut = (name: string, bytes: Buffer, signal: AbortSignal) => Promise<void>

/** Place of a manifest among all of its timeline. */
interface Place {
  name: string
  generation: number
  sequence: number
}

/** What has become of the layers since some manifest. */
export interface LayerEdit {
  added: readonly LayerEntry[]
  /** Keys (`layerKey`) of layers that were there. */
  removed: readonly string[]
}

/** The newest snapshot of our own, and the sum of all edits since. */
interface Base {
  name: string
  bytes: number
  edits: number
  /** What the snapshot does not name, by key, as an edit says it. */
  added: Map<string, string>
  removed: Set<string>
  /** Size of what is added and removed. */
  editBytes: number
}

const NEVER = new AbortController().signal

export class ManifestStore {
  readonly #store: ObjectStore
  readonly #folder: string
  readonly #generation: number
  readonly #putObject: ManifestPut
  #sequence = 0
  #lastName = ''
  /** What is in storage, as far as we know. */
  #present: Place[] = []
  /** The newest snapshot, ours or that of the manifest we began with. */
  #lastSnapshot: Place | null = null
  #obsolete: string[] = []
  /** A write of unknown outcome. */
  #unsure: { name: string; bytes: Buffer } | null = null
  #base: Base | null = null
  #writing = false

  /** `folder` is the timeline's folder of manifests in object storage. */
  constructor(store: ObjectStore, folder: string, generation: number, put?: ManifestPut) {
    this.#store = store
    this.#folder = folder
    this.#generation = generation
    this.#putObject = put ?? ((name, bytes) => store.put(name, bytes))
  }

  /** Object of the manifest last read or written; empty when there is none. */
  get lastName(): string {
    return this.#lastName
  }

  /** The newest manifest of our or a lower generation; null when there is none. */
  async load(): Promise<Manifest | null> {
    const { objects } = await this.#store.list(this.#folder, { delimited: true })
    let newest: Place | null = null
    for (const { name: path } of objects) {
      const place = placeOf(path.slice(path.lastIndexOf('/') + 1))
      if (!place || place.generation > this.#generation) continue
      this.#present.push(place)
      const { generation, sequence } = place
      if (generation === this.#generation) this.#sequence = Math.max(this.#sequence, sequence)
      if (newest === null || isBefore(newest, place)) newest = place
    }
    if (newest === null) return null
    this.#lastName = `${this.#folder}/${newest.name}`
    const body = await this.#read(newest.name)
    if (body.kind === 'snapshot') {
      this.#lastSnapshot = newest
      return manifestOf(body, null)
    }
    this.#lastSnapshot = placeOf(body.snapshot)
    return manifestOf(await this.#read(body.snapshot), body)
  }

  /** Objects that may go, each named once; their absence needs no manifest. */
  takeObsolete(): string[] {
    const names = this.#obsolete
    this.#obsolete = []
    return names
  }

  /** Writes a snapshot. Durable when it resolves. Throws `fenced` when the name is taken. */
  async write({ layers, ...head }: Manifest, signal: AbortSignal = NEVER): Promise<void> {
    await this.#alone(() => this.#putSnapshot(head, layers, signal))
  }

  /**
   * As `write`, of what has become of the manifest written last: an edit, or a snapshot when one is
   * due, for which `layers` gives all layers as they are with the edit. It is called before the first
   * await, and walked in slices afterwards: what it gives must stay as it was then.
   */
  async change(
    head: ManifestHead,
    edit: LayerEdit,
    layers: () => LayerList,
    signal: AbortSignal = NEVER,
  ): Promise<void> {
    await this.#alone(async () => {
      const base = this.#base && editedBase(this.#base, edit)
      if (!base) {
        await this.#putSnapshot(head, layers(), signal)
        return
      }
      const { name, added, removed } = base
      await this.#putNext(await encodeEdit(head, name, [...added.values()], [...removed]), signal)
      this.#base = base
    })
  }

  async #alone(write: () => Promise<void>): Promise<void> {
    assert(!this.#writing, 'one manifest is written at a time')
    this.#writing = true
    try {
      await write()
    } finally {
      this.#writing = false
    }
  }

  async #putSnapshot(head: ManifestHead, layers: LayerList, signal: AbortSignal): Promise<void> {
    const bytes = await encodeSnapshot(head, layers)
    const place = await this.#putNext(bytes, signal)
    this.#base = {
      name: place.name,
      bytes: bytes.length,
      edits: 0,
      added: new Map(),
      removed: new Set(),
      editBytes: 0,
    }
    this.#dropBefore(this.#lastSnapshot)
    this.#lastSnapshot = place
  }

  async #putNext(bytes: Buffer, signal: AbortSignal): Promise<Place> {
    if (this.#unsure) await this.#put(this.#unsure.name, this.#unsure.bytes, signal)
    return await this.#put(manifestName(this.#generation, this.#sequence + 1), bytes, signal)
  }

  #dropBefore(last: Place | null): void {
    if (last === null) return
    for (const place of this.#present) {
      if (isBefore(place, last)) this.#obsolete.push(`${this.#folder}/${place.name}`)
    }
    this.#present = this.#present.filter((place) => !isBefore(place, last))
  }

  async #put(name: string, bytes: Buffer, signal: AbortSignal): Promise<Place> {
    const path = `${this.#folder}/${name}`
    this.#unsure = { name, bytes }
    try {
      await this.#putObject(path, bytes, signal)
    } catch (error) {
      if (!(error instanceof ZenithError) || error.code !== 'already_exists') throw error
      // Our own earlier attempt may have succeeded although it reported a failure.
      const existing = await this.#store.get(path)
      if (!existing.equals(bytes)) {
        throw new ZenithError(
          'fenced',
          `another page server writes generation ${this.#generation}: it wrote ${path}`,
        )
      }
    }
    this.#unsure = null
    this.#sequence++
    this.#lastName = path
    const place = { name, generation: this.#generation, sequence: this.#sequence }
    this.#present.push(place)
    return place
  }

  async #read(name: string): Promise<ReturnType<typeof decodeManifest>> {
    const path = `${this.#folder}/${name}`
    return decodeManifest(await this.#store.get(path), path)
  }
}

/** With one edit more; null when a snapshot is due. */
function editedBase(base: Base, edit: LayerEdit): Base | null {
  if (base.edits >= MAX_EDITS) return null
  const added = new Map(base.added)
  const removed = new Set(base.removed)
  let { editBytes } = base
  for (const key of edit.removed) {
    const text = added.get(key)
    if (text !== undefined) {
      added.delete(key)
      editBytes -= text.length
    } else if (!removed.has(key)) {
      removed.add(key)
      editBytes += key.length
    }
  }
  for (const layer of edit.added) {
    const key = layerKey(layer)
    // The snapshot names it, and an edit cannot say that it left and came back.
    if (removed.has(key)) return null
    const text = layerText(layer)
    editBytes += text.length - (added.get(key)?.length ?? 0)
    added.set(key, text)
  }
  if (editBytes > Math.max(SMALL_EDIT_BYTES, base.bytes / 4)) return null
  return { ...base, edits: base.edits + 1, added, removed, editBytes }
}

function manifestName(generation: number, sequence: number): string {
  const hex = (value: number) => value.toString(16).padStart(8, '0')
  return `m-${hex(generation)}-${hex(sequence)}`
}

/** Null when it is not a manifest's name. */
function placeOf(name: string): Place | null {
  const match = NAME.exec(name)
  if (!match) return null
  const generation = Number.parseInt(match[1] as string, 16)
  return { name, generation, sequence: Number.parseInt(match[2] as string, 16) }
}

function isBefore(a: Place, b: Place): boolean {
  return a.generation < b.generation || (a.generation === b.generation && a.sequence < b.sequence)
}
