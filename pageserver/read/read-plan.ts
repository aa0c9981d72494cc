/**
 * Finds the versions that give a batch of keys their values below a ceiling LSN (exclusive).
 *
 * For each key the plan is a list of steps, newest first: versions in memory, and rows of layers
 * whose chunks are still to be read. Planning needs only resident indexes, no data and no waiting,
 * so it sees one consistent state of memory and layer map. A row that might complete a key but
 * might not (its newest base lies above the ceiling) is followed by older rows; expansion stops at
 * the first base it meets.
 *
 * Order within a timeline: open, frozen (newest first), layers by the layer map's order, then the
 * ancestor with ceiling min(ceiling, ancestor LSN + 1), which only ever goes down.
 */
import type { Lsn } from '#libs/lsn.ts'
import { isBaseKind, isInheritedClass } from '../keyspace/key-class.ts'
import type { Key } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { Layer } from '../layers/layer.ts'
import { chunkEntryKind, chunkEntryLsn, chunkEntryValue } from '../layers/layer-format.ts'
import { visitDeltaRows } from '../layers/layer-index.ts'
import type { LayerMap } from '../layers/layer-map.ts'
import { LayerKind } from '../layers/layer-name.ts'
import type { OpenLayer, VersionSink } from '../layers/open-layer.ts'

export interface Version {
  kind: number
  lsn: Lsn
  value: Buffer
}

interface StoredRow {
  layer: Layer
  row: number
  /** Only versions below count. */
  ceilingLsn: Lsn
}

type Step = Version | StoredRow

/** What a timeline offers to a read. */
export interface ReadSource {
  readonly slots: SlotTable
  /** Open layer, then frozen ones, newest first. */
  readonly memory: readonly OpenLayer[]
  readonly layers: LayerMap
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
   * and its LSN, so it lowers the ceiling of deltas; another image in between is as good as one at
   * the floor, and may be the only one that is left.
   */
  imageCeilingLsn: Lsn
  done = false
  #layer: Layer | null = null

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

  from(layer: Layer): this {
    this.#layer = layer
    return this
  }

  visit(row: number): void {
    this.steps.push({ layer: this.#layer as Layer, row, ceilingLsn: this.ceilingLsn })
  }

  visitImage(layer: Layer, row: number): void {
    this.steps.push({ layer, row, ceilingLsn: this.imageCeilingLsn })
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
  for (;;) {
    const plans = keys.map((key) => new KeyPlan(key.slot, key.blk, ceilingLsn))
    const unloaded = new Set<Layer>()
    planSource(source, plans, unloaded)
    if (unloaded.size === 0) return await expand(plans)
    await Promise.all([...unloaded].map((layer) => layer.load()))
  }
}

function planSource(source: ReadSource, plans: readonly KeyPlan[], unloaded: Set<Layer>): void {
  let at: ReadSource = source
  let open = plans
  for (;;) {
    for (const memory of at.memory) planMemory(memory, open)
    open = open.filter((plan) => !plan.done)
    for (const layer of at.layers.newestFirst) {
      if (open.length === 0) return
      if (planLayer(layer, at.slots, open, unloaded)) open = open.filter((plan) => !plan.done)
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

/** Returns true when some key was completed. */
function planLayer(
  layer: Layer,
  slots: SlotTable,
  plans: readonly KeyPlan[],
  unloaded: Set<Layer>,
): boolean {
  const { id } = layer
  let completed = false
  let slot = -1
  let group = -1
  for (const plan of plans) {
    const isImage = id.kind === LayerKind.Image
    const ceilingLsn = isImage ? plan.imageCeilingLsn : plan.ceilingLsn
    if (plan.done || id.startLsn >= ceilingLsn) continue
    if (layer.origin !== null && !isInheritedClass(slots.cls(plan.slot))) continue
    if (!covers(id.firstKey, id.lastKey, slots, plan)) continue
    if (!layer.isLoaded) {
      unloaded.add(layer)
      continue
    }
    // Layers come by the end of what counts in them, so nothing further down lies above this.
    if (layer.ceilingLsn !== null) plan.lowerTo(layer.ceilingLsn)
    if (plan.slot !== slot) {
      slot = plan.slot
      group = layer.index.findGroup(slot)
    }
    if (!isImage) {
      if (group < 0) continue
      plan.done = visitDeltaRows(layer.index, group, plan.blk, plan.ceilingLsn, plan.from(layer))
    } else {
      const row = group < 0 ? -1 : layer.index.findLastRow(group, plan.blk)
      if (row >= 0) {
        plan.visitImage(layer, row)
        plan.done = true
      } else {
        plan.ceilingLsn = Math.min(plan.ceilingLsn, id.floorLsn)
      }
    }
    completed ||= plan.done
  }
  return completed
}

function covers(first: Key, last: Key, slots: SlotTable, plan: KeyPlan): boolean {
  return compareTo(slots, plan, first) >= 0 && compareTo(slots, plan, last) <= 0
}

function compareTo(slots: SlotTable, plan: KeyPlan, key: Key): number {
  const { slot } = plan
  return (
    slots.cls(slot) - key.cls ||
    slots.spc(slot) - key.spc ||
    slots.db(slot) - key.db ||
    slots.rel(slot) - key.rel ||
    slots.fork(slot) - key.fork ||
    plan.blk - key.blk
  )
}

/** Reads the chunks that the plans name, all at once, and turns rows into versions. */
async function expand(plans: readonly KeyPlan[]): Promise<Version[][]> {
  const wanted = new Map<Layer, Set<number>>()
  for (const plan of plans) {
    for (const step of plan.steps) {
      if (!('row' in step)) continue
      const chunk = step.layer.index.columns.rowChunk[step.row] as number
      const chunks = wanted.get(step.layer)
      if (chunks) chunks.add(chunk)
      else wanted.set(step.layer, new Set([chunk]))
    }
  }
  if (wanted.size === 0) return plans.map((plan) => plan.steps as Version[])
  const chunks = new Map<Layer, Map<number, Buffer>>()
  await Promise.all(
    [...wanted].map(async ([layer, numbers]) => {
      chunks.set(layer, await layer.readChunks([...numbers]))
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
    const { layer, row, ceilingLsn } = step
    const { rowChunk, rowEntry, rowCount } = layer.index.columns
    const chunk = chunks.get(layer)?.get(rowChunk[row] as number) as Buffer
    const first = rowEntry[row] as number
    for (let entry = first + (rowCount[row] as number) - 1; entry >= first; entry--) {
      const lsn = chunkEntryLsn(chunk, entry)
      if (lsn >= ceilingLsn) continue
      const kind = chunkEntryKind(chunk, entry)
      versions.push({ kind, lsn, value: chunkEntryValue(chunk, entry) })
      if (isBaseKind(kind)) return versions
    }
  }
  return versions
}
