/**
 * The versions of an open layer, numbered in the order they came: rows of 32 bytes beside slabs of
 * value bytes. A chain of versions is walked row by row, each one cache line; a column per field
 * would cost as many misses as there are fields.
 *
 *   0 lsn f64 | 8 previous version of the key + 1 | 12 key | 16 offset | 20 length |
 *   24 slab << 8 | kind | 28 unused
 *
 * Values are never moved, and overwritten only when the whole table was given up (`release`); those
 * appended lie at multiples of 8. WAL is mostly taken in as it comes (`hold`), and its records are values
 * without another copy. One thread writes, others read what heads refer to.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { GrowingWords, weigh } from './growing-words.ts'
import { type LayerMemory, SLAB_BYTES } from './layer-memory.ts'

/** Memory per version beside its value. */
export const VERSION_BYTES = 32
/** Most versions of one layer; only addresses are reserved for them. */
export const MAX_VERSIONS = 2 ** 24

const WORDS = 8
const DOUBLES = 4
const PREV = 2
const KEY = 3
const OFFSET = 4
const LENGTH = 5
const PLACE = 6
const FIRST_SLAB_BYTES = 256 * 1024
/** Slab numbers have 24 bits; a layer is rolled long before. */
const MAX_SLABS = 2 ** 24
/** Below this many bytes a loop copies faster than a call, byte by byte or in words. */
const SHORT_COPY_BYTES = 32
const SHORT_COPY_WORDS_BYTES = 512
const EMPTY = Buffer.alloc(0)
const TOUCHED = new Float64Array(1)

/** What a reader in another thread is told. */
export interface VersionTableState {
  count: number
  valueBytes: number
  rows: SharedArrayBuffer | null
  /** Those that are not known there. */
  slabs: SharedArrayBuffer[]
  /** Bytes of the last slab that are in use. */
  slabUsed: number
}

export class VersionTable {
  readonly #rowWords = new GrowingWords(MAX_VERSIONS * WORDS)
  #words = this.#rowWords.words
  #doubles = this.#rowWords.doubles
  #count = 0
  readonly #slabs: Buffer[] = []
  readonly #slabWords: Int32Array[] = []
  /** By slab: slices of it were given to readers. */
  readonly #isLent: boolean[] = []
  /** Where memory comes from and goes to; null = what is new, and the garbage collector. */
  readonly #memory: LayerMemory | null
  #slab: Buffer = EMPTY
  /** What `hold` returned last, and where it lies. */
  #held: Buffer = EMPTY
  #heldPlace = 0
  #heldOffset = 0
  #slabUsed = 0
  /** Another thread may know the rows. */
  #isTold = false
  /** What was held may still be read. */
  #isHeld = false
  #valueBytes = 0

  constructor(memory: LayerMemory | null = null) {
    this.#memory = memory
  }

  get count(): number {
    return this.#count
  }

  /** Bytes of all values. */
  get valueBytes(): number {
    return this.#valueBytes
  }

  get slabCount(): number {
    return this.#slabs.length
  }

  /** With the slabs from number `fromSlab` on. */
  stateFrom(fromSlab: number): VersionTableState {
    this.#isTold = true
    return {
      count: this.#count,
      valueBytes: this.#valueBytes,
      rows: this.#rowWords.buffer,
      slabs: this.#slabs.slice(fromSlab).map((slab) => slab.buffer as unknown as SharedArrayBuffer),
      slabUsed: this.#slabUsed,
    }
  }

  /** As the writer in another thread has it; null rows are those that are known. */
  learn({ count, valueBytes, rows, slabs, slabUsed }: VersionTableState): void {
    this.#isTold = true
    if (rows) this.#rowWords.use(rows)
    this.#count = count
    this.#valueBytes = valueBytes
    this.reach(count)
    for (const slab of slabs) {
      weigh(slab)
      this.#useSlab(slab)
    }
    this.#slabUsed = slabUsed
  }

