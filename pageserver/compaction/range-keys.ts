/** The keys of a range that layers hold, from their indexes alone. */
import { isPageClass, KeyClass, ValueKind } from '../keyspace/key-class.ts'
import type { KeyRange } from '../keyspace/key-range.ts'
import { type Key, MAX_BLOCK } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { Layer } from '../layers/layer.ts'
import type { Lsn } from '#libs/lsn.ts'
import { type ReadSource, readVersions } from '../read/read-plan.ts'

/** Keys of one prefix, in block order, each once. */
export interface SlotKeys {
  slot: number
  blks: Uint32Array
}

/** A layer whose index is held. */
export type IndexedLayer = Pick<Layer, 'index' | 'splitFrom' | 'countsPrefix' | 'counts'>

/** Loads a layer's index and holds it, while the layer itself may let it go. */
export async function indexedLayer(layer: Layer): Promise<IndexedLayer> {
  return {
    index: await layer.load(),
    splitFrom: layer.splitFrom,
    countsPrefix: (slot) => layer.countsPrefix(slot),
    counts: (slot, blk) => layer.counts(slot, blk),
  }
}

/** Every key of the layers in the range once, in key order, one prefix at a time. */
export function* keysInRange(
  layers: readonly IndexedLayer[],
  slots: SlotTable,
  range: KeyRange,
): Generator<SlotKeys> {
  const slotSet = new Set<number>()
  for (const layer of layers) {
    for (const slot of layer.index.groupSlot) {
      if (layer.countsPrefix(slot)) slotSet.add(slot)
    }
  }
  for (const slot of [...slotSet].sort((a, b) => slots.compare(a, b))) {
    const bounds = blocksInRange(slots, slot, range)
    if (!bounds) continue
    const blks = blocksOf(layers, slot, bounds)
    if (blks.length > 0) yield { slot, blks }
  }
}

/** First and last block of a prefix that lie in the range; null = none. */
export function blocksInRange(
  slots: SlotTable,
  slot: number,
  { firstKey, lastKey }: KeyRange,
): { first: number; last: number } | null {
  const toFirst = comparePrefix(slots, slot, firstKey)
  const toLast = comparePrefix(slots, slot, lastKey)
  if (toFirst < 0 || toLast > 0) return null
  return { first: toFirst === 0 ? firstKey.blk : 0, last: toLast === 0 ? lastKey.blk : MAX_BLOCK }
}

function comparePrefix(slots: SlotTable, slot: number, key: Key): number {
  return (
    slots.cls(slot) - key.cls ||
    slots.spc(slot) - key.spc ||
    slots.db(slot) - key.db ||
    slots.rel(slot) - key.rel ||
    slots.fork(slot) - key.fork
  )
}

function blocksOf(
  layers: readonly IndexedLayer[],
  slot: number,
  bounds: { first: number; last: number },
): Uint32Array {
  const pieces: Uint32Array[] = []
  let total = 0
  for (const layer of layers) {
    if (!layer.countsPrefix(slot)) continue
    const group = layer.index.findGroup(slot)
    if (group < 0) continue
    const { groupFirstRow, rowBlk } = layer.index.columns
    const rows = rowBlk.subarray(groupFirstRow[group], groupFirstRow[group + 1])
    const found = rows.subarray(lowerBound(rows, bounds.first), upperBound(rows, bounds.last))
    const isShared = layer.splitFrom !== undefined
    const piece = isShared ? found.filter((blk) => layer.counts(slot, blk)) : found
    pieces.push(piece)
    total += piece.length
  }
  const all = new Uint32Array(total)
  let at = 0
  for (const piece of pieces) {
    all.set(piece, at)
    at += piece.length
  }
  all.sort()
  return all.filter((blk, index) => index === 0 || blk !== all[index - 1])
}

/** Index of the first element that is not below the value. */
export function lowerBound(sorted: Uint32Array, value: number): number {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((sorted[middle] as number) < value) low = middle + 1
    else high = middle
  }
  return low
}

/** Index of the first element above the value. */
export function upperBound(sorted: Uint32Array, value: number): number {
  return value === MAX_BLOCK ? sorted.length : lowerBound(sorted, value + 1)
}

/**
 * Blocks of the fork or SLRU segment at an LSN: those from here on do not exist there. Null for
 * classes without a size.
 */
export async function blockLimit(
  source: ReadSource,
  slot: number,
  lsn: Lsn,
): Promise<number | null> {
  const { slots } = source
  const cls = slots.cls(slot)
  if (!isPageClass(cls)) return null
  const sizeClass = cls === KeyClass.RelBlock ? KeyClass.RelSize : KeyClass.SlruSegSize
  const sizeSlot = slots.intern(
    sizeClass,
    slots.spc(slot),
    slots.db(slot),
    slots.rel(slot),
    slots.fork(slot),
  )
  const [versions] = await readVersions(source, [{ slot: sizeSlot, blk: 0 }], lsn + 1)
  const newest = versions?.[0]
  return newest?.kind === ValueKind.Image ? newest.value.readUInt32LE(0) : 0
}
