/** Uploads one timeline's layers, several at once, and tells a second writer from a repetition. */
import { ZenithError } from '#libs/errors.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { Semaphore } from '#libs/semaphore.ts'
import type { Layer } from '../layers/layer.ts'
import { FOOTER_SIZE, footerCrc } from '../layers/layer-format.ts'
import type { Deletions } from './deletions.ts'
import { orStopped, retry } from './retry.ts'
import type { UploadQueue } from './upload-queue.ts'

/** Layers of one timeline uploaded at once. */
const AT_ONCE = 4

export interface LayerUploadContext {
  store: ObjectStore
  uploads: UploadQueue
  deletions: Deletions
}

export class LayerUpload {
  readonly #context: LayerUploadContext
  readonly #signal: AbortSignal
  readonly #slots = new Semaphore(AT_ONCE)
  readonly #expected = new Set<Layer>()

  /** When the signal is aborted, waiting and retries end with `unavailable`. */
  constructor(context: LayerUploadContext, signal: AbortSignal) {
    this.#context = context
    this.#signal = signal
  }

  /** The layers exist on local disk only, and count as such until `forget`. */
  expect(layers: readonly Layer[]): void {
    for (const layer of layers) {
      if (this.#expected.has(layer)) continue
      this.#expected.add(layer)
      layer.isOnlyCopy = true
      layer.lastAccessMs = Date.now()
      this.#context.uploads.expect(layer.sizeBytes)
    }
  }

  /** Layers that will not be uploaded any more. */
  forget(layers: readonly Layer[]): void {
    for (const layer of layers) {
      if (this.#expected.delete(layer)) this.#context.uploads.done(layer.sizeBytes)
    }
  }

  /**
   * Resolves when all are in storage. Failures are tried again; `fenced` means that another process
   * has written an object of our generation.
   */
  async putAll(layers: readonly Layer[]): Promise<void> {
    const results = await Promise.allSettled(
      layers.map((layer) => this.#slots.run(() => this.#put(layer))),
    )
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }

  async #put(layer: Layer): Promise<void> {
    const { uploads, deletions } = this.#context
    // Done by an earlier attempt, of which another layer failed.
    if (!layer.isOnlyCopy) return
    // A layer of the same name may have left the map and be on its way out.
    await orStopped(deletions.settle([layer.objectName]), this.#signal)
    try {
      await uploads.putFile(layer.objectName, layer.path, this.#signal)
    } catch (error) {
      if (!(error instanceof ZenithError) || error.code !== 'already_exists') throw error
      // An earlier attempt of ours may have gone through; anything else is a second writer.
      if (!(await retry(() => this.#isOurs(layer), { signal: this.#signal }))) {
        throw new ZenithError('fenced', `another page server has written ${layer.objectName}`, {
          cause: error,
          hint: 'Two page servers hold this tenant under one generation. Restart the one that should.',
        })
      }
    }
    layer.isOnlyCopy = false
  }

  async #isOurs(layer: Layer): Promise<boolean> {
    const { store } = this.#context
    const { objectName, sizeBytes, crc } = layer
    if ((await store.size(objectName)) !== sizeBytes) return false
    const footer = await store.getRange(objectName, sizeBytes - FOOTER_SIZE, FOOTER_SIZE)
    return footerCrc(footer) === crc
  }
}
