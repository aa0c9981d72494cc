/**
 * How a timeline's layers get into object storage: first the layers, then the manifest that names
 * them. Manifests are written one after the other, each as the change from the one before.
 *
 * What a manifest says is chosen in one step; one that names many layers is then written down in
 * slices. Meanwhile layers may come, by flushes, and are for the next manifest. None leaves: layers
 * leave in the step that follows the manifest without them.
 *
 * One that finds another writer of our generation ends all of them.
 */
import { assert, ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Layer } from '../layers/layer.ts'
import type { LayerList, LayerMap } from '../layers/layer-map.ts'
import type { Confirmation } from '../remote/confirmation.ts'
import { LayerUpload } from '../remote/layer-upload.ts'
import type { ManifestHead } from '../remote/manifest.ts'
import type { ManifestStore } from '../remote/manifest-store.ts'
import type { Attachment } from '../tenants/attachment.ts'
import type { StorageContext } from './storage-context.ts'

/** Up to where layers hold everything. */
export interface Reached {
  lsn: Lsn
  /** Start of the record that ends there, when known. */
  prevRecordLsn: Lsn | null
}

/** What of a manifest does not follow from flushes. */
export type TimelineHead = Omit<ManifestHead, 'diskConsistentLsn' | 'prevRecordLsn'>

export interface LayerPublisherOptions {
  context: StorageContext
  attachment: Attachment
  manifests: ManifestStore
  confirmation: Confirmation
  layers: LayerMap
  /** What the manifest that was loaded covers. */
  reached: Reached
  /** Aborted when the timeline closes. */
  signal: AbortSignal
  /** Takes names of objects that no manifest needs any more. */
  releaseObjects: (names: readonly string[]) => void
}

export class LayerPublisher {
  readonly #options: LayerPublisherOptions
  readonly #upload: LayerUpload
  /** On local disk and in the map, but not known to be in storage. */
  #held: Layer[] = []
  /** In storage and in the map, but in no manifest. */
  #unnamed: Layer[] = []
  /** All layers up to here are in storage: what the next manifest may say. */
  #reached: Reached
  #fenced: ZenithError | null = null
  #written: Promise<void> = Promise.resolve()

  constructor(options: LayerPublisherOptions) {
    this.#options = options
    this.#reached = options.reached
    this.#upload = new LayerUpload(options.context, options.signal)
  }

  /** Why nothing is published any more; null while it is. */
  get fenced(): ZenithError | null {
    return this.#fenced
  }

  /** True while the map has layers that are not in storage. */
  get isBehind(): boolean {
    return this.#held.length > 0
  }

  /** True until the layer is in storage. */
  holds(layer: Layer): boolean {
    return this.#held.includes(layer)
  }

  /** These have come into the map, and are to be published. */
  hold(layers: readonly Layer[]): void {
    this.#held.push(...layers)
    this.#upload.expect(layers)
  }

  /** Uploads what is held now; then all up to `reached` is in storage. */
  async uploadHeld(reached: Reached): Promise<void> {
    // A copy: layers that are written meanwhile are for the next round.
    const layers = [...this.#held]
    await this.#fencing(() => this.#upload.putAll(layers))
    this.#options.context.onStep?.('layer-uploaded')
    const done = new Set(layers)
    this.#held = this.#held.filter((layer) => !done.has(layer))
    this.#unnamed.push(...layers)
    this.#upload.forget(layers)
    this.#reached = reached
  }

  /** Uploads layers that are not in the map yet. */
  async upload(layers: readonly Layer[]): Promise<void> {
    this.#upload.expect(layers)
    try {
      await this.#fencing(() => this.#upload.putAll(layers))
    } finally {
      this.#upload.forget(layers)
    }
  }

  /**
   * Runs `prepare`, which gives what the next manifest says and what is new in it; writes that; then
   * runs `done` in the same step. No other manifest is written between.
   */
  write(
    prepare: () => { head: TimelineHead; added?: readonly Layer[]; removed?: readonly Layer[] },
    done: () => void = () => undefined,
  ): Promise<void> {
    const written = this.#written.then(async () => {
      const { head, added = [], removed = [] } = prepare()
      await this.#writeManifest(head, added, removed)
      done()
    })
    this.#written = written.catch(() => undefined)
    return written
  }

  /** Resolves when no manifest is being written. */
  async idle(): Promise<void> {
    await this.#written
  }

  /** What is held will not be published by us. */
  close(): void {
    this.#upload.forget(this.#held)
  }

  async #writeManifest(
    head: TimelineHead,
    added: readonly Layer[],
    removed: readonly Layer[],
  ): Promise<void> {
    const { attachment, manifests, confirmation, signal, releaseObjects } = this.#options
    attachment.checkMayWrite()
    const { lsn, prevRecordLsn } = this.#reached
    const unnamed = [...this.#unnamed]
    const leaving = new Set(removed)
    const edit = {
      added: [...unnamed.filter((layer) => !leaving.has(layer)), ...added].map(
        ({ entry }) => entry,
      ),
      removed: removed.map(({ key }) => key),
    }
    const full = { ...head, diskConsistentLsn: lsn, prevRecordLsn }
    const all = () => this.#allBut(removed, added)
    await this.#fencing(() => manifests.change(full, edit, all, signal))
    assert(this.#unnamed.length >= unnamed.length, 'one manifest is written at a time')
    this.#unnamed = this.#unnamed.slice(unnamed.length)
    confirmation.reached(lsn)
    releaseObjects(manifests.takeObsolete())
  }

  /** What a snapshot names, as it is now. */
  #allBut(removed: readonly Layer[], added: readonly Layer[]): LayerList {
    const leftOut = new Set([...removed, ...this.#held].map(({ row }) => row))
    const kept = this.#options.layers.entries((row) => leftOut.has(row))
    const more = added.map(({ entry }) => entry)
    const all = chained(kept, more)
    return { length: kept.length + more.length, [Symbol.iterator]: () => all }
  }

  /** Runs a write to storage. */
  async #fencing(write: () => Promise<void>): Promise<void> {
    if (this.#fenced) throw this.#fenced
    try {
      await write()
    } catch (error) {
      if (error instanceof ZenithError && error.code === 'fenced') this.#fenced = error
      throw error
    }
  }
}

function* chained<T>(first: Iterable<T>, second: Iterable<T>): Generator<T> {
  yield* first
  yield* second
}
