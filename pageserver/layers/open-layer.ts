/**
 * The newest part of a timeline's history, in memory: every version since the last freeze.
 *
 * One writer appends versions in LSN order; each key (slot, blk) heads a chain of them, newest
 * first. Everything is columns and slabs: a version costs 27 bytes beside its value, and no object.
 * Values are never moved or overwritten, so a slice handed to a reader stays good for as long as
 * it is held, also after the layer has been flushed.
 *
 * Images made by the page server itself (chain cap) hang on a second chain of the key, because
 * their LSN may be older than versions that arrived while they were made. An image at LSN x stands
 * for everything at or below x.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { isBaseKind, ValueKind } from '../keyspace/key-class.ts'
import { grown } from './column.ts'

/** Most keys of one layer; sorting packs (blk, key index) into one double, 32 + 21 bits. */
export const MAX_KEYS = 2 ** 21
const FIRST_SLAB_BYTES = 256 * 1024
const SLAB_BYTES = 8 * 1024 * 1024
const FIRST_CAPACITY = 1024
/** Rough bytes of columns and hash per version and per key, for the memory bound. */
const VERSION_BYTES = 27
const KEY_BYTES = 28
/** Below this many bytes a loop copies faster than a call. */
const SHORT_COPY_BYTES = 32

/**
 * Work that a read of the key's tip costs, in units of 1/256 of the cap: a record counts 4 and one
 * more per 256 bytes, a native op 1. So the cap is 64 records, 64 KiB or 256 native ops.
 */
export const CHAIN_COST_CAP = 256

/** What a reader collects, newest first. */
export interface VersionSink {
  push(kind: number, lsn: Lsn, value: Buffer): void
}

/** A layer file being written. */
export interface VersionWriter {
  add(
    slot: number,
    blk: number,
    lsn: Lsn,
    kind: number,
    src: Buffer,
    offset: number,
    length: number,
  ): boolean
}

const EMPTY = Buffer.alloc(0)

export class OpenLayer {
  /** No version has a smaller LSN. */
  readonly startLsn: Lsn
  #keySlot = new Uint32Array(FIRST_CAPACITY)
  #keyBlk = new Uint32Array(FIRST_CAPACITY)
  /** Newest version + 1, 0 = none. */
  #keyHead = new Uint32Array(FIRST_CAPACITY)
  /** Newest own image + 1, 0 = none. */
  #keyImage = new Uint32Array(FIRST_CAPACITY)
  #keyCost = new Uint32Array(FIRST_CAPACITY)
  #keyCount = 0
  /** Key index + 1 by open addressing; at most half full. */
  #hash = new Uint32Array(FIRST_CAPACITY * 2)

  #prev = new Uint32Array(FIRST_CAPACITY)
  #lsn = new Float64Array(FIRST_CAPACITY)
  #key = new Uint32Array(FIRST_CAPACITY)
  #slab = new Uint16Array(FIRST_CAPACITY)
  #offset = new Uint32Array(FIRST_CAPACITY)
  #length = new Uint32Array(FIRST_CAPACITY)
  #kind = new Uint8Array(FIRST_CAPACITY)
  #versionCount = 0

  #slabs: Buffer[] = []
  #slabUsed = 0
  #slabBytes = 0
  #ownImageBytes = 0

  constructor(startLsn: Lsn) {
    this.startLsn = startLsn
  }

  get keyCount(): number {
    return this.#keyCount
  }

  get versionCount(): number {
    return this.#versionCount
  }

  /** Memory held, roughly. */
  get sizeBytes(): number {
    return this.#slabBytes + this.#versionCount * VERSION_BYTES + this.#keyCount * KEY_BYTES
  }

  /** Bytes of images that the page server added itself. */
  get ownImageBytes(): number {
    return this.#ownImageBytes
  }

  /** Appends a version; returns the key's index when its chain has just passed the cap, else -1. */
  put(
    slot: number,
    blk: number,
    lsn: Lsn,
    kind: number,
    src: Buffer,
    offset: number,
    length: number,
  ): number {
    const key = this.#internKey(slot, blk)
    const version = this.#append(key, lsn, kind, src, offset, length)
    this.#prev[version] = this.#keyHead[key] as number
    this.#keyHead[key] = version + 1
    if (isBaseKind(kind)) {
      this.#keyCost[key] = 0
      return -1
    }
    const before = this.#keyCost[key] as number
    const after = before + costOf(kind, length)
    this.#keyCost[key] = after
    return before >>> 8 === after >>> 8 ? -1 : key
  }

