/**
 * The key space cut into columns at first keys of layers, so that each column has about as many
 * layers, and which layers' key ranges meet each column: images and deltas apart, newest first.
 *
 * Lists of the cut lie one after the other in one array of rows. Where layers came or went since,
 * a column has lists of its own, until there are many such and all are laid out anew.
 */
import type { Key } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import { compareToKey, type LayerTable } from './layer-table.ts'

/** Layers that begin in a column, when the cut is made. */
const LAYERS_PER_COLUMN = 16
/** Columns are made wider while layers would be listed more often than this on average. */
const MAX_LISTINGS = 16
/** Lists are laid out anew when so many columns have some of their own, and a quarter of all. */
const MIN_CHANGED = 64

/** Rows of one kind, newest first. */
export type RowList = Uint32Array | readonly number[]

interface ColumnLists {
  images: RowList
  deltas: RowList
}

export class ColumnCut {
  readonly #slots: SlotTable
  readonly #table: LayerTable
  /** First key of each column; the first column has all keys below the second, too. */
  readonly #firstSlot: Uint32Array
  readonly #firstBlk: Uint32Array
  /** Where the lists of a column begin in `#rows`; its images, then its deltas. */
  #start: Uint32Array
  #images: Uint32Array
  #rows: Uint32Array
  #changed = new Map<number, ColumnLists>()

  private constructor(
    slots: SlotTable,
    table: LayerTable,
    starts: readonly { slot: number; blk: number }[],
  ) {
    this.#slots = slots
    this.#table = table
    this.#firstSlot = Uint32Array.from(starts, ({ slot }) => slot)
    this.#firstBlk = Uint32Array.from(starts, ({ blk }) => blk)
    this.#start = new Uint32Array(starts.length + 1)
    this.#images = new Uint32Array(starts.length)
    this.#rows = new Uint32Array(0)
  }

  /** Columns that fit the layers of these rows, none of which is of all keys. */
  static of(slots: SlotTable, table: LayerTable, rows: Uint32Array): ColumnCut {
    const sorted = sortedByFirstKey(slots, table, rows)
    for (let perColumn = LAYERS_PER_COLUMN; ; perColumn *= 4) {
      const cut = new ColumnCut(slots, table, startsOf(table, sorted, perColumn))
      let listings = 0
      for (const row of rows) {
        const [first, last] = cut.#columnsOf(row)
        listings += last - first + 1
      }
      if (cut.count > 1 && listings > MAX_LISTINGS * rows.length) continue
      cut.#layOut(rows, listings)
      return cut
    }
  }

  /** Number of columns; at least one. */
  get count(): number {
    return this.#firstSlot.length
  }

  images(column: number): RowList {
    const changed = this.#changed.get(column)
    if (changed) return changed.images
    const start = this.#start[column] as number
    return this.#rows.subarray(start, start + (this.#images[column] as number))
  }

