/**
 * Interns key prefixes (class, spc, db, rel, fork) as small numbers, so that a key in memory is two
 * words (slot, blk). One table serves all timelines of a tenant: a read that falls through to an
 * ancestor keeps its slots. Slots are handed out in order of first use and never change; they do
 * not sort as prefixes do, `compare` does that.
 *
 * The threads that work for the tenant share it (`describe`, `open`). Each may add slots, under a
 * lock that is held for a moment; looking one up takes no lock.
 */
import { assert } from '#libs/errors.ts'
import { GrowingWords } from '../layers/growing-words.ts'
import type { Key } from './key.ts'

/** A row: class << 8 | fork, spc, db, rel. */
const ROW = 4
const MAX_SLOTS = 2 ** 22
/** Words of the first hash; each is twice as large as the one before and lies behind it. */
const FIRST_HASH = 2048
const MAX_HASH_WORDS = 4 * MAX_SLOTS
/** Has no slot in it. */
const NO_HASH: Uint32Array<ArrayBufferLike> = new Uint32Array(1)

/** Words of the header. */
const LOCK = 0
const COUNT = 1
const GENERATION = 2
const HEADER_BYTES = 16
/** A thread that holds the lock may have lost its processor for as long. */
const LOCK_WAIT_MS = 1

/** A table for another thread. */
export interface SlotTableDescription {
  header: SharedArrayBuffer
  rows: SharedArrayBuffer
  hashes: SharedArrayBuffer
}

export class SlotTable {
  #header = new Int32Array(new SharedArrayBuffer(HEADER_BYTES))
  readonly #rowWords = new GrowingWords(MAX_SLOTS * ROW)
  readonly #hashWords = new GrowingWords(MAX_HASH_WORDS)
  #rows = this.#rowWords.words
  /** Slot + 1 by open addressing, 0 = free; always at most half full. */
  #hash = NO_HASH
  /** Which hash: 0 is `NO_HASH`. */
  #generation = 0
  #last = -1

  /** The table of another thread. */
  static open({ header, rows, hashes }: SlotTableDescription): SlotTable {
    const table = new SlotTable()
    table.#header = new Int32Array(header)
    table.#rowWords.use(rows)
    table.#hashWords.use(hashes)
    table.#refresh()
    return table
  }

  /** Opens the table in other threads, at any time. */
  describe(): SlotTableDescription {
    this.#rowWords.reserve(ROW)
    this.#hashWords.reserve(FIRST_HASH)
    return {
      header: this.#header.buffer as unknown as SharedArrayBuffer,
      rows: this.#rowWords.buffer as SharedArrayBuffer,
      hashes: this.#hashWords.buffer as SharedArrayBuffer,
    }
  }