  /**
   * Adds a page that the page server built: the key's value at `lsn`, which may be older than
   * versions already here.
   */
  putOwnImage(slot: number, blk: number, lsn: Lsn, page: Buffer): void {
    assert(lsn >= this.startLsn, 'an own image belongs to the layer of its LSN')
    const key = this.#internKey(slot, blk)
    const newest = this.#keyImage[key] as number
    if (newest !== 0 && (this.#lsn[newest - 1] as number) >= lsn) return
    const version = this.#append(key, lsn, ValueKind.Image, page, 0, page.length)
    this.#ownImageBytes += page.length
    this.#prev[version] = newest
    this.#keyImage[key] = version + 1
    let cost = 0
    for (let at = this.#keyHead[key] as number; at !== 0; at = this.#prev[at - 1] as number) {
      if ((this.#lsn[at - 1] as number) <= lsn || isBaseKind(this.#kind[at - 1] as number)) break
      cost += costOf(this.#kind[at - 1] as number, this.#length[at - 1] as number)
    }
    this.#keyCost[key] = cost
  }

  /** Index of a key, or -1. */
  find(slot: number, blk: number): number {
    const mask = this.#hash.length - 1
    let at = hashKey(slot, blk) & mask
    for (;;) {
      const entry = this.#hash[at] as number
      if (entry === 0) return -1
      if (this.#keyBlk[entry - 1] === blk && this.#keySlot[entry - 1] === slot) return entry - 1
      at = (at + 1) & mask
    }
  }

  keySlot(key: number): number {
    return this.#keySlot[key] as number
  }

  keyBlk(key: number): number {
    return this.#keyBlk[key] as number
  }

  /**
   * Hands the key's versions below `ceilingLsn` (exclusive) to the sink, newest first, down to the
   * first that needs nothing older. Returns true when it found that one.
   */
  collect(key: number, ceilingLsn: Lsn, sink: VersionSink): boolean {
    let image = this.#keyImage[key] as number
    while (image !== 0 && (this.#lsn[image - 1] as number) >= ceilingLsn) {
      image = this.#prev[image - 1] as number
    }
    const imageLsn = image === 0 ? -1 : (this.#lsn[image - 1] as number)
    for (let at = this.#keyHead[key] as number; at !== 0; at = this.#prev[at - 1] as number) {
      const lsn = this.#lsn[at - 1] as number
      if (lsn >= ceilingLsn) continue
      if (lsn <= imageLsn) break
      const kind = this.#kind[at - 1] as number
      sink.push(kind, lsn, this.#value(at - 1))
      if (isBaseKind(kind)) return true
    }
    if (image === 0) return false
    sink.push(ValueKind.Image, imageLsn, this.#value(image - 1))
    return true
  }

  /**
   * Moves versions above `publishedLsn` into `next`, in their order. Called at a freeze that falls
   * between a writer's puts and its publish.
   */
  moveUnpublished(publishedLsn: Lsn, next: OpenLayer): void {
    const moved: number[] = []
    for (let version = this.#versionCount - 1; version >= 0; version--) {
      if ((this.#lsn[version] as number) > publishedLsn) moved.push(version)
      // Own images are never unpublished but may lie between unpublished puts.
      else if (!this.#isOwnImage(version)) break
    }
    for (const version of moved) {
      const key = this.#key[version] as number
      this.#keyHead[key] = this.#prev[version] as number
    }
    for (const version of moved.reverse()) {
      const key = this.#key[version] as number
      const value = this.#value(version)
      next.put(
        this.keySlot(key),
        this.keyBlk(key),
        this.#lsn[version] as number,
        this.#kind[version] as number,
        value,
        0,
        value.length,
      )
    }
  }

  /** Keys of one slot each, in block order: (slot, key indexes). Order of slots is the caller's. */
  keysBySlot(): Map<number, Uint32Array> {
    const counts = new Map<number, number>()
    for (let key = 0; key < this.#keyCount; key++) {
      if (!this.#hasVersions(key)) continue
      const slot = this.#keySlot[key] as number
      counts.set(slot, (counts.get(slot) ?? 0) + 1)
    }
    const packed = new Map<number, Float64Array>()
    for (const [slot, count] of counts) packed.set(slot, new Float64Array(count))
    const filled = new Map<number, number>()
    for (let key = 0; key < this.#keyCount; key++) {
      if (!this.#hasVersions(key)) continue
      const slot = this.#keySlot[key] as number
      const at = filled.get(slot) ?? 0
      filled.set(slot, at + 1)
      const column = packed.get(slot) as Float64Array
      column[at] = (this.#keyBlk[key] as number) * MAX_KEYS + key
    }
    const sorted = new Map<number, Uint32Array>()
    for (const [slot, column] of packed) {
      column.sort()
      sorted.set(
        slot,
        Uint32Array.from(column, (value) => value % MAX_KEYS),
      )
    }
    return sorted
  }

  /** All versions of a key, oldest first, own images after what they stand for. */
  versionsAscending(key: number): number[] {
    const versions: number[] = []
    let image = this.#keyImage[key] as number
    let at = this.#keyHead[key] as number
    while (at !== 0 || image !== 0) {
      const lsn = at === 0 ? -1 : (this.#lsn[at - 1] as number)
      if (image !== 0 && (this.#lsn[image - 1] as number) >= lsn) {
        versions.push(image - 1)
        image = this.#prev[image - 1] as number
      } else {
        versions.push(at - 1)
        at = this.#prev[at - 1] as number
      }
    }
    return versions.reverse()
  }

  /** Appends one version to a layer file; returns what its `add` does. */
  writeVersion(version: number, slot: number, blk: number, writer: VersionWriter): boolean {
    return writer.add(
      slot,
      blk,
      this.#lsn[version] as number,
      this.#kind[version] as number,
      this.#slabs[this.#slab[version] as number] ?? EMPTY,
      this.#offset[version] as number,
      this.#length[version] as number,
    )
  }

  /** False for a key whose versions all moved to the next layer. */
  #hasVersions(key: number): boolean {
    return this.#keyHead[key] !== 0 || this.#keyImage[key] !== 0
  }

  #isOwnImage(version: number): boolean {
    const key = this.#key[version] as number
    for (let at = this.#keyImage[key] as number; at !== 0; at = this.#prev[at - 1] as number) {
      if (at - 1 === version) return true
      if (at - 1 < version) return false
    }
    return false
  }

  #value(version: number): Buffer {
    const length = this.#length[version] as number
    if (length === 0) return EMPTY
    const offset = this.#offset[version] as number
    const slab = this.#slabs[this.#slab[version] as number] as Buffer
    return slab.subarray(offset, offset + length)
  }

  #append(
    key: number,
    lsn: Lsn,
    kind: number,
    src: Buffer,
    offset: number,
    length: number,
  ): number {
    const version = this.#versionCount
    if (version === this.#prev.length) this.#growVersions()
    this.#versionCount = version + 1
    this.#key[version] = key
    this.#lsn[version] = lsn
    this.#kind[version] = kind
    this.#length[version] = length
    if (length > 0) this.#copyIn(version, src, offset, length)
    return version
  }

  #copyIn(version: number, src: Buffer, from: number, length: number): void {
    let slab = this.#slabs[this.#slabs.length - 1]
    if (slab === undefined || this.#slabUsed + length > slab.length) slab = this.#addSlab(length)
    const to = this.#slabUsed
    this.#slabUsed = to + length
    this.#slabBytes += length
    this.#slab[version] = this.#slabs.length - 1
    this.#offset[version] = to
    if (length <= SHORT_COPY_BYTES) {
      for (let index = 0; index < length; index++) slab[to + index] = src[from + index] as number
    } else {
      src.copy(slab, to, from, from + length)
    }
  }

  #addSlab(atLeastBytes: number): Buffer {
    const planned = Math.min(SLAB_BYTES, FIRST_SLAB_BYTES * 2 ** Math.min(this.#slabs.length, 5))
    assert(this.#slabs.length < 0xffff, 'an open layer is rolled long before 65535 slabs')
    const slab = Buffer.allocUnsafeSlow(Math.max(planned, atLeastBytes))
    this.#slabs.push(slab)
    this.#slabUsed = 0
    return slab
  }

  #internKey(slot: number, blk: number): number {
    const mask = this.#hash.length - 1
    let at = hashKey(slot, blk) & mask
    for (;;) {
      const entry = this.#hash[at] as number
      if (entry === 0) break
      if (this.#keyBlk[entry - 1] === blk && this.#keySlot[entry - 1] === slot) return entry - 1
      at = (at + 1) & mask
    }
    const key = this.#keyCount
    assert(key < MAX_KEYS, 'an open layer is rolled before its keys pass 2^21')
    if (key === this.#keySlot.length) this.#growKeys()
    this.#keyCount = key + 1
    this.#keySlot[key] = slot
    this.#keyBlk[key] = blk
    this.#insertHash(key)
    return key
  }

  #insertHash(key: number): void {
    const mask = this.#hash.length - 1
    let at = hashKey(this.#keySlot[key] as number, this.#keyBlk[key] as number) & mask
    while (this.#hash[at] !== 0) at = (at + 1) & mask
    this.#hash[at] = key + 1
  }

  #growKeys(): void {
    const capacity = this.#keySlot.length * 2
    this.#keySlot = grown(this.#keySlot, capacity)
    this.#keyBlk = grown(this.#keyBlk, capacity)
    this.#keyHead = grown(this.#keyHead, capacity)
    this.#keyImage = grown(this.#keyImage, capacity)
    this.#keyCost = grown(this.#keyCost, capacity)
    this.#hash = new Uint32Array(capacity * 2)
    for (let key = 0; key < this.#keyCount; key++) this.#insertHash(key)
  }

  #growVersions(): void {
    const capacity = this.#prev.length * 2
    this.#prev = grown(this.#prev, capacity)
    this.#lsn = grown(this.#lsn, capacity)
    this.#key = grown(this.#key, capacity)
    this.#slab = grown(this.#slab, capacity)
    this.#offset = grown(this.#offset, capacity)
    this.#length = grown(this.#length, capacity)
    this.#kind = grown(this.#kind, capacity)
  }
}

function costOf(kind: number, length: number): number {
  return kind === ValueKind.NativeOp ? 1 : 4 + (length >>> 8)
}

function hashKey(slot: number, blk: number): number {
  let h = Math.imul(blk, 0x9e3779b1) ^ Math.imul(slot + 1, 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 15), 0xc2b2ae35)
  return (h ^ (h >>> 13)) >>> 0
}
