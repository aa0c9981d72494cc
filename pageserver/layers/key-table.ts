/**
 * The keys of an open layer: a hash from (slot, blk) to a row of eight words. A row is half a cache
 * line, so that a put touches the hash and one place more.
 */
import { assert } from '#libs/errors.ts'
import { grown } from './column.ts'

/** Most keys of one layer; sorting packs (blk, key) into one double, 32 + 21 bits. */
export const MAX_KEYS = 2 ** 21
/** Memory per key, hash included. */
export const KEY_BYTES = 40

const ROW = 8
const SLOT = 0
const BLK = 1
const HEAD = 2
const IMAGE = 3
const COST = 4
const FIRST_CAPACITY = 1024

export class KeyTable {
  #rows = new Uint32Array(FIRST_CAPACITY * ROW)
  /** Key + 1 by open addressing, 0 = free; at most half full. */
  #hash = new Uint32Array(FIRST_CAPACITY * 2)
  #count = 0

  get count(): number {
    return this.#count
  }

  slot(key: number): number {
    return this.#rows[key * ROW + SLOT] as number
  }

  blk(key: number): number {
    return this.#rows[key * ROW + BLK] as number
  }

  /** Newest version + 1, 0 = none. */
  head(key: number): number {
    return this.#rows[key * ROW + HEAD] as number
  }

  setHead(key: number, head: number): void {
    this.#rows[key * ROW + HEAD] = head
  }

  /** Newest own image + 1, 0 = none. */
  image(key: number): number {
    return this.#rows[key * ROW + IMAGE] as number
  }

  setImage(key: number, image: number): void {
    this.#rows[key * ROW + IMAGE] = image
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
    const rows = this.#rows
    const mask = hash.length - 1
    for (let at = hashKey(slot, blk) & mask; ; at = (at + 1) & mask) {
      const key = (hash[at] as number) - 1
      if (key < 0) return -1
      if (rows[key * ROW + BLK] === blk && rows[key * ROW + SLOT] === slot) return key
    }
  }

  /** The key's number, given when new. Numbers count from 0. */
  intern(slot: number, blk: number): number {
    const found = this.find(slot, blk)
    return found >= 0 ? found : this.#add(slot, blk)
  }

  #add(slot: number, blk: number): number {
    const key = this.#count
    assert(key < MAX_KEYS, 'an open layer is rolled before its keys pass 2^21')
    if (key * 2 === this.#hash.length) this.#grow()
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
    this.#hash[at] = key + 1
  }

  #grow(): void {
    const capacity = this.#count * 2
    this.#rows = grown(this.#rows, capacity * ROW)
    this.#hash = new Uint32Array(capacity * 2)
    for (let key = 0; key < this.#count; key++) this.#insertHash(key)
  }
}

function hashKey(slot: number, blk: number): number {
  let h = Math.imul(blk, 0x9e3779b1) ^ Math.imul(slot + 1, 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 15), 0xc2b2ae35)
  return (h ^ (h >>> 13)) >>> 0
}
