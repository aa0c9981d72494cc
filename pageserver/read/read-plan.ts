/**
 * Finds the versions that give a batch of keys their values below a ceiling LSN (exclusive).
 *
 * For each key the plan is a list of steps, newest first: versions in memory, and rows of layers
 * whose chunks are still to be read. Planning needs only resident indexes, no data and no waiting,
 * so it sees one consistent state of memory and layer map. A row that might complete a key but
 * might not (its newest base lies above the ceiling) is followed by older rows; expansion stops at
 * the first base it meets.
 *
 * Order within a timeline: open, frozen (newest first), then layers: deltas down to the next image
 * of the key, the image, and again below it; then the ancestor with ceiling min(ceiling, ancestor LSN + 1), which only ever goes down.
 */
import type { Lsn } from '#libs/lsn.ts'
import { isBaseKind, isInheritedClass } from '../keyspace/key-class.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { Layer } from '../layers/layer.ts'
import { chunkEntryKind, chunkEntryLsn, chunkEntryValue } from '../layers/layer-format.ts'
import { type LayerIndex, visitDeltaRows } from '../layers/layer-index.ts'
import type { LayerMap } from '../layers/layer-map.ts'
import { compareToKey } from '../layers/layer-table.ts'
import { LayerKind } from '../layers/layer-name.ts'
import type { ReadStats } from './read-stats.ts'
import type { OpenLayer, VersionSink } from '../layers/open-layer.ts'

export interface Version {
  kind: number
  lsn: Lsn
  value: Buffer
}

interface StoredRow {
  layer: Layer
  index: LayerIndex
  row: number
  /** Only versions from here on count, */
  floorLsn: Lsn
  /** and below here. */
  ceilingLsn: Lsn
}

type Step = Version | StoredRow

/** What a timeline offers to a read. */
export interface ReadSource {
  readonly slots: SlotTable
  /** Open layer, then frozen ones, newest first. */
  readonly memory: readonly OpenLayer[]
  readonly layers: LayerMap
  /** Counts what reads that begin here visit. */
  readonly stats?: ReadStats
  readonly parent: { source: ReadSource; lsn: Lsn } | null
}

class KeyPlan implements VersionSink {
  readonly slot: number
  readonly blk: number
  readonly steps: Step[] = []
  /** Versions of deltas count below it. */
  ceilingLsn: Lsn
  /**
   * Images count below it. An image that lacks the key says that no version lies between its floor
   * and its LSN, so it lowers the ceiling of deltas; another image in between that tells of what lies
   * below the floor is as good as one at the floor, and may be the only one that is left.
   */
  imageCeilingLsn: Lsn
  done = false
  /** Layers whose index was searched. */
  searched = 0
  #layer: Layer | null = null
  #index: LayerIndex | null = null
  #floorLsn: Lsn = 0

  constructor(slot: number, blk: number, ceilingLsn: Lsn) {
    this.slot = slot
    this.blk = blk
    this.ceilingLsn = ceilingLsn
    this.imageCeilingLsn = ceilingLsn
  }

  lowerTo(ceilingLsn: Lsn): void {
    this.ceilingLsn = Math.min(this.ceilingLsn, ceilingLsn)
    this.imageCeilingLsn = Math.min(this.imageCeilingLsn, ceilingLsn)
  }

  push(kind: number, lsn: Lsn, value: Buffer): void {
    this.steps.push({ kind, lsn, value })
  }

  from(layer: Layer, index: LayerIndex, floorLsn: Lsn): this {
    this.#layer = layer
    this.#index = index
    this.#floorLsn = floorLsn
    return this
  }

  visit(row: number): void {
    this.steps.push({
      layer: this.#layer as Layer,
      index: this.#index as LayerIndex,
      row,
      floorLsn: this.#floorLsn,
      ceilingLsn: this.ceilingLsn,
    })
  }

  visitImage(layer: Layer, index: LayerIndex, row: number): void {
    this.steps.push({ layer, index, row, floorLsn: 0, ceilingLsn: this.imageCeilingLsn })
  }
}

export interface KeyRef {
  slot: number
  blk: number
}

/**
 * The versions of each key, newest first, ending with one that needs nothing older when there is
 * one. Reads chunks as needed. Throws `corrupt` for damaged layers.
 */