  get count(): number {
    return Atomics.load(this.#header, COUNT)
  }

  /** The slot of a prefix, made when new. */
  intern(cls: number, spc: number, db: number, rel: number, fork: number): number {
    const last = this.#last
    if (last >= 0 && this.#is(last, cls, spc, db, rel, fork)) return last
    let slot = this.#probe(cls, spc, db, rel, fork)
    if (slot < 0) slot = this.#locked(() => this.#intern(cls, spc, db, rel, fork))
    this.#last = slot
    return slot
  }

  /** The slot of a prefix, or -1 when it was never seen. */
  find(cls: number, spc: number, db: number, rel: number, fork: number): number {
    const slot = this.#probe(cls, spc, db, rel, fork)
    if (slot >= 0 || Atomics.load(this.#header, GENERATION) === this.#generation) return slot
    this.#refresh()
    return this.#probe(cls, spc, db, rel, fork)
  }

  cls(slot: number): number {
    return this.#word(slot, 0) >>> 8
  }

  spc(slot: number): number {
    return this.#word(slot, 1)
  }

  db(slot: number): number {
    return this.#word(slot, 2)
  }

  rel(slot: number): number {
    return this.#word(slot, 3)
  }

  fork(slot: number): number {
    return this.#word(slot, 0) & 0xff
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
      this.#word(slot, 3) === rel &&
      this.#word(slot, 0) === ((cls << 8) | fork) &&
      this.#word(slot, 2) === db &&
      this.#word(slot, 1) === spc
    )
  }

  #word(slot: number, index: number): number {
    const at = slot * ROW + index
    // Another thread may have added the slot a moment ago.
    if (at >= this.#rows.length) this.#refreshRows()
    return this.#rows[at] as number
  }

  #probe(cls: number, spc: number, db: number, rel: number, fork: number): number {
    const hash = this.#hash
    const mask = hash.length - 1
    for (let at = hashPrefix(cls, spc, db, rel, fork) & mask; ; at = (at + 1) & mask) {
      const slot = Atomics.load(hash, at) - 1
      if (slot < 0 || this.#is(slot, cls, spc, db, rel, fork)) return slot
    }
  }

  /** Within the lock: nobody else adds. */
  #intern(cls: number, spc: number, db: number, rel: number, fork: number): number {
    this.#refresh()
    const found = this.#probe(cls, spc, db, rel, fork)
    return found >= 0 ? found : this.#add(cls, spc, db, rel, fork)
  }

  #add(cls: number, spc: number, db: number, rel: number, fork: number): number {
    const slot = this.count
    assert(slot < MAX_SLOTS, 'a tenant has less than 2^22 relation forks and other prefixes')
    this.#rowWords.reserve((slot + 1) * ROW)
    this.#rows = this.#rowWords.words
    const at = slot * ROW
    this.#rows[at] = (cls << 8) | fork
    this.#rows[at + 1] = spc
    this.#rows[at + 2] = db
    this.#rows[at + 3] = rel
    if ((slot + 1) * 2 > this.#hash.length) this.#growHash(slot)
    this.#insertHash(slot)
    Atomics.store(this.#header, COUNT, slot + 1)
    return slot
  }

  #insertHash(slot: number): void {
    const mask = this.#hash.length - 1
    let at =
      hashPrefix(this.cls(slot), this.spc(slot), this.db(slot), this.rel(slot), this.fork(slot)) &
      mask
    while (this.#hash[at] !== 0) at = (at + 1) & mask
    Atomics.store(this.#hash, at, slot + 1)
  }

  #growHash(count: number): void {
    const generation = this.#generation + 1
    this.#hashWords.reserve(FIRST_HASH * (2 ** generation - 1))
    this.#useHash(generation)
    for (let slot = 0; slot < count; slot++) this.#insertHash(slot)
    Atomics.store(this.#header, GENERATION, generation)
  }

  #useHash(generation: number): void {
    const words = FIRST_HASH * 2 ** (generation - 1)
    const start = words - FIRST_HASH
    this.#generation = generation
    this.#hash = this.#hashWords.words.subarray(start, start + words)
  }

  /** Sees what other threads have added. */
  #refresh(): void {
    this.#refreshRows()
    const generation = Atomics.load(this.#header, GENERATION)
    if (generation === this.#generation) return
    this.#hashWords.refresh()
    this.#useHash(generation)
  }

  #refreshRows(): void {
    this.#rowWords.refresh()
    this.#rows = this.#rowWords.words
  }

  #locked<T>(work: () => T): T {
    const header = this.#header
    while (Atomics.compareExchange(header, LOCK, 0, 1) !== 0) {
      Atomics.wait(header, LOCK, 1, LOCK_WAIT_MS)
    }
    try {
      return work()
    } finally {
      Atomics.store(header, LOCK, 0)
      Atomics.notify(header, LOCK)
    }
  }
}

function hashPrefix(cls: number, spc: number, db: number, rel: number, fork: number): number {
  let h = Math.imul(rel, 0x9e3779b1) ^ Math.imul(db, 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 15), 0xc2b2ae35) ^ Math.imul(spc, 0x27d4eb2f)
  h = Math.imul(h ^ (h >>> 13), 0x165667b1) ^ (cls * 4 + fork)
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  return (h ^ (h >>> 14)) >>> 0
}
