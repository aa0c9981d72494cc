/**
 * Reads the newest manifest of a timeline and writes its successors, one at a time, under our own
 * generation only. A write that finds its name taken means that another process uses the same
 * generation: we are fenced and must stop writing.
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

export class ManifestStore {
  readonly #store: ObjectStore
  readonly #folder: string
  readonly #generation: number
  #sequence = 0
  #lastName = ''
  #snapshot: { name: string; manifest: Manifest; bytes: number } | null = null
  #edits = 0
  #writing = false

  /** `folder` is the timeline's folder of manifests in object storage. */
  constructor(store: ObjectStore, folder: string, generation: number) {
    this.#store = store
    this.#folder = folder
    this.#generation = generation
  }

  /** Object of the manifest last read or written; empty when there is none. */
  get lastName(): string {
    return this.#lastName
  }

  /** The newest manifest of our or a lower generation; null when there is none. */
  async load(): Promise<Manifest | null> {
    const { objects } = await this.#store.list(this.#folder, { delimited: true })
    let newest: { name: string; generation: number; sequence: number } | null = null
    for (const { name: path } of objects) {
      const name = path.slice(path.lastIndexOf('/') + 1)
      const match = NAME.exec(name)
      if (!match) continue
      const generation = Number.parseInt(match[1] as string, 16)
      const sequence = Number.parseInt(match[2] as string, 16)
      if (generation > this.#generation) continue
      if (generation === this.#generation) this.#sequence = Math.max(this.#sequence, sequence)
      const newer =
        newest === null ||
        generation > newest.generation ||
        (generation === newest.generation && sequence > newest.sequence)
      if (newer) newest = { name, generation, sequence }
    }
    if (newest === null) return null
    this.#lastName = `${this.#folder}/${newest.name}`
    const body = await this.#read(newest.name)
    if (body.kind === 'snapshot') return manifestOf(body, null)
    return manifestOf(await this.#read(body.snapshot), body)
  }

  /** Durable when it resolves. Throws `fenced` when the name is taken. */
  async write(manifest: Manifest): Promise<void> {
    assert(!this.#writing, 'one manifest is written at a time')
    this.#writing = true
    try {
      await this.#write(manifest)
    } finally {
      this.#writing = false
    }
  }

  async #write(manifest: Manifest): Promise<void> {
    const name = manifestName(this.#generation, this.#sequence + 1)
    const snapshot = this.#snapshot
    if (snapshot && this.#edits < MAX_EDITS) {
      const edit = encodeManifest(editBody(snapshot.manifest, snapshot.name, manifest))
      if (edit.length <= Math.max(SMALL_EDIT_BYTES, snapshot.bytes / 4)) {
        await this.#put(name, edit)
        this.#edits++
        return
      }
    }
    const bytes = encodeManifest(snapshotBody(manifest))
    await this.#put(name, bytes)
    this.#snapshot = { name, manifest, bytes: bytes.length }
    this.#edits = 0
  }

  async #put(name: string, bytes: Buffer): Promise<void> {
    const path = `${this.#folder}/${name}`
    try {
      await this.#store.put(path, bytes)
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
    this.#sequence++
    this.#lastName = path
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