export async function readVersions(
  source: ReadSource,
  keys: readonly KeyRef[],
  ceilingLsn: Lsn,
): Promise<Version[][]> {
  const indexes = new Indexes()
  for (;;) {
    const plans = keys.map((key) => new KeyPlan(key.slot, key.blk, ceilingLsn))
    planSource(source, plans, indexes)
    if (indexes.isComplete) return await expand(plans, source.stats)
    await indexes.load()
  }
}

/** The indexes that a read uses. Those it had to load it holds to its end. */
class Indexes {
  /** Mostly all are at hand, so these are made when needed. */
  #held: Map<Layer, LayerIndex> | null = null
  #missing: Set<Layer> | null = null

  get isComplete(): boolean {
    return this.#missing === null
  }

  /** Null when it is to be loaded first. */
  of(layer: Layer): LayerIndex | null {
    const index = layer.residentIndex ?? this.#held?.get(layer) ?? null
    if (index === null) {
      this.#missing ??= new Set()
      this.#missing.add(layer)
    }
    return index
  }

  async load(): Promise<void> {
    const missing = [...(this.#missing ?? [])]
    const held = (this.#held ??= new Map())
    this.#missing = null
    await Promise.all(
      missing.map(async (layer) => {
        held.set(layer, await layer.load())
      }),
    )
  }
}

function planSource(source: ReadSource, plans: readonly KeyPlan[], indexes: Indexes): void {
  let at: ReadSource = source
  let open = plans
  for (;;) {
    for (const memory of at.memory) planMemory(memory, open)
    let column = 0
    for (const plan of open) {
      if (plan.done) continue
      column = at.layers.columnOf(at.slots, plan.slot, plan.blk, column)
      planLayers(at.layers, column, at.slots, plan, indexes)
    }
    const { parent, slots } = at
    if (parent === null) return
    open = open.filter((plan) => !plan.done && isInheritedClass(slots.cls(plan.slot)))
    if (open.length === 0) return
    for (const plan of open) plan.lowerTo(parent.lsn + 1)
    at = parent.source
  }
}

function planMemory(memory: OpenLayer, plans: readonly KeyPlan[]): void {
  for (const plan of plans) {
    if (plan.done || plan.ceilingLsn <= memory.startLsn) continue
    const key = memory.find(plan.slot, plan.blk)
    if (key >= 0 && memory.collect(key, plan.ceilingLsn, plan)) plan.done = true
  }
}

/**
 * Plans a key's way down through the layers of one timeline: the deltas above the next image that
 * covers the key, then that image. An image that lacks the key says that nothing happened to it
 * from the image's floor on, and the way goes on below that.
 *
 * A delta may span an image's LSN: what it holds at or below that LSN is looked at only when the
 * way goes on below the image. An index that is not loaded is noted; the key is planned anew then.
 */
function planLayers(
  map: LayerMap,
  column: number,
  slots: SlotTable,
  plan: KeyPlan,
  indexes: Indexes,
): void {
  const { images, deltas } = map.column(column)
  for (let next = 0; ; next++) {
    while (next < images.length && !isBelow(images[next] as Layer, slots, plan)) next++
    const image = images[next]
    const floorLsn = image ? image.id.startLsn + 1 : 0
    const isComplete = planDeltas(map.l0, deltas, floorLsn, slots, plan, indexes)
    if (plan.done || !image) return
    const index = indexes.of(image)
    // The rest is planned when these are loaded, and then perhaps not needed.
    if (!isComplete || index === null) return
    if (image.ceilingLsn !== null) plan.lowerTo(image.ceilingLsn)
    const group = index.findGroup(plan.slot)
    const row = group < 0 ? -1 : index.findLastRow(group, plan.blk)
    plan.searched++
    if (row >= 0) {
      plan.visitImage(image, index, row)
      plan.done = true
      return
    }
    plan.ceilingLsn = Math.min(plan.ceilingLsn, image.id.floorLsn)
  }
}

/** Both lists in one order, highest end LSN first. False when some index is not loaded. */
function planDeltas(
  l0: readonly Layer[],
  deltas: readonly Layer[],
  floorLsn: Lsn,
  slots: SlotTable,
  plan: KeyPlan,
  indexes: Indexes,
): boolean {
  let isComplete = true
  let nextL0 = 0
  let nextDelta = 0
  while (!plan.done) {
    const first = l0[nextL0]
    const second = deltas[nextDelta]
    const takesL0 = first && (!second || first.endLsn >= second.endLsn)
    const layer = takesL0 ? first : second
    if (!layer || layer.endLsn <= floorLsn) break
    if (takesL0) nextL0++
    else nextDelta++
    if (!isBelow(layer, slots, plan)) continue
    const index = indexes.of(layer)
    if (index === null) {
      isComplete = false
      continue
    }
    // Layers come by the end of what counts in them, so nothing further down lies above this.
    if (layer.ceilingLsn !== null) plan.lowerTo(layer.ceilingLsn)
    plan.searched++
    const group = index.findGroup(plan.slot)
    if (group < 0) continue
    const visitor = plan.from(layer, index, floorLsn)
    plan.done = visitDeltaRows(index, group, plan.blk, floorLsn, plan.ceilingLsn, visitor)
  }
  return isComplete
}

/** True when the layer may hold versions of the key that the plan still wants. */
function isBelow(layer: Layer, slots: SlotTable, plan: KeyPlan): boolean {
  const { id } = layer
  const { slot, blk } = plan
  const isImage = id.kind === LayerKind.Image
  const ceilingLsn = isImage ? plan.imageCeilingLsn : plan.ceilingLsn
  if (id.startLsn >= ceilingLsn || id.startLsn >= layer.endLsn) return false
  // An image that tells of nothing below one that lacks the key tells of something that is gone.
  if (isImage && id.floorLsn >= plan.ceilingLsn) return false
  const isForeign = layer.origin !== null || layer.splitFrom !== undefined
  if (isForeign && !layer.counts(slot, blk)) return false
  return (
    layer.isL0 ||
    (compareToKey(slots, slot, blk, id.firstKey) >= 0 &&
      compareToKey(slots, slot, blk, id.lastKey) <= 0)
  )
}

/** Reads the chunks that the plans name, all at once, and turns rows into versions. */
async function expand(
  plans: readonly KeyPlan[],
  stats: ReadStats | undefined,
): Promise<Version[][]> {
  const single = plans.length === 1 ? plans[0] : undefined
  if (single?.steps.length === 1) {
    const only = single.steps[0] as Step
    if ('row' in only) {
      stats?.count(1, single.searched)
      const found = await only.layer.readChunks([only.index.chunkOf(only.row)], only.index)
      return [expandPlan(single, new Map([[only.layer, found]]))]
    }
  }
  const wanted = new Map<Layer, { index: LayerIndex; chunks: Set<number> }>()
  for (const plan of plans) {
    let last: Layer | null = null
    let visited = 0
    for (const step of plan.steps) {
      if (!('row' in step)) continue
      const { layer, index } = step
      const chunk = index.chunkOf(step.row)
      const already = wanted.get(layer)
      if (already) already.chunks.add(chunk)
      else wanted.set(layer, { index, chunks: new Set([chunk]) })
      if (layer !== last) visited++
      last = layer
    }
    stats?.count(visited, plan.searched)
  }
  if (wanted.size === 0) return plans.map((plan) => plan.steps as Version[])
  const chunks = new Map<Layer, Map<number, Buffer>>()
  await Promise.all(
    [...wanted].map(async ([layer, { index, chunks: numbers }]) => {
      chunks.set(layer, await layer.readChunks([...numbers], index))
    }),
  )
  return plans.map((plan) => expandPlan(plan, chunks))
}

function expandPlan(plan: KeyPlan, chunks: Map<Layer, Map<number, Buffer>>): Version[] {
  const versions: Version[] = []
  for (const step of plan.steps) {
    if (!('row' in step)) {
      versions.push(step)
      continue
    }
    const { layer, index, row, floorLsn, ceilingLsn } = step
    const chunk = chunks.get(layer)?.get(index.chunkOf(row)) as Buffer
    const first = index.entryOf(row)
    for (let entry = first + index.countOf(row) - 1; entry >= first; entry--) {
      const lsn = chunkEntryLsn(chunk, entry)
      if (lsn >= ceilingLsn) continue
      if (lsn < floorLsn) break
      const kind = chunkEntryKind(chunk, entry)
      versions.push({ kind, lsn, value: chunkEntryValue(chunk, entry) })
      if (isBaseKind(kind)) return versions
    }
  }
  return versions
}
