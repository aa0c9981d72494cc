/**
 * The layers of a timeline, found by key without a walk over all of them.
 *
 * The key space is cut into columns at first keys of layers, so that each column has about as many
 * layers. A column lists the layers whose key range meets it: images and deltas apart, each newest
 * first. L0 layers cover all keys and have one list of their own. Layers and lists are immutable: a
 * change makes a new map that shares the lists it did not touch, so a reader that holds one sees
 * one consistent state. As layers come, columns grow; the cut is made anew when their number has
 * doubled.
 */
import type { Lsn } from '#libs/lsn.ts'
import { compareKeys, type Key } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { Layer } from './layer.ts'
import { LayerKind } from './layer-name.ts'

export interface Column {
  /** First key; the column ends where the next begins. Null for the first column. */
  readonly firstKey: Key | null
  /** Newest first. */
  readonly images: readonly Layer[]
  /** L0 layers not among them; by end LSN, highest first. */
  readonly deltas: readonly Layer[]
}

/** Layers that begin in a column, when the cut is made. */
const LAYERS_PER_COLUMN = 16
/** Columns are made wider while layers would be listed more often than this on average. */
const MAX_LISTINGS = 16
/** The cut is made anew when there are so many more layers than at the last one, and twice as many. */
const MIN_GROWTH = 64

export class LayerMap {
  /** In the order of their end LSN, highest first; at equal ends images before deltas. */
  readonly newestFirst: readonly Layer[]
  /** Deltas of all keys, newest first. */
  readonly l0: readonly Layer[]
  readonly #columns: readonly Column[]
  /** How many layers there were when the columns were cut. */
  readonly #cutCount: number

  constructor(layers: readonly Layer[], change?: Change) {
    this.newestFirst = change ? layers : layers.toSorted(compareLayers)
    if (change && !change.touchesL0) this.l0 = change.from.l0
    else this.l0 = this.newestFirst.filter((layer) => layer.isL0)
    const cutCount = change ? change.from.#cutCount : 0
    if (change && layers.length <= Math.max(2 * cutCount, cutCount + MIN_GROWTH)) {
      this.#columns = changedColumns(change.from.#columns, change)
      this.#cutCount = cutCount
    } else {
      this.#columns = cutColumns(this.newestFirst)
      this.#cutCount = layers.length
    }
  }

  /** Layers leave by their key (`Layer.key`). */
  with(added: readonly Layer[], removed: readonly Layer[] = []): LayerMap {
    const gone: Layer[] = []
    let kept = this.newestFirst
    if (removed.length > 0) {
      const keys = new Set(removed.map(({ key }) => key))
      // Keys are long; most layers are told apart without.
      const startLsns = new Set(removed.map(({ id }) => id.startLsn))
      kept = kept.filter((layer) => {
        const stays = !startLsns.has(layer.id.startLsn) || !keys.has(layer.key)
        if (!stays) gone.push(layer)
        return stays
      })
    }
    const touchesL0 = added.some(({ isL0 }) => isL0) || gone.some(({ isL0 }) => isL0)
    return new LayerMap(merged(kept, added), { from: this, added, gone, touchesL0 })
  }

  /** Number of columns; for tests and metrics. */
  get columnCount(): number {
    return this.#columns.length
  }

