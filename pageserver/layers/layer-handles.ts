/**
 * The `Layer` objects of a map: at most one for a layer, as long as anybody holds it. Who loads an
 * index, opens a file or reads holds it; so do the columns that reads have come to lately.
 */
import { Layer, type LayerContext } from './layer.ts'
import type { LayerTable } from './layer-table.ts'
import type { RowList } from './column-cut.ts'
import type { Evictable } from './second-chance.ts'

/** References to objects that are gone are looked for when there are twice as many, and so many. */
const MIN_REFERENCES = 1024

/** A column of keys whose layers are at hand. */
export class OpenColumn implements Evictable {
  wasUsed = true
  /** Newest first, as the deltas. */
  readonly images: readonly Layer[]
  readonly deltas: readonly Layer[]
  readonly #close: () => void

  constructor(images: readonly Layer[], deltas: readonly Layer[], close: () => void) {
    this.images = images
    this.deltas = deltas
    this.#close = close
  }

  /** What it counts for, against the bound of all of them. */
  get size(): number {
    return 1 + this.images.length + this.deltas.length
  }

  /** Nobody came to it lately. */
  close(): void {
    this.#close()
  }
}

export class LayerHandles {
  readonly #context: LayerContext
  readonly #table: LayerTable
  /** By row. */
  readonly #references = new Map<number, WeakRef<Layer>>()
  #sweepAt = MIN_REFERENCES
  readonly #columns = new Map<number, OpenColumn>()

  constructor(context: LayerContext, table: LayerTable) {
    this.#context = context
    this.#table = table
  }

  /** The layer of a row. */
  at(row: number): Layer {
    const known = this.#references.get(row)?.deref()
    if (known) return known
    const layer = new Layer(this.#table.entry(row), this.#context)
    this.#remember(layer.describe(this.#table, row))
    return layer
  }

  /** A layer that was in no map before. */
  enter(layer: Layer, row: number): void {
    layer.enter(this.#table, row)
    this.#remember(layer)
  }

  /** Its row will stand for another one. */
  leave(layer: Layer): void {
    this.#references.delete(layer.row)
    layer.leave()
  }

  /** All that somebody holds. */
  all(): Layer[] {
    const found: Layer[] = []
    for (const reference of this.#references.values()) {
      const layer = reference.deref()
      if (layer) found.push(layer)
    }
    return found
  }

  /** The column if its layers are at hand. */
  openColumn(number: number): OpenColumn | null {
    const known = this.#columns.get(number)
    if (!known) return null
    known.wasUsed = true
    return known
  }

  /** Takes the layers of a column to hand. */
  open(number: number, images: RowList, deltas: RowList): OpenColumn {
    const layersOf = (list: RowList) => Array.from(list, (row) => this.at(row))
    const column = new OpenColumn(layersOf(images), layersOf(deltas), () => {
      this.#columns.delete(number)
    })
    this.#columns.set(number, column)
    this.#context.residency?.columns.add(column, column.size)
    return column
  }

  /** Its lists have changed. */
  closeColumn(number: number): void {
    const column = this.#columns.get(number)
    if (!column) return
    this.#context.residency?.columns.remove(column)
    this.#columns.delete(number)
  }

  closeColumns(): void {
    for (const number of this.#columns.keys()) this.closeColumn(number)
  }

  #remember(layer: Layer): void {
    this.#references.set(layer.row, new WeakRef(layer))
    if (this.#references.size < this.#sweepAt) return
    for (const [row, reference] of this.#references) {
      if (!reference.deref()) this.#references.delete(row)
    }
    this.#sweepAt = Math.max(MIN_REFERENCES, 2 * this.#references.size)
  }
}
