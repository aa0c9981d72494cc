/**
 * The keys of an open layer: a hash from (slot, blk) to a row of eight words. A row is half a cache
 * line, so that a put touches the hash and one place more.
 *
 * One thread writes, others may read meanwhile, once they were told of the table (`share`). A row is
 * written before the hash tells of it, a version before the row tells of it. The hash never moves: a
 * larger one is made behind it, and a reader with the smaller one misses only keys that were added
 * since it was last told (`learn`).
 */
import { assert } from '#libs/errors.ts'
import { GrowingWords } from './growing-words.ts'

/** Most keys of one layer; sorting packs (blk, key) into one double, 32 + 21 bits. */
export const MAX_KEYS = 2 ** 21
/** Memory per key, hash included. */
export const KEY_BYTES = 48

const ROW = 8
const SLOT = 0
const BLK = 1
const HEAD = 2
const IMAGE = 3
const COST = 4
/** Words of the first hash; each is twice as large as the one before. */
const FIRST_HASH = 2048
/** So that reads whose result nobody needs are not optimized away. */
const TOUCHED = new Float64Array(1)
/** Has no key in it. */
const NO_HASH: Uint32Array<ArrayBufferLike> = new Uint32Array(1)

/** What a reader in another thread is told. */
export interface KeyTableState {
  count: number
  /** Which hash is in use; -1 = none yet. */
  generation: number
  rows: SharedArrayBuffer | null
  hashes: SharedArrayBuffer | null
}

export class KeyTable {
  readonly #rowWords = new GrowingWords(MAX_KEYS * ROW)
  readonly #hashWords = new GrowingWords(FIRST_HASH * (MAX_KEYS / (FIRST_HASH / 2)) * 2)
  #rows = this.#rowWords.words
  /** Key + 1 by open addressing, 0 = free; at most half full. */
  #hash = NO_HASH
  #generation = -1
  #count = 0
  /** Other threads may read meanwhile, so what tells them of more is written atomically. */
  #isShared = false

  get count(): number {
    return this.#count
  }

  /** For other threads, which from here on may read at any time. */
  share(): KeyTableState {
    this.#isShared = true
    return {
      count: this.#count,
      generation: this.#generation,
      rows: this.#rowWords.buffer,
      hashes: this.#hashWords.buffer,
    }
  }

