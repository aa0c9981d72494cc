/** The way into a job and back: what it reads, and how its result gets into the layer map. */
import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Lsn } from '#libs/lsn.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import { type KeyRange, rangesOverlap } from '../keyspace/key-range.ts'
import { MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import { type Layer, type LayerEntry, layerKey, type LayerPlace } from '../layers/layer.ts'
import type { ReadSource } from '../read/read-plan.ts'
import type { LayerStore } from '../timeline/layer-store.ts'
import type { JobTimeline } from './job.ts'

/** Sizes by the class that they are sizes of. */
const SIZE_CLASSES = [
  [KeyClass.RelBlock, KeyClass.RelSize],
  [KeyClass.SlruBlock, KeyClass.SlruSegSize],
] as const

/** Names a folder of layers in a `JobTimeline`. */
export function placeKey({ origin, splitFrom }: LayerPlace): string {
  return `${splitFrom ?? ''}/${origin ?? ''}`
}

/** Layers of one timeline, for a job. */
export function describeLayers(layers: readonly Layer[]): JobTimeline {
  const objectFolders: Record<string, string> = {}
  for (const layer of layers) objectFolders[placeKey(layer)] = dirname(layer.objectName)
  const [first] = layers
  return {
    folder: first ? dirname(first.path) : '',
    objectFolders,
    layers: layers.map((layer) => layer.entry),
    parent: null,
  }
}

/**
 * All layers that a read below `ceilingLsn` of keys of the range may need, and of the sizes of
 * relations and segments in it; the ancestors' too.
 */
export function describeRange(source: ReadSource, range: KeyRange, ceilingLsn: Lsn): JobTimeline {
  const { parent } = source
  return {
    ...describeLayers(layersOfRange(source, range, ceilingLsn)),
    parent: parent && {
      timeline: describeRange(parent.source, range, Math.min(ceilingLsn, parent.lsn + 1)),
      lsn: parent.lsn,
    },
  }
}

/** The layers that `describeRange` names of the source itself. */
export function layersOfRange(source: ReadSource, range: KeyRange, ceilingLsn: Lsn): Layer[] {
  const ranges = [range]
  for (const [cls, sizeCls] of SIZE_CLASSES) {
    if (rangesOverlap(range, classRange(cls))) ranges.push(classRange(sizeCls))
  }
  const found = new Set<Layer>()
  for (const { firstKey, lastKey } of ranges) {
    for (const layer of source.layers.overlapping(firstKey, lastKey)) {
      if (layer.id.startLsn < ceilingLsn) found.add(layer)
    }
  }
  return [...found]
}

/** True when all that the ancestors have below the branch points lies in layers, not in memory. */
export function isInLayers({ parent }: ReadSource): boolean {
  if (parent === null) return true
  const { source, lsn } = parent
  return source.memory.every((memory) => memory.startLsn > lsn) && isInLayers(source)
}

/** Enters a job's result. When that fails, its files are removed. */
export async function enter(
  store: LayerStore,
  add: readonly LayerEntry[],
  remove: readonly Layer[],
): Promise<void> {
  try {
    await store.change({ add, remove })
  } catch (error) {
    for (const entry of add) {
      if (store.layers.has(entry)) continue
      await rm(join(store.folder, layerKey(entry)), { force: true })
    }
    throw error
  }
}

function classRange(cls: number): KeyRange {
  return { firstKey: { ...MIN_KEY, cls }, lastKey: { ...MAX_KEY, cls } }
}
