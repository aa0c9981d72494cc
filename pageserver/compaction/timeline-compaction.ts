/** One timeline's compaction: what is due, and the way from a plan by a job to the layer map. */
import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { Lock } from '#libs/lock.ts'
import { type Layer, type LayerEntry, layerKey } from '../layers/layer.ts'
import type { ReadSource } from '../read/read-plan.ts'
import type { LayerStore } from '../timeline/layer-store.ts'
import type { StorageContext } from '../timeline/storage-context.ts'
import type { CompactionTarget } from './compactor.ts'
import type { CompactionRunner, JobKind, JobTimeline } from './job.ts'
import { planL0 } from './l0-plan.ts'

export interface TimelineCompactionOptions {
  tenantId: TenantId
  timelineId: TimelineId
  store: LayerStore
  source: ReadSource
  context: StorageContext
}

export class TimelineCompaction implements CompactionTarget {
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
  /** Held by whatever replaces layers: one such work at a time in a timeline. */
  readonly lock = new Lock()
  readonly #store: LayerStore
  readonly #context: StorageContext
  readonly #closing = new AbortController()

  constructor(options: TimelineCompactionOptions) {
    this.tenantId = options.tenantId
    this.timelineId = options.timelineId
    this.#store = options.store
    this.#context = options.context
  }

  due(kind: JobKind): number {
    if (this.#closing.signal.aborted) return 0
    if (kind === 'l0') {
      const { l0CompactCount } = this.#context.limits
      return this.#planL0(l0CompactCount) ? this.#store.layers.l0.length : 0
    }
    return 0
  }

  async compact(kind: JobKind, runner: CompactionRunner, stop: AbortSignal): Promise<void> {
    if (kind !== 'l0') return
    await this.#mergeL0(runner, this.#context.limits.l0CompactCount, stop)
  }

  /** Merges the L0 layers that lie side by side, however few. Returns whether there were some. */
  compactL0(): Promise<boolean> {
    return this.#mergeL0(this.#context.compactor.runner, 2, null)
  }

  /** Ends what is under way, and starts nothing more. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.lock.idle()
  }

  /** Files of a change that did not come about. */
  async #forget(entries: readonly LayerEntry[]): Promise<void> {
    const held = new Set(this.#store.layers.newestFirst.map((layer) => layer.key))
    for (const entry of entries) {
      const name = layerKey(entry)
      if (!held.has(name)) await rm(join(this.#store.folder, name), { force: true })
    }
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
          layerBytes: this.#context.limits.l1LayerBytes,
        },
        stop ? AbortSignal.any([stop, closing]) : closing,
      )
      try {
        await this.#store.change({ add, remove: inputs })
      } catch (error) {
        await this.#forget(add)
        throw error
      }
      return true
    })
  }
}

/** Layers of one timeline, for a job. */
export function describeLayers(layers: readonly Layer[]): JobTimeline {
  const objectFolders: Record<string, string> = {}
  for (const layer of layers) objectFolders[layer.origin ?? ''] = dirname(layer.objectName)
  const [first] = layers
  return {
    folder: first ? dirname(first.path) : '',
    objectFolders,
    layers: layers.map((layer) => layer.entry),
    parent: null,
  }
}

/** All that a read of a timeline may need, its ancestors' layers included, for a job. */
export function describeSource(source: ReadSource): JobTimeline {
  const { parent } = source
  return {
    ...describeLayers(source.layers.newestFirst),
    parent: parent && { timeline: describeSource(parent.source), lsn: parent.lsn },
  }
}