  /** As the writer in another thread has it; null buffers are those that are known. */
  learn({ count, generation, rows, hashes }: KeyTableState): void {
    this.#isShared = true
    if (rows) this.#rowWords.use(rows)
    if (hashes) this.#hashWords.use(hashes)
    if (count * ROW > this.#rows.length) {
      this.#rowWords.refresh()
      this.#rows = this.#rowWords.words
    }
    this.#count = count
    if (generation === this.#generation) return
    this.#hashWords.refresh()
    this.#useHash(generation)
  }

  slot(key: number): number {
    return this.#rows[key * ROW + SLOT] as number
  }

  blk(key: number): number {
    return this.#rows[key * ROW + BLK] as number
  }

  /** Newest version + 1, 0 = none. What it refers to is complete, whoever asks. */
  head(key: number): number {
    return Atomics.load(this.#rows, key * ROW + HEAD)
  }

  /** As `head`, for the writer, or when nobody writes any more. */
  ownHead(key: number): number {
    return this.#rows[key * ROW + HEAD] as number
  }

  setHead(key: number, head: number): void {
    if (this.#isShared) Atomics.store(this.#rows, key * ROW + HEAD, head)
    else this.#rows[key * ROW + HEAD] = head
  }

  /** Newest own image + 1, 0 = none. */
  image(key: number): number {
    return Atomics.load(this.#rows, key * ROW + IMAGE)
  }

  /** As `image`, for the writer, or when nobody writes any more. */
  ownImage(key: number): number {
    return this.#rows[key * ROW + IMAGE] as number
  }

  setImage(key: number, image: number): void {
    Atomics.store(this.#rows, key * ROW + IMAGE, image)
  }

  /** What a read of the tip costs. */
  cost(key: number): number {
    return this.#rows[key * ROW + COST] as number
  }

  setCost(key: number, cost: number): void {
    this.#rows[key * ROW + COST] = cost
  }

  /** The key's number, or -1. */
  find(slot: number, blk: number): number {
    const hash = this.#hash
    const mask = hash.length - 1
    for (let at = hashKey(slot, blk) & mask; ; at = (at + 1) & mask) {
      const key = Atomics.load(hash, at) - 1
      // A key of another thread that is not yet told of has no version to be read.
      if (key < 0 || key >= this.#count) return -1
      if (this.#is(key, slot, blk)) return key
    }
  }

  /** The key's number, given when new. Numbers count from 0. For the writer. */
  intern(slot: number, blk: number): number {
    const hash = this.#hash
    const mask = hash.length - 1
    for (let at = hashKey(slot, blk) & mask; ; at = (at + 1) & mask) {
      const key = (hash[at] as number) - 1
      if (key < 0) return this.#add(slot, blk)
      if (this.#is(key, slot, blk)) return key
    }
  }

  /**
   * As `intern` for the first `count` keys; their numbers go to `keys`. Both places in memory that a key
   * needs are read beforehand, without a branch that depends on them, so that the processor waits for
   * many at a time.
   */
  internMany(slots: Uint32Array, blks: Uint32Array, count: number, keys: Uint32Array): void {
    const hash = this.#hash
    const rows = this.#rows
    const mask = hash.length - 1
    for (let index = 0; index < count; index++) {
      keys[index] = hash[hashKey(slots[index] as number, blks[index] as number) & mask] as number
    }
    let sum = 0
    for (let index = 0; index < count; index++) {
      sum += rows[Math.max((keys[index] as number) - 1, 0) * ROW] as number
    }
    TOUCHED[0] = sum
    for (let index = 0; index < count; index++) {
      keys[index] = this.intern(slots[index] as number, blks[index] as number)
    }
  }

  #is(key: number, slot: number, blk: number): boolean {
    const row = key * ROW
    return this.#rows[row + BLK] === blk && this.#rows[row + SLOT] === slot
  }

  #add(slot: number, blk: number): number {
    const key = this.#count
    assert(key < MAX_KEYS, 'an open layer is rolled before its keys pass 2^21')
    if ((key + 1) * ROW > this.#rows.length) {
      this.#rowWords.reserve((key + 1) * ROW)
      this.#rows = this.#rowWords.words
    }
    if ((key + 1) * 2 > this.#hash.length) this.#growHash()
    this.#count = key + 1
    this.#rows[key * ROW + SLOT] = slot
    this.#rows[key * ROW + BLK] = blk
    this.#insertHash(key)
    return key
  }

  #insertHash(key: number): void {
    const mask = this.#hash.length - 1
    let at = hashKey(this.slot(key), this.blk(key)) & mask
    while (this.#hash[at] !== 0) at = (at + 1) & mask
    Atomics.store(this.#hash, at, key + 1)
  }

  #growHash(): void {
    const generation = this.#generation + 1
    this.#hashWords.reserve(FIRST_HASH * (2 ** (generation + 1) - 1))
    this.#useHash(generation)
    for (let key = 0; key < this.#count; key++) this.#insertHash(key)
  }

  #useHash(generation: number): void {
    const words = FIRST_HASH * 2 ** generation
    const start = words - FIRST_HASH
    this.#generation = generation
    this.#hash = this.#hashWords.words.subarray(start, start + words)
  }
}

function hashKey(slot: number, blk: number): number {
  let h = Math.imul(blk, 0x9e3779b1) ^ Math.imul(slot + 1, 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 15), 0xc2b2ae35)
  return (h ^ (h >>> 13)) >>> 0
}
