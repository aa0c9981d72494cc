/** When a timeline gets image layers, and of what: one run at a time, over durable history only. */
import type { Lock } from '#libs/lock.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Layer } from '../layers/layer.ts'
import type { LayerMap } from '../layers/layer-map.ts'
import { LayerKind } from '../layers/layer-name.ts'
import type { ReadSource } from '../read/read-plan.ts'
import { buildImages } from './image-builder.ts'
import type { LayerStore } from './layer-store.ts'
import type { StorageContext } from './storage-context.ts'

export interface ImagePlan {
  /** Layers whose keys are imaged. */
  inputs: Layer[]
  floorLsn: Lsn
}

/**
 * What images at `imageLsn` are made of: the deltas since the last images; after `maxImageSets`
 * sets also those, so that one set stands for all. Null when nothing changed. `oldestLsn` is the
 * lowest LSN that a version of the timeline itself can have.
 */
export function planImages(
  layers: LayerMap,
  imageLsn: Lsn,
  oldestLsn: Lsn,
  maxImageSets: number,
): ImagePlan | null {
  const deltas = layers.deltasAboveImages.filter((layer) => layer.id.endLsn <= imageLsn + 1)
  if (deltas.length === 0) return null
  const { newestImageLsn } = layers
  if (newestImageLsn > 0 && layers.imageLsns.length < maxImageSets) {
    return { inputs: deltas, floorLsn: newestImageLsn + 1 }
  }
  const images = layers.newestFirst.filter((layer) => layer.id.kind === LayerKind.Image)
  return { inputs: [...deltas, ...images], floorLsn: oldestLsn }
}

export class ImageMaker {
  readonly #store: LayerStore
  readonly #source: ReadSource
  readonly #context: StorageContext
  readonly #lock: Lock
  /** Ends, without failing, when all runs asked for so far have ended. */
  #last: Promise<void> = Promise.resolve()
  #waiting = 0

  constructor(store: LayerStore, source: ReadSource, context: StorageContext, lock: Lock) {
    this.#lock = lock
    this.#store = store
    this.#source = source
    this.#context = context
  }

  get isRunning(): boolean {
    return this.#waiting > 0
  }

  /** True when reads of the tip may have to visit many deltas. */
  get isDue(): boolean {
    return this.#store.layers.deltasAboveImages.length >= this.#context.limits.imageAfterDeltas
  }

  /**
   * Stored bytes of deltas that reads of the tip replay from. An import at one LSN holds pages, not
   * records, and counts nothing.
   */
  get replayBytes(): number {
    return this.#store.layers.deltasAboveImages
      .filter(({ id }) => id.endLsn > id.startLsn + 1)
      .reduce((sum, layer) => sum + layer.sizeBytes, 0)
  }

  /** Makes images at what is durable now, after the run under way, if any. */
  make(): Promise<void> {
    this.#waiting++
    const run = this.#last.then(() => this.#lock.run(() => this.#make()))
    this.#last = run
      .catch(() => undefined)
      .finally(() => {
        this.#waiting--
      })
    return run
  }

  /** Resolves when no run is under way, however it ended. */
  idle(): Promise<void> {
    return this.#last
  }

  async #make(): Promise<void> {
    const store = this.#store
    const { limits, appliers } = this.#context
    const imageLsn = store.durableLsn
    // A branch's own versions lie above its branch point; at that LSN the ancestor answers.
    const oldestLsn = this.#source.parent ? store.facts.startLsn + 1 : store.facts.startLsn
    const plan = planImages(store.layers, imageLsn, oldestLsn, limits.maxImageSets)
    if (!plan) return
    await Promise.all(plan.inputs.map((layer) => layer.load()))
    const entries = await buildImages({
      ...plan,
      source: this.#source,
      imageLsn,
      folder: store.folder,
      owner: store.owner,
      generation: store.generation,
      layerBytes: limits.imageLayerBytes,
      appliers,
    })
    await store.change({ add: entries })
  }
}