  /**
   * Makes the row of version `end` - 1 readable, which the writer may have added a moment ago; not
   * its value.
   */
  reach(end: number): void {
    if (end * WORDS <= this.#words.length) return
    this.#rowWords.refresh()
    this.#useRows()
  }

  lsn(version: number): Lsn {
    return this.#doubles[version * DOUBLES] as number
  }

  /** Version + 1 that came before in its chain, 0 = none. */
  prev(version: number): number {
    return this.#words[version * WORDS + PREV] as number
  }

  key(version: number): number {
    return this.#words[version * WORDS + KEY] as number
  }

  kind(version: number): number {
    return (this.#words[version * WORDS + PLACE] as number) & 0xff
  }

  length(version: number): number {
    return this.#words[version * WORDS + LENGTH] as number
  }

  /** Where the value starts in `slab`. */
  offset(version: number): number {
    return this.#words[version * WORDS + OFFSET] as number
  }

  /** The memory that holds the value. */
  slab(version: number): Buffer {
    return this.#slabs[(this.#words[version * WORDS + PLACE] as number) >>> 8] ?? EMPTY
  }

  /** A view of the value. */
  value(version: number): Buffer {
    const offset = this.offset(version)
    this.#isLent[(this.#words[version * WORDS + PLACE] as number) >>> 8] = true
    return this.slab(version).subarray(offset, offset + this.length(version))
  }

  /**
   * Copies bytes that many values are parts of, and returns them where they are kept: values given
   * from there are not copied again, until the next call. They lie like `alignment`, modulo 8.
   */
  hold(bytes: Buffer, alignment: number): Buffer {
    const skew = alignment % 8
    if (roundUp(this.#slabUsed) + skew + bytes.length > this.#slab.length) {
      this.#addSlab(skew + bytes.length)
    }
    const offset = roundUp(this.#slabUsed) + skew
    const end = offset + bytes.length
    bytes.copy(this.#slab, offset)
    this.#slabUsed = end
    this.#valueBytes += bytes.length
    this.#isHeld = true
    this.#held = this.#slab.subarray(offset, end)
    this.#heldOffset = offset
    this.#heldPlace = this.#slabs.length - 1
    return this.#held
  }

  /** Nobody reads what `hold` returned any more. */
  letGo(): void {
    this.#isHeld = false
  }

  /** Gives the memory up: nobody will look at the table again, but slices of values stay good. */
  release(): void {
    const memory = this.#memory
    const rows = this.#rowWords.buffer
    if (memory === null) return
    if (rows !== null && rows.byteLength > memory.smallestRowsBytes) memory.giveBackRows(rows)
    for (const [place, slab] of this.#slabs.entries()) {
      if (slab.length !== memory.slabBytes || this.#isLent[place]) continue
      if (this.#isHeld && place === this.#heldPlace) continue
      memory.giveBackSlab(slab.buffer as unknown as SharedArrayBuffer)
    }
  }

  /** Adds a version that is in no chain yet; copies the bytes. */
  append(lsn: Lsn, kind: number, src: Buffer, offset: number, length: number): number {
    const version = this.#count
    assert(version < MAX_VERSIONS, 'an open layer is rolled before its versions pass 2^24')
    if ((version + 1) * WORDS > this.#words.length) {
      this.#growRows((version + 1) * WORDS)
    }
    this.#count = version + 1
    let to = 0
    let place = 0
    if (src === this.#held) {
      to = this.#heldOffset + offset
      place = this.#heldPlace
    } else if (length > 0) {
      to = this.#copyIn(src, offset, length)
      place = this.#slabs.length - 1
    }
    const words = this.#words
    const at = version * WORDS
    this.#doubles[version * DOUBLES] = lsn
    words[at + OFFSET] = to
    words[at + LENGTH] = length
    words[at + PLACE] = (place << 8) | kind
    return version
  }

  /** Puts the version behind `prev` (version + 1) in the key's chain. */
  chain(version: number, key: number, prev: number): void {
    const at = version * WORDS
    this.#words[at + PREV] = prev
    this.#words[at + KEY] = key
  }

  /** Counts the versions of each key that lie before the key's end. */
  countByKey(ends: Uint32Array, counts: Uint32Array): void {
    const words = this.#words
    const end = this.#count
    for (let version = 0, at = KEY; version < end; version++, at += WORDS) {
      const key = words[at] as number
      if (version < (ends[key] as number)) counts[key] = (counts[key] as number) + 1
    }
  }

  /** Puts each of these versions to its key's place in `order`, and moves the place on. */
  placeByKey(ends: Uint32Array, places: Uint32Array, order: Uint32Array): void {
    const words = this.#words
    const end = this.#count
    for (let version = 0, at = KEY; version < end; version++, at += WORDS) {
      const key = words[at] as number
      if (version >= (ends[key] as number)) continue
      const place = places[key] as number
      order[place] = version
      places[key] = place + 1
    }
  }

  /**
   * Reads a little of each version, so that the cache has it. The reads do not depend on each other,
   * so memory answers many of them at the same time; copying one version after the other waits for each.
   */
  touch(order: Uint32Array, from: number, to: number): void {
    const words = this.#words
    let sum = 0
    for (let at = from; at < to; at++) sum += words[(order[at] as number) * WORDS + KEY] as number
    for (let at = from; at < to; at++) {
      const row = (order[at] as number) * WORDS
      const slab = this.#slabWords[(words[row + PLACE] as number) >>> 8]
      const first = (words[row + OFFSET] as number) >>> 2
      if (slab === undefined) continue
      sum += (slab[first] as number) + (slab[first + 16] ?? 0)
    }
    // Kept, so that the reads are not optimized away.
    TOUCHED[0] = sum
  }

  /**
   * Copies the version's value to `at`. What lies up to 3 bytes behind is overwritten, too; `view` is
   * of the same memory.
   */
  copyOut(version: number, target: Buffer, view: DataView, at: number): void {
    const words = this.#words
    const row = version * WORDS
    const length = words[row + LENGTH] as number
    const offset = words[row + OFFSET] as number
    const place = (words[row + PLACE] as number) >>> 8
    if (length <= SHORT_COPY_WORDS_BYTES && (offset & 3) === 0) {
      const slab = this.#slabWords[place]
      const first = offset >>> 2
      const end = first + ((length + 3) >>> 2)
      if (slab === undefined) return
      for (let from = first, to = at; from < end; from++, to += 4) {
        view.setInt32(to, slab[from] as number, true)
      }
      return
    }
    this.#slabs[place]?.copy(target, at, offset, offset + length)
  }

  #copyIn(src: Buffer, from: number, length: number): number {
    if (roundUp(this.#slabUsed) + length > this.#slab.length) this.#addSlab(length)
    const slab = this.#slab
    const to = roundUp(this.#slabUsed)
    this.#slabUsed = to + length
    this.#valueBytes += length
    if (length <= SHORT_COPY_BYTES) {
      for (let index = 0; index < length; index++) slab[to + index] = src[from + index] as number
    } else {
      src.copy(slab, to, from, from + length)
    }
    return to
  }

  #addSlab(atLeastBytes: number): void {
    const most = this.#memory?.slabBytes ?? SLAB_BYTES
    const planned = Math.min(most, FIRST_SLAB_BYTES * 2 ** Math.min(this.#slabs.length, 5))
    assert(this.#slabs.length < MAX_SLABS, 'an open layer is rolled before it has 2^24 slabs')
    const bytes = Math.max(planned, roundUp(atLeastBytes))
    if (this.#memory !== null && bytes === most) this.#useSlab(this.#memory.takeSlab())
    else {
      const slab = new SharedArrayBuffer(bytes)
      weigh(slab)
      this.#useSlab(slab)
    }
    this.#slabUsed = 0
  }

  #useSlab(slab: SharedArrayBuffer): void {
    this.#slab = Buffer.from(slab)
    this.#slabs.push(this.#slab)
    this.#isLent.push(false)
    this.#slabWords.push(new Int32Array(slab))
  }

  /**
   * Rows of a layer that becomes large are those of one that is gone, if there are any. Whoever was told
   * of other ones keeps reading those, so then they grow.
   */
  #growRows(words: number): void {
    const own = this.#words
    const memory = this.#memory
    if (memory !== null && own.byteLength >= memory.smallestRowsBytes && !this.#isTold) {
      const rows = memory.takeRows(own.byteLength + 1)
      if (rows) {
        this.#rowWords.use(rows)
        this.#useRows()
        this.#words.set(own)
      }
    }
    this.#rowWords.reserve(words)
    this.#useRows()
  }

  #useRows(): void {
    this.#words = this.#rowWords.words
    this.#doubles = this.#rowWords.doubles
  }
}

function roundUp(bytes: number): number {
  return (bytes + 7) & ~7
}
