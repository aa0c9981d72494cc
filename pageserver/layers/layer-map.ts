/**
 * The layers of a timeline, found by key without a walk over all of them.
 *
 * What is known of each layer lies in a table of columns, a few dozen bytes a layer. The key space is
 * cut into columns of keys; each lists the layers whose key range meets it. L0 layers cover all keys
 * and have one list of their own. As layers come, the columns' lists grow; the cut is made anew when
 * the number of layers has doubled. So a change costs what it changes, however many layers there are.
 *
 * `Layer` objects are made for who needs them, and there is one for a layer as long as anybody holds
 * it. Of the columns that are read the map holds the objects itself, up to a bound.
 *
 * A change is one synchronous step, and so is all that is asked between two awaits: rows and columns
 * are not kept over one, layers are.
 */
import { assert } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Key } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import { ColumnCut, type RowList } from './column-cut.ts'
import { LayerHandles } from './layer-handles.ts'
import type { Layer, LayerContext, LayerEntry, LayerIdentity } from './layer.ts'
import { isL0, type LayerId, LayerKind, parseFileName } from './layer-name.ts'
import { LayerShape } from './layer-shape.ts'
import { LayerFlag, LayerTable } from './layer-table.ts'

export interface Column {
  /** Newest first. */
  readonly images: readonly Layer[]
  /** L0 layers not among them; by end LSN, highest first. */
  readonly deltas: readonly Layer[]
}

/** Layers as the manifest says them, of which the number is known. They are walked once. */
export interface LayerList extends Iterable<LayerEntry> {
  readonly length: number
}

/** What every read of the tip may visit. */
export interface DeltasAbove {
  count: number
  /** Bytes of records: an import at one LSN holds pages, and counts nothing. */
  replayBytes: number
}

/** The cut is made anew when there are so many more layers than at the last one, and twice as many. */
const MIN_GROWTH = 64

export class LayerMap {
  readonly #context: LayerContext
  readonly #table: LayerTable
  readonly #handles: LayerHandles
  #cut: ColumnCut
  /** How many layers there were when the columns were cut. */
  #cutCount: number
  #l0: readonly Layer[] = []
  #version = 0
  /** How many layers have left. */
  #removals = 0
  readonly #bytes = { own: 0, adopted: 0 }
  /** Found when it is asked for, and known until the map changes. */
  #lowestFloorLsn: Lsn | null = null
  #aboveImages: DeltasAbove | null = null

  constructor(context: LayerContext, layers: readonly Layer[] = []) {
    this.#context = context
    this.#table = new LayerTable(context.slots, layers.length)
    this.#handles = new LayerHandles(context, this.#table)
    this.#cut = this.#newCut()
    this.#cutCount = 0
    this.change(layers, [])
  }

