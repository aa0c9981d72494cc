/** Finds every key of a class that a timeline or its ancestors ever stored below an LSN. */
import type { Lsn } from '#libs/lsn.ts'
import { isInheritedClass } from '../keyspace/key-class.ts'
import { MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { Layer } from '../layers/layer.ts'
import type { LayerIndex } from '../layers/layer-index.ts'
import type { KeyRef, ReadSource } from './read-plan.ts'

export interface ScanFilter {
  spc?: number
  db?: number
}

/** In key order. A key may turn out to have no live value. */
export async function scanKeys(
  source: ReadSource,
  cls: number,
  ceilingLsn: Lsn,
  filter: ScanFilter,
): Promise<KeyRef[]> {
  const { slots } = source
  const found = new Map<number, Set<number>>()
  const add = (slot: number, blk: number) => {
    const blks = found.get(slot)
    if (blks) blks.add(blk)
    else found.set(slot, new Set([blk]))
  }
  let at: ReadSource | null = source
  let ceiling = ceilingLsn
  while (at !== null) {
    for (const memory of at.memory) {
      for (let key = 0; key < memory.keyCount; key++) {
        const slot = memory.keySlot(key)
        if (slots.cls(slot) === cls && passes(slots, slot, filter)) add(slot, memory.keyBlk(key))
      }
    }
    const layers: Layer[] = at.layers
      .overlapping({ ...MIN_KEY, cls }, { ...MAX_KEY, cls })
      .filter(
        ({ id, origin }) => id.startLsn < ceiling && (origin === null || isInheritedClass(cls)),
      )
    const { parent }: ReadSource = at
    const indexes = await Promise.all(layers.map((layer) => layer.load()))
    for (const [at, index] of indexes.entries()) {
      addLayerKeys(layers[at] as Layer, index, slots, cls, filter, add)
    }
    if (parent === null || !isInheritedClass(cls)) break
    ceiling = Math.min(ceiling, parent.lsn + 1)
    at = parent.source
  }
  const keys: KeyRef[] = []
  for (const slot of [...found.keys()].sort((a, b) => slots.compare(a, b))) {
    const blks = [...(found.get(slot) as Set<number>)].sort((a, b) => a - b)
    for (const blk of blks) keys.push({ slot, blk })
  }
  return keys
}

function addLayerKeys(
  layer: Layer,
  index: LayerIndex,
  slots: SlotTable,
  cls: number,
  filter: ScanFilter,
  add: (slot: number, blk: number) => void,
): void {
  const { groupFirstRow, rowBlk } = index.columns
  for (let group = index.firstGroupOfClass(cls); group < index.counts.groups; group++) {
    const slot = index.groupSlot[group] as number
    if (slots.cls(slot) !== cls) break
    if (!passes(slots, slot, filter) || !layer.countsPrefix(slot)) continue
    const last = groupFirstRow[group + 1] as number
    for (let row = groupFirstRow[group] as number; row < last; row++) {
      const blk = rowBlk[row] as number
      if (layer.counts(slot, blk)) add(slot, blk)
    }
  }
}

function passes(slots: SlotTable, slot: number, filter: ScanFilter): boolean {
  if (filter.spc !== undefined && slots.spc(slot) !== filter.spc) return false
  return filter.db === undefined || slots.db(slot) === filter.db
}
