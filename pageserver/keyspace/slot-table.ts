/**
 * Interns key prefixes (class, spc, db, rel, fork) as small numbers, so that a key in memory is two
 * words (slot, blk). One table serves all timelines of a tenant: a read that falls through to an
 * ancestor keeps its slots. Slots are handed out in order of first use and never change; they do
 * not sort as prefixes do, `compare` does that.
 */
import type { Key } from './key.ts'

const INITIAL_CAPACITY = 1024

export class SlotTable {
  #cls = new Uint8Array(INITIAL_CAPACITY)
  #spc = new Uint32Array(INITIAL_CAPACITY)
  #db = new Uint32Array(INITIAL_CAPACITY)
  #rel = new Uint32Array(INITIAL_CAPACITY)
  #fork = new Uint8Array(INITIAL_CAPACITY)
  /** Open addressing, slot + 1, 0 = free; always at most half full. */
  #hash = new Uint32Array(INITIAL_CAPACITY * 2)
  #count = 0
  #last = -1

  get count(): number {
    return this.#count
  }

  /** The slot of a prefix, made when new. */
  intern(cls: number, spc: number, db: number, rel: number, fork: number): number {
    const last = this.#last
    if (last >= 0 && this.#is(last, cls, spc, db, rel, fork)) return last
    const mask = this.#hash.length - 1
    let at = hashPrefix(cls, spc, db, rel, fork) & mask
    for (;;) {
      const entry = this.#hash[at] as number
      if (entry === 0) break
      if (this.#is(entry - 1, cls, spc, db, rel, fork)) {
        this.#last = entry - 1
        return entry - 1
      }
      at = (at + 1) & mask
    }
    return this.#add(cls, spc, db, rel, fork)
  }

  /** The slot of a prefix, or -1 when it was never seen. */
  find(cls: number, spc: number, db: number, rel: number, fork: number): number {
    const mask = this.#hash.length - 1
    let at = hashPrefix(cls, spc, db, rel, fork) & mask
    for (;;) {
      const entry = this.#hash[at] as number
      if (entry === 0) return -1
      if (this.#is(entry - 1, cls, spc, db, rel, fork)) return entry - 1
      at = (at + 1) & mask
    }
  }

  cls(slot: number): number {
    return this.#cls[slot] as number
  }

  spc(slot: number): number {
    return this.#spc[slot] as number
  }

  db(slot: number): number {
    return this.#db[slot] as number
  }

  rel(slot: number): number {
    return this.#rel[slot] as number
  }

  fork(slot: number): number {
    return this.#fork[slot] as number
  }

  key(slot: number, blk: number): Key {
    return {
      cls: this.cls(slot),
      spc: this.spc(slot),
      db: this.db(slot),
      rel: this.rel(slot),
      fork: this.fork(slot),
      blk,
    }
  }

  /** Order of two slots' prefixes. */
  compare(a: number, b: number): number {
    return (
      this.cls(a) - this.cls(b) ||
      this.spc(a) - this.spc(b) ||
      this.db(a) - this.db(b) ||
      this.rel(a) - this.rel(b) ||
      this.fork(a) - this.fork(b)
    )
  }

  #is(slot: number, cls: number, spc: number, db: number, rel: number, fork: number): boolean {
    return (
      this.#rel[slot] === rel &&
      this.#cls[slot] === cls &&
      this.#fork[slot] === fork &&
      this.#db[slot] === db &&
      this.#spc[slot] === spc
    )
  }

  #add(cls: number, spc: number, db: number, rel: number, fork: number): number {
    if (this.#count === this.#cls.length) this.#grow()
    const slot = this.#count++
    this.#cls[slot] = cls
    this.#spc[slot] = spc
    this.#db[slot] = db
    this.#rel[slot] = rel
    this.#fork[slot] = fork
    this.#insertHash(slot)
    this.#last = slot
    return slot
  }

  #insertHash(slot: number): void {
    const mask = this.#hash.length - 1
    let at =
      hashPrefix(this.cls(slot), this.spc(slot), this.db(slot), this.rel(slot), this.fork(slot)) &
      mask
    while (this.#hash[at] !== 0) at = (at + 1) & mask
    this.#hash[at] = slot + 1
  }

  #grow(): void {
    const capacity = this.#cls.length * 2
    this.#cls = grownBytes(this.#cls, capacity)
    this.#fork = grownBytes(this.#fork, capacity)
    this.#spc = grownWords(this.#spc, capacity)
    this.#db = grownWords(this.#db, capacity)
    this.#rel = grownWords(this.#rel, capacity)
    this.#hash = new Uint32Array(capacity * 2)
    for (let slot = 0; slot < this.#count; slot++) this.#insertHash(slot)
  }
}

function hashPrefix(cls: number, spc: number, db: number, rel: number, fork: number): number {
  let h = Math.imul(rel, 0x9e3779b1) ^ Math.imul(db, 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 15), 0xc2b2ae35) ^ Math.imul(spc, 0x27d4eb2f)
  h = Math.imul(h ^ (h >>> 13), 0x165667b1) ^ (cls * 4 + fork)
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  return (h ^ (h >>> 14)) >>> 0
}

function grownBytes(old: Uint8Array, capacity: number): Uint8Array<ArrayBuffer> {
  const grown = new Uint8Array(capacity)
  grown.set(old)
  return grown
}

function grownWords(old: Uint32Array, capacity: number): Uint32Array<ArrayBuffer> {
  const grown = new Uint32Array(capacity)
  grown.set(old)
  return grown
}