  /** Of a manifest: no layer is made before it is needed. */
  static ofEntries(context: LayerContext, entries: readonly LayerEntry[]): LayerMap {
    const map = new LayerMap(context)
    map.#table.reserve(entries.length)
    const rows = entries.map((entry) => map.#table.add(entry))
    map.#took(rows)
    return map
  }

  /** Layers come and go, in one step. Of those that go some may have gone already. */
  change(added: readonly Layer[], removed: readonly Layer[]): void {
    const table = this.#table
    const gone = [...new Set(removed)].filter((layer) => this.#holds(layer))
    const rows = added.map((layer) => table.add(layer.entry))
    for (const [index, layer] of added.entries()) this.#handles.enter(layer, rows[index] as number)
    for (const layer of gone) {
      const bytes = layer.origin === null ? 'own' : 'adopted'
      this.#bytes[bytes] -= layer.sizeBytes
    }
    this.#removals += gone.length
    const goneRows = gone.map(({ row }) => row)
    this.#took(rows, goneRows)
    for (const layer of gone) {
      const { row } = layer
      this.#handles.leave(layer)
      table.remove(row)
    }
  }

  /** Another number after each change. */
  get version(): number {
    return this.#version
  }

  /** How many layers there are. */
  get count(): number {
    return this.#table.count
  }

  /** Sizes of all layer files: our own, and those of timelines that we were detached from. */
  get bytes(): { readonly own: number; readonly adopted: number } {
    return this.#bytes
  }

  /** Sizes of those on local disk, as far as known. */
  get residentBytes(): number {
    return this.#table.residentBytes
  }

  /** Deltas of all keys, newest first. */
  get l0(): readonly Layer[] {
    return this.#l0
  }

  /** Number of columns; for tests and metrics. */
  get columnCount(): number {
    return this.#cut.count
  }

  /** Where a key lies. `hint` is the column of a key read just before, which is looked at first. */
  columnOf(slots: SlotTable, slot: number, blk: number, hint = 0): number {
    const { slots: own } = this.#context
    if (slots === own) return this.#cut.columnOf(slot, blk, hint)
    return this.#cut.columnOfKey(slots.key(slot, blk))
  }

  column(number: number): Column {
    return (
      this.#handles.openColumn(number) ??
      this.#handles.open(number, this.#cut.images(number), this.#cut.deltas(number))
    )
  }

  /** Layers that may hold keys of the range, both ends inclusive, newest first. */
  overlapping(firstKey: Key, lastKey: Key): Layer[] {
    const table = this.#table
    const found = new Set<number>(this.#l0.map(({ row }) => row))
    const last = this.#cut.columnOfKey(lastKey)
    for (let at = this.#cut.columnOfKey(firstKey); at <= last; at++) {
      for (const list of [this.#cut.images(at), this.#cut.deltas(at)]) {
        for (const row of list) {
          const isApart =
            table.compareLast(row, firstKey) < 0 || table.compareFirst(row, lastKey) > 0
          if (!isApart) found.add(row)
        }
      }
    }
    return this.#layersOf(this.#sorted(Uint32Array.from(found)))
  }

  /** The layer of this identity; null when it is not here. */
  find(identity: LayerIdentity): Layer | null {
    const row = this.#findRow(identity)
    return row < 0 ? null : this.#handles.at(row)
  }

  has(identity: LayerIdentity): boolean {
    return this.#findRow(identity) >= 0
  }

  /** All layers: highest end LSN first, at equal ends images before deltas. Makes an object of each. */
  get newestFirst(): Layer[] {
    return this.#layersOf(this.#sorted(this.#table.rows()))
  }

  /** All layers as plans see them, in the same order. */
  get shapes(): LayerShape[] {
    return this.#shapesOf(this.#table.rows())
  }

  /** Those of them that end above an LSN, L0 layers left out. */
  cutAbove(lsn: Lsn): LayerShape[] {
    const table = this.#table
    return this.#shapesOf(table.rows().filter((row) => !table.isL0(row) && table.endLsn(row) > lsn))
  }

  /** The layer that a plan means; the map has not changed since the plan's shapes were made. */
  layerOf(shape: LayerShape): Layer {
    return this.#handles.at(shape.row)
  }

  /**
   * What the manifest says of each layer, in any order. Layers for which `isLeftOut` are passed over.
   * They are those of now, also when they are walked later: layers may come meanwhile, and when one
   * leaves, the walk ends with an error.
   */
  entries(isLeftOut: (row: number) => boolean = () => false): LayerList {
    const rows = this.#table.rows().filter((row) => !isLeftOut(row))
    const walk = this.#entriesOf(rows, this.#removals)
    return { length: rows.length, [Symbol.iterator]: () => walk }
  }

  /** Those that were taken over at a split, newest first. */
  borrowed(): Layer[] {
    return this.#layersOf(this.#sorted(this.#table.borrowedRows()))
  }

  /** Those whose files are on local disk, as far as known. */
  resident(): Layer[] {
    const table = this.#table
    return this.#layersOf(table.rows().filter((row) => table.has(row, LayerFlag.Local)))
  }

  /** Those that were read since this was asked last. */
  takeAccessed(): Layer[] {
    return this.#layersOf(Uint32Array.from(this.#table.takeAccessed()))
  }

  /** The local folder was looked through: it has these files. Returns those that are no layers. */
  noteFiles(fileNames: readonly string[]): string[] {
    const table = this.#table
    const present = new Set<number>()
    const unknown: string[] = []
    for (const fileName of fileNames) {
      const row = this.#rowOfFile(fileName)
      if (row < 0) unknown.push(fileName)
      else present.add(row)
    }
    for (const row of table.rows()) {
      table.set(row, LayerFlag.Local, present.has(row))
      table.set(row, LayerFlag.Absent, !present.has(row))
    }
    return unknown
  }

  /** A time of use that was kept. False when there is no such file any more. */
  noteAccess(fileName: string, timeMs: number): boolean {
    const row = this.#rowOfFile(fileName)
    if (row < 0 || !this.#table.has(row, LayerFlag.Local)) return false
    const seconds = Math.floor(timeMs / 1000)
    if (seconds > this.#table.accessSeconds(row)) this.#table.setAccessSeconds(row, seconds, false)
    return true
  }

  /** Rewriting these alone would not make them smaller. */
  settle(layers: readonly Layer[]): void {
    for (const layer of layers) this.#table.set(layer.row, LayerFlag.Settled, true)
    this.#version++
  }

  /** Layers that somebody has, or the map itself. */
  inUse(): Layer[] {
    return this.#handles.all()
  }

  /** Lets go of the layers that it holds itself. */
  close(): void {
    this.#handles.closeColumns()
  }

  /** Lowest LSN that any layer tells of; null when there is none. */
  get lowestFloorLsn(): Lsn | null {
    if (this.#lowestFloorLsn === null) {
      for (const row of this.#table.rows()) {
        const floorLsn = this.#table.floorLsn(row)
        if (floorLsn < (this.#lowestFloorLsn ?? Number.POSITIVE_INFINITY)) {
          this.#lowestFloorLsn = floorLsn
        }
      }
    }
    return this.#lowestFloorLsn
  }

  /** LSN of the newest set of image layers, 0 when there is none. */
  get newestImageLsn(): Lsn {
    const table = this.#table
    let newest = 0
    let newestEnd = 0
    for (const row of table.rows()) {
      if (!table.isImage(row) || table.endLsn(row) <= newestEnd) continue
      newestEnd = table.endLsn(row)
      newest = table.startLsn(row)
    }
    return newest
  }

  /** LSNs of the sets of image layers, newest first. */
  get imageLsns(): Lsn[] {
    const images = this.shapes.filter(({ id }) => id.kind === LayerKind.Image)
    return [...new Set(images.map(({ id }) => id.startLsn))]
  }

  /** Delta layers that start above the newest images. */
  get aboveImages(): DeltasAbove {
    if (this.#aboveImages === null) {
      const table = this.#table
      const imageLsn = this.newestImageLsn
      this.#aboveImages = { count: 0, replayBytes: 0 }
      for (const row of table.rows()) {
        const startLsn = table.startLsn(row)
        if (table.isImage(row) || startLsn <= imageLsn) continue
        this.#aboveImages.count++
        if (table.endLsn(row) > startLsn + 1) this.#aboveImages.replayBytes += table.sizeBytes(row)
      }
    }
    return this.#aboveImages
  }

  *#entriesOf(rows: Uint32Array, removals: number): Generator<LayerEntry> {
    for (const row of rows) {
      assert(this.#removals === removals, 'no layer leaves while all of them are written down')
      yield this.#table.entry(row)
    }
  }

  #took(rows: readonly number[], gone: readonly number[] = []): void {
    const table = this.#table
    for (const row of rows) {
      this.#bytes[table.origin(row) === null ? 'own' : 'adopted'] += table.sizeBytes(row)
    }
    this.#version++
    this.#lowestFloorLsn = null
    this.#aboveImages = null
    const isOf = (some: readonly number[], l0: boolean) =>
      some.filter((row) => table.isL0(row) === l0)
    const newL0 = isOf(rows, true)
    const goneL0 = isOf(gone, true)
    if (newL0.length + goneL0.length > 0) {
      const kept = this.#l0.filter(({ row }) => !goneL0.includes(row))
      const more = newL0.map((row) => this.#handles.at(row))
      this.#l0 = [...kept, ...more].sort((a, b) => table.compare(a.row, b.row))
    }
    const count = table.count - gone.length
    if (count > Math.max(2 * this.#cutCount, this.#cutCount + MIN_GROWTH)) {
      this.#handles.closeColumns()
      this.#cut = this.#newCut(gone)
      this.#cutCount = count
    } else {
      const touched = (column: number) => this.#handles.closeColumn(column)
      this.#cut.change(isOf(rows, false), isOf(gone, false), touched)
    }
  }

  #newCut(gone: readonly number[] = []): ColumnCut {
    const table = this.#table
    const leaving = new Set(gone)
    const rows = table.rows().filter((row) => !table.isL0(row) && !leaving.has(row))
    return ColumnCut.of(this.#context.slots, table, rows)
  }

  #holds(layer: Layer): boolean {
    return layer.row >= 0 && this.#table.is(layer.row, layer)
  }

  #findRow(identity: LayerIdentity): number {
    const { id } = identity
    const is = (row: number) => this.#table.is(row, identity)
    if (isL0(id)) return this.#l0.find(({ row }) => is(row))?.row ?? -1
    const column = this.#cut.columnOfKey(id.firstKey)
    const isImage = id.kind === LayerKind.Image
    const list: RowList = isImage ? this.#cut.images(column) : this.#cut.deltas(column)
    for (const row of list) if (is(row)) return row
    return -1
  }

  #rowOfFile(fileName: string): number {
    const { id, places } = parseFileName(fileName) ?? { id: null, places: [] }
    if (id === null || places.length > 2) return -1
    const [splitFrom, origin] = places.length === 2 ? places : [undefined, places[0]]
    const row = this.#findRow(identityOf(id, origin, splitFrom))
    // With one id before the name, that may be either.
    if (row >= 0 || places.length !== 1) return row
    return this.#findRow(identityOf(id, undefined, places[0]))
  }

  #sorted(rows: Uint32Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
    return rows.sort((a, b) => this.#table.compare(a, b))
  }

  #layersOf(rows: Uint32Array): Layer[] {
    return Array.from(rows, (row) => this.#handles.at(row))
  }

  #shapesOf(rows: Uint32Array<ArrayBuffer>): LayerShape[] {
    return Array.from(this.#sorted(rows), (row) => new LayerShape(this.#table, row))
  }
}

function identityOf(
  id: LayerId,
  origin: string | undefined,
  splitFrom: string | undefined,
): LayerIdentity {
  const place = { id, origin: (origin as TimelineId | undefined) ?? null }
  return splitFrom === undefined ? place : { ...place, splitFrom: splitFrom as TenantId }
}