  deltas(column: number): RowList {
    const changed = this.#changed.get(column)
    if (changed) return changed.deltas
    const start = (this.#start[column] as number) + (this.#images[column] as number)
    return this.#rows.subarray(start, this.#start[column + 1])
  }

  /** The column of a key. `hint` is looked at first, then searched. */
  columnOf(slot: number, blk: number, hint = 0): number {
    if (this.#isFrom(slot, blk, hint) && !this.#isFrom(slot, blk, hint + 1)) return hint
    let low = 0
    let high = this.count
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (this.#isFrom(slot, blk, middle)) low = middle
      else high = middle
    }
    return low
  }

  columnOfKey(key: Key): number {
    let low = 0
    let high = this.count
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      const [slot, blk] = [this.#firstSlot[middle] as number, this.#firstBlk[middle] as number]
      if (compareToKey(this.#slots, slot, blk, key) <= 0) low = middle
      else high = middle
    }
    return low
  }

  /** The same cut after layers came or went; calls `touched` with each column whose lists changed. */
  change(
    added: readonly number[],
    gone: readonly number[],
    touched: (column: number) => void,
  ): void {
    const changes = new Map<number, { added: number[]; gone: number[] }>()
    for (const [rows, which] of [
      [added, 'added'],
      [gone, 'gone'],
    ] as const) {
      for (const row of rows) {
        const [first, last] = this.#columnsOf(row)
        for (let column = first; column <= last; column++) {
          const change = changes.get(column) ?? { added: [], gone: [] }
          changes.set(column, change)
          change[which].push(row)
        }
      }
    }
    for (const [column, change] of changes) {
      this.#changed.set(column, {
        images: this.#changedList(this.images(column), change, true),
        deltas: this.#changedList(this.deltas(column), change, false),
      })
      touched(column)
    }
    if (this.#changed.size > Math.max(MIN_CHANGED, this.count / 4)) this.#layOutAnew()
  }

  #isFrom(slot: number, blk: number, column: number): boolean {
    if (column === 0) return true
    if (column >= this.count) return false
    const first = this.#firstSlot[column] as number
    if (first === slot) return blk >= (this.#firstBlk[column] as number)
    return this.#slots.compare(slot, first) >= 0
  }

  /** First and last column that a layer's key range meets. */
  #columnsOf(row: number): [number, number] {
    const table = this.#table
    const first = this.columnOf(table.firstSlot(row), table.firstBlk(row))
    return [first, this.columnOf(table.lastSlot(row), table.lastBlk(row), first)]
  }

  #changedList(
    list: RowList,
    { added, gone }: { added: readonly number[]; gone: readonly number[] },
    isImages: boolean,
  ): number[] {
    const table = this.#table
    const kept: number[] = []
    for (const row of list) if (!gone.includes(row)) kept.push(row)
    const more = added.filter((row) => table.isImage(row) === isImages)
    if (more.length === 0) return kept
    return [...kept, ...more].sort((a, b) => table.compare(a, b))
  }

  /** Counts, then fills, so that nothing is allocated per column. */
  #layOut(rows: Uint32Array, listings: number): void {
    const start = this.#start
    for (const row of rows) {
      const [first, last] = this.#columnsOf(row)
      const isImage = this.#table.isImage(row)
      for (let column = first; column <= last; column++) {
        start[column + 1] = (start[column + 1] as number) + 1
        if (isImage) this.#images[column] = (this.#images[column] as number) + 1
      }
    }
    for (let column = 0; column < this.count; column++) {
      start[column + 1] = (start[column + 1] as number) + (start[column] as number)
    }
    this.#rows = new Uint32Array(listings)
    const nextImage = start.slice()
    const nextDelta = start.map((at, column) => at + (this.#images[column] ?? 0))
    for (const row of rows) {
      const [first, last] = this.#columnsOf(row)
      const next = this.#table.isImage(row) ? nextImage : nextDelta
      for (let column = first; column <= last; column++) {
        const at = next[column] as number
        this.#rows[at] = row
        next[column] = at + 1
      }
    }
    const byAge = (a: number, b: number) => this.#table.compare(a, b)
    for (let column = 0; column < this.count; column++) {
      ;(this.images(column) as Uint32Array).sort(byAge)
      ;(this.deltas(column) as Uint32Array).sort(byAge)
    }
  }

  #layOutAnew(): void {
    let listings = 0
    for (let column = 0; column < this.count; column++) {
      listings += this.images(column).length + this.deltas(column).length
    }
    const rows = new Uint32Array(listings)
    const start = new Uint32Array(this.count + 1)
    let at = 0
    for (let column = 0; column < this.count; column++) {
      start[column] = at
      const images = this.images(column)
      const deltas = this.deltas(column)
      rows.set(images, at)
      rows.set(deltas, at + images.length)
      this.#images[column] = images.length
      at += images.length + deltas.length
    }
    start[this.count] = at
    this.#rows = rows
    this.#start = start
    this.#changed = new Map()
  }
}

function sortedByFirstKey(slots: SlotTable, table: LayerTable, rows: Uint32Array): Uint32Array {
  return rows
    .slice()
    .sort(
      (a, b) =>
        slots.compare(table.firstSlot(a), table.firstSlot(b)) ||
        table.firstBlk(a) - table.firstBlk(b),
    )
}

/** First keys of columns in which about so many layers begin. */
function startsOf(
  table: LayerTable,
  sorted: Uint32Array,
  perColumn: number,
): { slot: number; blk: number }[] {
  const starts = [{ slot: 0, blk: 0 }]
  for (let at = perColumn; at < sorted.length; at += perColumn) {
    const row = sorted[at] as number
    const start = { slot: table.firstSlot(row), blk: table.firstBlk(row) }
    const last = starts[starts.length - 1]
    if (starts.length > 1 && last?.slot === start.slot && last.blk === start.blk) continue
    starts.push(start)
  }
  return starts
}
