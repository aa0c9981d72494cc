/**
 * Memory of open layers that are written, for those to come: new memory comes from the kernel page by
 * page, and V8 collects garbage for what was let go.
 *
 * Readers hold slices of slabs for as long as they like. So a slab of which nobody was given any comes
 * back when its layer is done with; another one when the garbage collector has found that nobody in this
 * thread refers to it any more. It tells by object, so what is given out is a second object for the same
 * memory, and the first one is kept here. Rows are never given to readers: they come back with the layer.
 *
 * What is free is kept within a bound, and for a minute. It holds whatever it held before.
 */
import { weigh } from './growing-words.ts'

/** Bytes of a slab. */
export const SLAB_BYTES = 8 * 1024 * 1024
/** Rows of a layer that has no more are its own: small layers hold little memory. */
const SMALLEST_ROWS_BYTES = 256 * 1024
/** About as much as one layer of the usual size takes. */
const KEPT_BYTES = 160 * 1024 * 1024
const KEPT_MS = 60_000

export interface LayerMemoryOptions {
  /** Bytes of a slab. */
  slabBytes?: number
  /** As many bytes of rows a layer has of its own. */
  smallestRowsBytes?: number
  /** Fills what comes back with ones, so that a test sees whoever still reads it. */
  isOverwritten?: boolean
}

export class LayerMemory {
  readonly slabBytes: number
  readonly smallestRowsBytes: number
  readonly #isOverwritten: boolean
  #slabs: SharedArrayBuffer[] = []
  #rows: SharedArrayBuffer[] = []
  #freeBytes = 0
  #forgetting: NodeJS.Timeout | null = null
  readonly #unreferred = new FinalizationRegistry<SharedArrayBuffer>((slab) => {
    if (this.#hasRoomFor(slab)) this.giveBackSlab(this.#follow(slab))
  })

  constructor(options: LayerMemoryOptions = {}) {
    this.slabBytes = options.slabBytes ?? SLAB_BYTES
    this.smallestRowsBytes = options.smallestRowsBytes ?? SMALLEST_ROWS_BYTES
    this.#isOverwritten = options.isOverwritten ?? false
  }

  /** What is free. */
  get freeBytes(): number {
    return this.#freeBytes
  }

  /** A slab that nobody else uses. */
  takeSlab(): SharedArrayBuffer {
    return this.#take(this.#slabs) ?? this.#follow(new SharedArrayBuffer(this.slabBytes))
  }

  /** Rows of versions that nobody else uses, of that size at least; null when there are none. */
  takeRows(atLeastBytes: number): SharedArrayBuffer | null {
    if ((this.#rows.at(-1)?.byteLength ?? 0) < atLeastBytes) return null
    return this.#take(this.#rows)
  }

  /** A slab from here, and nobody will look at it again. */
  giveBackSlab(slab: SharedArrayBuffer): void {
    this.#keep(this.#slabs, slab)
  }

  /** Nobody will look at them again. */
  giveBackRows(rows: SharedArrayBuffer): void {
    this.#keep(this.#rows, rows)
  }

  #take(free: SharedArrayBuffer[]): SharedArrayBuffer | null {
    const taken = free.pop() ?? null
    if (taken !== null) this.#freeBytes -= taken.byteLength
    return taken
  }

  #keep(free: SharedArrayBuffer[], memory: SharedArrayBuffer): void {
    if (this.#isOverwritten) new Uint8Array(memory).fill(0xff)
    if (!this.#hasRoomFor(memory)) return
    this.#freeBytes += memory.byteLength
    free.push(memory)
    this.#forgetting ??= setTimeout(() => this.#forget(), KEPT_MS).unref()
    this.#forgetting.refresh()
  }

  #hasRoomFor(memory: SharedArrayBuffer): boolean {
    return this.#freeBytes + memory.byteLength <= KEPT_BYTES
  }

  /** Another object for the slab, which comes back when nobody refers to that one. */
  #follow(slab: SharedArrayBuffer): SharedArrayBuffer {
    const other = structuredClone(slab)
    weigh(other)
    this.#unreferred.register(other, slab)
    return other
  }

  #forget(): void {
    this.#slabs = []
    this.#rows = []
    this.#freeBytes = 0
    this.#forgetting = null
  }
}
