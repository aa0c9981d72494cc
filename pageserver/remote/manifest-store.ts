/**
 * Reads the newest manifest of a timeline and writes its successors, one at a time, under our own
 * generation only. A write that finds its name taken means that another process uses the same
 * generation: we are fenced and must stop writing.
 *
 * A write that failed may have gone through all the same, so its bytes are written again before
 * anything else gets the next name. What lies before the last two snapshots is handed out to be
 * deleted: nobody who may still write starts from there.
 */
import { assert, ZenithError } from '#libs/errors.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import {
  decodeManifest,
  editBody,
  encodeManifest,
  type Manifest,
  manifestOf,
  snapshotBody,
} from './manifest.ts'

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
  #snapshot: { name: string; manifest: Manifest; bytes: number } | null = null
  #edits = 0
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

  /** Durable when it resolves. Throws `fenced` when the name is taken. */
  async write(manifest: Manifest, signal: AbortSignal = NEVER): Promise<void> {
    assert(!this.#writing, 'one manifest is written at a time')
    this.#writing = true
    try {
      await this.#write(manifest, signal)
    } finally {
      this.#writing = false
    }
  }

  async #write(manifest: Manifest, signal: AbortSignal): Promise<void> {
    if (this.#unsure) await this.#put(this.#unsure.name, this.#unsure.bytes, signal)
    const name = manifestName(this.#generation, this.#sequence + 1)
    const snapshot = this.#snapshot
    if (snapshot && this.#edits < MAX_EDITS) {
      const edit = encodeManifest(editBody(snapshot.manifest, snapshot.name, manifest))
      if (edit.length <= Math.max(SMALL_EDIT_BYTES, snapshot.bytes / 4)) {
        await this.#put(name, edit, signal)
        this.#edits++
        return
      }
    }
    const bytes = encodeManifest(snapshotBody(manifest))
    const place = await this.#put(name, bytes, signal)
    this.#snapshot = { name, manifest, bytes: bytes.length }
    this.#edits = 0
    this.#dropBefore(this.#lastSnapshot)
    this.#lastSnapshot = place
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
