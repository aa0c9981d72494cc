/** One timeline's compaction: what is due, and the way from a plan by a job to the layer map. */
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { Lock } from '#libs/lock.ts'
import type { Layer } from '../layers/layer.ts'
import { LayerKind } from '../layers/layer-name.ts'
import type { Retention } from '../gc/retention.ts'
import type { ReadSource } from '../read/read-plan.ts'
import type { LayerStore } from '../timeline/layer-store.ts'
import type { StorageContext } from '../timeline/storage-context.ts'
import type { CompactionTarget } from './compactor.ts'
import { HistoryCompaction } from './history-compaction.ts'
import type { CompactionRunner, JobKind } from './job.ts'
import { describeLayers, enter } from './job-source.ts'
import { planL0 } from './l0-plan.ts'

export interface TimelineCompactionOptions {
  tenantId: TenantId
  timelineId: TimelineId
  store: LayerStore
  source: ReadSource
  retention: Retention
  context: StorageContext
}

export class TimelineCompaction implements CompactionTarget {
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
  /** Held by whatever replaces layers: one such work at a time in a timeline. */
  readonly lock = new Lock()
  readonly #store: LayerStore
  readonly #context: StorageContext
  readonly #history: HistoryCompaction
  readonly #closing = new AbortController()
  #borrowedOf: { version: number; found: readonly Layer[] } | null = null

  constructor(options: TimelineCompactionOptions) {
    this.tenantId = options.tenantId
    this.timelineId = options.timelineId
    this.#store = options.store
    this.#context = options.context
    this.#history = new HistoryCompaction({ ...options, signal: this.#closing.signal })
  }

  /** How much of a kind is due, comparable between timelines; 0 = nothing. */
  due(kind: JobKind): number {
    // A stale holder replaces nothing.
    if (this.#closing.signal.aborted || !this.#store.mayWrite) return 0
    if (kind === 'l0') {
      const { l0CompactCount } = this.#context.limits
      return this.#planL0(l0CompactCount) ? this.#store.layers.l0.length : 0
    }
    if (kind === 'images') return this.#history.imagesDue
    if (kind === 'own') return this.#ownDue
    return Math.max(this.#history.bottomDue, this.#history.l0Due)
  }

  /** Does one job of the kind, if it is still due then. `stop` ends it early, between two files. */
  async compact(kind: JobKind, runner: CompactionRunner, stop: AbortSignal): Promise<void> {
    if (kind === 'l0') {
      await this.#mergeL0(runner, this.#context.limits.l0CompactCount, stop)
      return
    }
    if (kind === 'own') {
      await this.#rewriteOwn(runner, stop)
      return
    }
    if (kind === 'bottom' && this.#history.l0Due > 0 && (await this.#mergeL0(runner, 1, stop)))
      return
    await this.lock.run(async () => {
      if (this.#closing.signal.aborted) return
      if (kind === 'images') await this.#history.makeImages(runner, stop)
      else await this.#history.compactBottom(runner, stop)
    })
  }

  /** Merges the L0 layers that lie side by side, however few. Returns whether there were some. */
  compactL0(minCount = 2): Promise<boolean> {
    return this.#mergeL0(this.#context.compactor.runner, minCount, null)
  }

  /**
   * Brings what is durable into images: merges the L0 layers, then makes images of every column in
   * which something changed.
   */
  async makeImages(): Promise<void> {
    let merged = true
    while (merged && !this.#closing.signal.aborted) merged = await this.compactL0(1)
    await this.lock.run(() => this.#history.makeAllImages(this.#context.compactor.runner))
  }

  /** Rewrites history below the cutoff wherever that gains anything. */
  async compactBottom(): Promise<void> {
    const { runner } = this.#context.compactor
    let more = true
    while (more && !this.#closing.signal.aborted) {
      more = await this.lock.run(() => this.#history.compactBottom(runner, null, true))
    }
  }

  /** Writes anew, with our keys alone, all that was taken over at a split. */
  async rewriteOwn(): Promise<void> {
    const { runner } = this.#context.compactor
    let more = true
    while (more && !this.#closing.signal.aborted) more = await this.#rewriteOwn(runner, null)
  }

  /** Ends what is under way, and starts nothing more. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.lock.idle()
  }

  get #ownDue(): number {
    const rest = this.#borrowed.filter(({ isL0 }) => !isL0).length
    // L0 layers can be merged once they are durable, and in their order.
    return rest > 0 || rest === this.#borrowed.length ? rest : this.#planL0(1) ? 1 : 0
  }

  /**
   * Layers that were taken over at a split. Those that were an ancestor's before are left to the
   * compaction of history.
   */
  get #borrowed(): readonly Layer[] {
    const { layers } = this.#store
    const { version } = layers
    if (this.#borrowedOf?.version !== version) {
      this.#borrowedOf = {
        version,
        found: layers.borrowed().filter(({ origin }) => origin === null),
      }
    }
    return this.#borrowedOf.found
  }

  /** One layer, or the L0 layers that lie side by side. False when there is none. */
  async #rewriteOwn(runner: CompactionRunner, stop: AbortSignal | null): Promise<boolean> {
    if (this.#borrowed.some(({ isL0 }) => isL0) && (await this.#mergeL0(runner, 1, stop))) {
      return true
    }
    return await this.lock.run(async () => {
      const layer = this.#borrowed.find(({ isL0 }) => !isL0)
      const closing = this.#closing.signal
      if (layer === undefined || closing.aborted) return false
      await layer.makeResident().catch(() => undefined)
      const add = await runner.run(
        {
          kind: 'own',
          tenantId: this.tenantId,
          timelineId: this.timelineId,
          source: describeLayers([layer]),
          owner: this.#store.owner,
          generation: this.#store.generation,
          ...this.#store.stripes,
          layerBytes:
            layer.id.kind === LayerKind.Image
              ? this.#context.limits.imageLayerBytes
              : this.#context.limits.l1LayerBytes,
        },
        stop ? AbortSignal.any([stop, closing]) : closing,
      )
      await enter(this.#store, add, [layer])
      return true
    })
  }

  #planL0(minCount: number): Layer[] | null {
    const { layers, durableLsn } = this.#store
    return planL0(layers, durableLsn + 1, minCount, this.#context.limits.l0CompactMax)
  }

  #mergeL0(runner: CompactionRunner, minCount: number, stop: AbortSignal | null): Promise<boolean> {
    return this.lock.run(async () => {
      const inputs = this.#planL0(minCount)
      const closing = this.#closing.signal
      if (!inputs || closing.aborted) return false
      const { tenantId, timelineId } = this
      // What lies in object storage only is fetched here, so that the job finds it on disk. Where
      // it cannot be, the job reads the object.
      for (const layer of inputs) await layer.makeResident().catch(() => undefined)
      const add = await runner.run(
        {
          kind: 'l0',
          tenantId,
          timelineId,
          source: describeLayers(inputs),
          owner: this.#store.owner,
          generation: this.#store.generation,
          ...this.#store.stripes,
          layerBytes: this.#context.limits.l1LayerBytes,
        },
        stop ? AbortSignal.any([stop, closing]) : closing,
      )
      await enter(this.#store, add, inputs)
      return true
    })
  }
}
