/**
 * The relations that ingest has met: for each (tablespace, database, relation, fork) the slots of
 * its blocks and of its size, and its size in blocks including what is not published yet.
 *
 * A hash table over typed arrays, because it is asked once per block reference. Ingest is the only
 * writer of sizes, so a size once read from the timeline stays right.
 */
import { KeyClass } from '../keyspace/key-class.ts'
import type { IngestTarget } from './ingest-target.ts'

const RECENT = 64

/** Size of a fork that does not exist. */
export const ABSENT = -1

export class RelationTable {
  /** Columns by relation index, as `find` returns it. */
  blockSlot = new Uint32Array(1024)
  sizeSlot = new Uint32Array(1024)
  /** Blocks, or ABSENT. */
  size = new Float64Array(1024)
  #spc = new Uint32Array(1024)
  #db = new Uint32Array(1024)
  #rel = new Uint32Array(1024)
  #fork = new Uint8Array(1024)
  /** Relation index + 1 per bucket; 0 is free. */
  #buckets = new Uint32Array(4096)
  #count = 0
  /** Index of the relation met last, by the low bits of its number: records of a few take turns. */
  #recent = new Uint32Array(RECENT)
  #target: IngestTarget

  constructor(target: IngestTarget) {
    this.#target = target
  }

  /** Index of the fork's row, made on first sight. Indexes stay valid for the table's life. */
  find(spc: number, db: number, rel: number, fork: number): number {
    const place = (rel ^ (fork << 4)) & (RECENT - 1)
    const last = this.#recent[place] as number
    if (
      this.#rel[last] === rel &&
      this.#fork[last] === fork &&
      this.#db[last] === db &&
      this.#spc[last] === spc &&
      last < this.#count
    ) {
      return last
    }
    const found = this.#find(spc, db, rel, fork)
    this.#recent[place] = found
    return found
  }

  #find(spc: number, db: number, rel: number, fork: number): number {
    const mask = this.#buckets.length - 1
    let bucket = hash(spc, db, rel, fork) & mask
    for (;;) {
      const entry = this.#buckets[bucket] as number
      if (entry === 0) break
      const index = entry - 1
      if (
        this.#rel[index] === rel &&
        this.#fork[index] === fork &&
        this.#db[index] === db &&
        this.#spc[index] === spc
      ) {
        return index
      }
      bucket = (bucket + 1) & mask
    }
    return this.#add(spc, db, rel, fork)
  }

  /** Rows of the database, those of absent forks included. */
  *ofDatabase(spc: number, db: number): Generator<number> {
    for (let index = 0; index < this.#count; index += 1) {
      if (this.#spc[index] === spc && this.#db[index] === db) yield index
    }
  }

  #add(spc: number, db: number, rel: number, fork: number): number {
    if (this.#count === this.size.length) this.#grow()
    const index = this.#count
    this.#count += 1
    this.#spc[index] = spc
    this.#db[index] = db
    this.#rel[index] = rel
    this.#fork[index] = fork
    const sizeSlot = this.#target.slot(KeyClass.RelSize, spc, db, rel, fork)
    this.blockSlot[index] = this.#target.slot(KeyClass.RelBlock, spc, db, rel, fork)
    this.sizeSlot[index] = sizeSlot
    this.size[index] = this.#target.latestRelSize(sizeSlot) ?? ABSENT
    this.#place(index)
    return index
  }

  #place(index: number): void {
    const mask = this.#buckets.length - 1
    let bucket =
      hash(
        this.#spc[index] as number,
        this.#db[index] as number,
        this.#rel[index] as number,
        this.#fork[index] as number,
      ) & mask
    while (this.#buckets[bucket] !== 0) bucket = (bucket + 1) & mask
    this.#buckets[bucket] = index + 1
  }

  #grow(): void {
    const capacity = this.size.length * 2
    this.blockSlot = larger(this.blockSlot, new Uint32Array(capacity))
    this.sizeSlot = larger(this.sizeSlot, new Uint32Array(capacity))
    this.size = larger(this.size, new Float64Array(capacity))
    this.#spc = larger(this.#spc, new Uint32Array(capacity))
    this.#db = larger(this.#db, new Uint32Array(capacity))
    this.#rel = larger(this.#rel, new Uint32Array(capacity))
    this.#fork = larger(this.#fork, new Uint8Array(capacity))
    this.#buckets = new Uint32Array(capacity * 4)
    for (let index = 0; index < this.#count; index += 1) this.#place(index)
  }
}

function larger<T extends Uint8Array | Uint32Array | Float64Array>(old: T, next: T): T {
  next.set(old)
  return next
}

function hash(spc: number, db: number, rel: number, fork: number): number {
  let value = Math.imul(rel ^ (fork << 29), 0x9e3779b1)
  value = Math.imul(value ^ (value >>> 15) ^ db, 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 13) ^ spc, 0xc2b2ae35)
  return (value ^ (value >>> 16)) >>> 0
}