  /** Where a key lies. `hint` is the column of a key read just before, which is looked at first. */
  columnOf(slots: SlotTable, slot: number, blk: number, hint = 0): number {
    const columns = this.#columns
    const isFrom = (column: number) => {
      const key = columns[column]?.firstKey
      return key === null || (key !== undefined && compareToKey(slots, slot, blk, key) >= 0)
    }
    if (isFrom(hint) && !isFrom(hint + 1)) return hint
    let low = 0
    let high = columns.length
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (isFrom(middle)) low = middle
      else high = middle
    }
    return low
  }

  column(number: number): Column {
    return this.#columns[number] as Column
  }

  /** Layers that may hold keys of the range, both ends inclusive, newest first. */
  overlapping(firstKey: Key, lastKey: Key): Layer[] {
    const found = new Set(this.l0)
    const last = columnOfKey(this.#columns, lastKey)
    for (let at = columnOfKey(this.#columns, firstKey); at <= last; at++) {
      const { images, deltas } = this.column(at)
      for (const layers of [images, deltas]) {
        for (const layer of layers) {
          const { id } = layer
          const isApart =
            compareKeys(id.lastKey, firstKey) < 0 || compareKeys(id.firstKey, lastKey) > 0
          if (!isApart) found.add(layer)
        }
      }
    }
    return [...found].sort(compareLayers)
  }

  /** LSN of the newest set of image layers, 0 when there is none. */
  get newestImageLsn(): Lsn {
    return this.newestFirst.find((layer) => layer.id.kind === LayerKind.Image)?.id.startLsn ?? 0
  }

  /** LSNs of the sets of image layers, newest first. */
  get imageLsns(): Lsn[] {
    const images = this.newestFirst.filter((layer) => layer.id.kind === LayerKind.Image)
    return [...new Set(images.map((layer) => layer.id.startLsn))]
  }

  /** Delta layers that start above the newest images: what every read of the tip may visit. */
  get deltasAboveImages(): Layer[] {
    const imageLsn = this.newestImageLsn
    return this.newestFirst.filter(
      (layer) => layer.id.kind === LayerKind.Delta && layer.id.startLsn > imageLsn,
    )
  }
}

/** Order of a key against another: negative, zero, positive. */
export function compareToKey(slots: SlotTable, slot: number, blk: number, key: Key): number {
  return (
    slots.cls(slot) - key.cls ||
    slots.spc(slot) - key.spc ||
    slots.db(slot) - key.db ||
    slots.rel(slot) - key.rel ||
    slots.fork(slot) - key.fork ||
    blk - key.blk
  )
}

interface Change {
  from: LayerMap
  added: readonly Layer[]
  gone: readonly Layer[]
  touchesL0: boolean
}

function compareLayers(a: Layer, b: Layer): number {
  return b.endLsn - a.endLsn || b.id.kind - a.id.kind || compareKeys(a.id.firstKey, b.id.firstKey)
}

/** `sorted` with few more in their places. */
function merged(sorted: readonly Layer[], added: readonly Layer[]): readonly Layer[] {
  if (added.length === 0) return sorted
  const more = added.toSorted(compareLayers)
  const result: Layer[] = []
  let next = 0
  for (const layer of sorted) {
    while (next < more.length && compareLayers(more[next] as Layer, layer) < 0) {
      result.push(more[next++] as Layer)
    }
    result.push(layer)
  }
  for (; next < more.length; next++) result.push(more[next] as Layer)
  return result
}

/** Columns that fit the layers as they are. */
function cutColumns(newestFirst: readonly Layer[]): readonly Column[] {
  const layers = newestFirst.filter((layer) => !layer.isL0)
  const firstKeys = layers.map((layer) => layer.id.firstKey).sort(compareKeys)
  for (let perColumn = LAYERS_PER_COLUMN; ; perColumn *= 4) {
    const columns = emptyColumns(firstKeys, perColumn)
    const first = layers.map(({ id }) => columnOfKey(columns, id.firstKey))
    const last = layers.map(({ id }) => columnOfKey(columns, id.lastKey))
    let listings = layers.length
    for (const [index, column] of last.entries()) listings += column - (first[index] as number)
    if (columns.length > 1 && listings > MAX_LISTINGS * layers.length) continue
    for (const [index, layer] of layers.entries()) {
      for (let at = first[index] as number; at <= (last[index] as number); at++) {
        const { images, deltas } = columns[at] as GrowingColumn
        if (layer.id.kind === LayerKind.Image) images.push(layer)
        else deltas.push(layer)
      }
    }
    return columns
  }
}

interface GrowingColumn extends Column {
  readonly images: Layer[]
  readonly deltas: Layer[]
}

function emptyColumns(firstKeys: readonly Key[], perColumn: number): GrowingColumn[] {
  const columns: GrowingColumn[] = [{ firstKey: null, images: [], deltas: [] }]
  let last: Key | null = null
  for (let at = perColumn; at < firstKeys.length; at += perColumn) {
    const firstKey = firstKeys[at] as Key
    if (last && compareKeys(last, firstKey) === 0) continue
    columns.push({ firstKey, images: [], deltas: [] })
    last = firstKey
  }
  return columns
}

function columnOfKey(columns: readonly Column[], key: Key): number {
  let low = 0
  let high = columns.length
  while (high - low > 1) {
    const middle = (low + high) >>> 1
    if (compareKeys((columns[middle] as Column).firstKey as Key, key) <= 0) low = middle
    else high = middle
  }
  return low
}

/** The same cut, with new lists where layers came or went. */
function changedColumns(columns: readonly Column[], { added, gone }: Change): readonly Column[] {
  const touched = new Map<number, { added: Layer[]; gone: Set<Layer> }>()
  const note = (layer: Layer, isAdded: boolean) => {
    if (layer.isL0) return
    const last = columnOfKey(columns, layer.id.lastKey)
    for (let at = columnOfKey(columns, layer.id.firstKey); at <= last; at++) {
      const change = touched.get(at) ?? { added: [], gone: new Set() }
      touched.set(at, change)
      if (isAdded) change.added.push(layer)
      else change.gone.add(layer)
    }
  }
  for (const layer of added) note(layer, true)
  for (const layer of gone) note(layer, false)
  if (touched.size === 0) return columns
  const result = columns.slice()
  for (const [at, change] of touched) {
    const { firstKey, images, deltas } = columns[at] as Column
    const list = (layers: readonly Layer[], kind: LayerKind) =>
      merged(
        layers.filter((layer) => !change.gone.has(layer)),
        change.added.filter((layer) => layer.id.kind === kind),
      )
    result[at] = {
      firstKey,
      images: list(images, LayerKind.Image),
      deltas: list(deltas, LayerKind.Delta),
    }
  }
  return result
}
