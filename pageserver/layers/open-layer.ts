/**
 * The newest part of a timeline's history, in memory: every version since the last freeze.
 *
 * One writer appends versions in LSN order; each key (slot, blk) heads a chain of them, newest
 * first. Everything is rows of words and slabs of bytes, no object per version. Values are never
 * moved, nor overwritten while anybody has a slice of their slab: that stays good for as long as it is
 * held, also after the layer has been flushed and has given its memory back (layer-memory.ts).
 *
 * Versions come to their chains many at a time (`link`), before anybody may read them.
 *
 * All of it is memory that threads can share. What `describe` gives opens the layer in another
 * thread; what `news` gives afterwards brings that one up to what is written by then. Readers there
 * take no locks: bytes are written before the version's row, the row before the key's head (plainly,
 * while no other thread was told of the layer). They may
 * meet versions that they were not told of, and must pass them by: values are at hand up to the last
 * news only. Any thread may be the writer, one at a time, told of everything before it begins.
 *
 * Images made by the page server itself (chain cap) hang on a second chain of the key, because
 * their LSN may be older than versions that arrived while they were made. An image at LSN x stands
 * for everything at or below x.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { isBaseKind, ValueKind } from '../keyspace/key-class.ts'
import { grown } from './column.ts'
import { KEY_BYTES, KeyTable, type KeyTableState, MAX_KEYS } from './key-table.ts'
import type { LayerMemory } from './layer-memory.ts'
import { VERSION_BYTES, VersionTable, type VersionTableState } from './version-table.ts'

/**
 * Work that a read of the key's tip costs, in 1/256 of the cap: a record counts 4 and one more per
 * 256 bytes, a native op 1. So the cap is 64 records, 64 KiB or 256 native ops.
 */
const COST_SHIFT = 8

/** Versions brought into the cache before they are copied. */
const TOUCHED_AHEAD = 32
/** Versions that are linked together, at most. */
const LINKED_TOGETHER = 256
/** For no longer than a call. */
const LINKING = new Uint32Array(LINKED_TOGETHER)

/** What a reader collects, newest first. */
export interface VersionSink {
  push(kind: number, lsn: Lsn, value: Buffer): void
}

/** A layer file being written. */
export interface VersionWriter {
  /** As many bytes as the value has are to be written to `values` from the offset returned on. */
  claim(slot: number, blk: number, lsn: Lsn, kind: number, length: number): number
  readonly values: Buffer
  readonly valuesView: DataView
  /** True when somebody should wait for it. */
  readonly isBusy: boolean
}

/** What is new since the last news; the memory itself is shared, not copied. */
export interface LayerNews {
  keys: KeyTableState
  versions: VersionTableState
  ownImageBytes: number
}

/** A layer for another thread. */
export interface LayerDescription {
  startLsn: Lsn
  state: LayerNews
}

export class OpenLayer {
  /** No version has a smaller LSN. */
  readonly startLsn: Lsn
  readonly #keys = new KeyTable()
  readonly #versions: VersionTable
  #ownImageBytes = 0
  #scratch = new Uint32Array(256)
  /** The last so many versions are in no chain yet; their keys. */
  #unlinked = 0
  #unlinkedSlot = new Uint32Array(0)
  #unlinkedBlk = new Uint32Array(0)
  #hot: number[] = []
  /** What whoever takes the news knows already. */
  #told = { rows: false, hashes: false, versions: false, slabs: 0 }

  /** Given up; see `release`. */
  #isReleased = false

  /** `memory` is where its memory comes from, and what takes it again. */
  constructor(startLsn: Lsn, memory: LayerMemory | null = null) {
    this.startLsn = startLsn
    this.#versions = new VersionTable(memory)
  }

  /** Opens the layer of another thread; `news` from here tell what came after the description. */
  static open({ startLsn, state }: LayerDescription): OpenLayer {
    const layer = new OpenLayer(startLsn)
    layer.learn(state)
    layer.news()
    return layer
  }

  /** All that there is by now; news begin here. */
  describe(): LayerDescription {
    this.#told = { rows: false, hashes: false, versions: false, slabs: 0 }
    return { startLsn: this.startLsn, state: this.news() }
  }

  /** What came since the last news or description. */
  news(): LayerNews {
    this.link()
    const told = this.#told
    const keys = this.#keys.share()
    const versions = this.#versions.stateFrom(told.slabs)
    this.#told = {
      rows: keys.rows !== null,
      hashes: keys.hashes !== null,
      versions: versions.rows !== null,
      slabs: this.#versions.slabCount,
    }
    if (told.rows) keys.rows = null
    if (told.hashes) keys.hashes = null
    if (told.versions) versions.rows = null
    return { keys, versions, ownImageBytes: this.#ownImageBytes }
  }

  /** Takes news from the thread that writes. */
  learn({ keys, versions, ownImageBytes }: LayerNews): void {
    this.#versions.learn(versions)
    this.#keys.learn(keys)
    this.#ownImageBytes = ownImageBytes
  }

  get keyCount(): number {
    this.link()
    return this.#keys.count
  }

  get versionCount(): number {
    return this.#versions.count
  }

  /** Memory held, roughly. */
  get sizeBytes(): number {
    const versions = this.#versions
    return versions.valueBytes + versions.count * VERSION_BYTES + this.#keys.count * KEY_BYTES
  }

  /** Bytes of images that the page server added itself. */
  get ownImageBytes(): number {
    return this.#ownImageBytes
  }

  /**
   * Keeps a copy of bytes that many values to come are parts of, and returns it; see
   * `VersionTable.hold`.
   */
  hold(bytes: Buffer, alignment: number): Buffer {
    return this.#versions.hold(bytes, alignment)
  }

  /** Nobody reads what `hold` returned any more, except as values. */
  letGo(): void {
    this.#versions.letGo()
  }

  /**
   * Gives its memory up for layers to come. Nobody will look at it again, in any thread; slices of
   * values that readers were given stay good.
   */
  release(): void {
    this.#isReleased = true
    this.#versions.release()
  }

  /** Appends a version and copies its value, unless it is held. */
  put(
    slot: number,
    blk: number,
    lsn: Lsn,
    kind: number,
    src: Buffer,
    offset: number,
    length: number,
  ): void {
    if (this.#unlinked === this.#unlinkedSlot.length) this.#makeRoom()
    const index = this.#unlinked
    this.#versions.append(lsn, kind, src, offset, length)
    this.#unlinkedSlot[index] = slot
    this.#unlinkedBlk[index] = blk
    this.#unlinked = index + 1
  }

  /**
   * Puts the versions that came since the last time into the chains of their keys, so that they can be
   * found. Whatever looks for versions in the writer's thread does so itself.
   *
   * A put does not, because keys lie anywhere in memory: for many versions in one go the processor
   * asks for many keys at a time, where between the records of WAL it would wait for each.
   */
  link(): void {
    assert(!this.#isReleased, 'a layer that is written is not looked at any more')
    const count = this.#unlinked
    if (count === 0) return
    const versions = this.#versions
    const keys = this.#keys
    keys.internMany(this.#unlinkedSlot, this.#unlinkedBlk, count, LINKING)
    const first = versions.count - count
    for (let index = 0; index < count; index++) {
      this.#chain(LINKING[index] as number, first + index)
    }
    this.#unlinked = 0
  }

  /** Numbers of the keys whose chains have passed the cap since the last time. */
  takeHot(): readonly number[] {
    this.link()
    const hot = this.#hot
    if (hot.length > 0) this.#hot = []
    return hot
  }

  #makeRoom(): void {
    if (this.#unlinkedSlot.length > 0) return this.link()
    this.#unlinkedSlot = new Uint32Array(LINKED_TOGETHER)
    this.#unlinkedBlk = new Uint32Array(LINKED_TOGETHER)
  }

  /** Makes the version the key's newest. */
  #chain(key: number, version: number): void {
    const keys = this.#keys
    const versions = this.#versions
    versions.chain(version, key, keys.ownHead(key))
    keys.setHead(key, version + 1)
    const kind = versions.kind(version)
    if (isBaseKind(kind)) {
      keys.setCost(key, 0)
      return
    }
    const before = keys.cost(key)
    const after = before + costOf(kind, versions.length(version))
    keys.setCost(key, after)
    if (before >>> COST_SHIFT !== after >>> COST_SHIFT) this.#hot.push(key)
  }

  /**
   * Adds a page that the page server built: the key's value at `lsn`, which may be older than
   * versions already here.
   */
  putOwnImage(slot: number, blk: number, lsn: Lsn, page: Buffer): void {
    assert(lsn >= this.startLsn, 'an own image belongs to the layer of its LSN')
    this.link()
    const keys = this.#keys
    const versions = this.#versions
    const key = keys.intern(slot, blk)
    const newest = keys.ownImage(key)
    if (newest !== 0 && versions.lsn(newest - 1) >= lsn) return
    const version = versions.append(lsn, ValueKind.Image, page, 0, page.length)
    versions.chain(version, key, newest)
    keys.setImage(key, version + 1)
    this.#ownImageBytes += page.length
    let cost = 0
    for (let at = keys.ownHead(key); at !== 0; at = versions.prev(at - 1)) {
      const kind = versions.kind(at - 1)
      if (versions.lsn(at - 1) <= lsn || isBaseKind(kind)) break
      cost += costOf(kind, versions.length(at - 1))
    }
    keys.setCost(key, cost)
  }

  /** Number of a key, or -1. */
  find(slot: number, blk: number): number {
    this.link()
    return this.#keys.find(slot, blk)
  }

  keySlot(key: number): number {
    return this.#keys.slot(key)
  }

  keyBlk(key: number): number {
    return this.#keys.blk(key)
  }

  /**
   * Hands the key's versions below `ceilingLsn` (exclusive) to the sink, newest first, down to the
   * first that needs nothing older. Returns true when it found that one.
   */
  collect(key: number, ceilingLsn: Lsn, sink: VersionSink): boolean {
    const versions = this.#versions
    let image = this.#keys.image(key)
    const head = this.#keys.head(key)
    versions.reach(Math.max(head, image))
    // An image that nobody was told of may have any LSN.
    while (image !== 0 && (image > versions.count || versions.lsn(image - 1) >= ceilingLsn)) {
      image = versions.prev(image - 1)
    }
    const imageLsn = image === 0 ? -1 : versions.lsn(image - 1)
    for (let at = head; at !== 0; at = versions.prev(at - 1)) {
      const lsn = versions.lsn(at - 1)
      if (lsn >= ceilingLsn) continue
      if (lsn <= imageLsn) break
      const kind = versions.kind(at - 1)
      sink.push(kind, lsn, versions.value(at - 1))
      if (isBaseKind(kind)) return true
    }
    if (image === 0) return false
    sink.push(ValueKind.Image, imageLsn, versions.value(image - 1))
    return true
  }

  /**
   * Moves versions above `publishedLsn` into `next`, in their order. Called at a freeze that falls
   * between a writer's puts and its publish.
   */
  moveUnpublished(publishedLsn: Lsn, next: OpenLayer): void {
    this.link()
    const versions = this.#versions
    const moved: number[] = []
    for (let version = versions.count - 1; version >= 0; version--) {
      if (versions.lsn(version) > publishedLsn) moved.push(version)
      // Own images are never unpublished but may lie between unpublished puts.
      else if (!this.#isOwnImage(version)) break
    }
    for (const version of moved) this.#keys.setHead(versions.key(version), versions.prev(version))
    for (const version of moved.reverse()) {
      const key = versions.key(version)
      next.put(
        this.keySlot(key),
        this.keyBlk(key),
        versions.lsn(version),
        versions.kind(version),
        versions.slab(version),
        versions.offset(version),
        versions.length(version),
      )
    }
  }

  /** Keys that have versions, by slot, each slot's in block order. */
  keysBySlot(): Map<number, Uint32Array> {
    const counts = new Map<number, number>()
    for (let key = 0; key < this.keyCount; key++) {
      if (!this.#hasVersions(key)) continue
      const slot = this.keySlot(key)
      counts.set(slot, (counts.get(slot) ?? 0) + 1)
    }
    const packed = new Map<number, Float64Array>()
    for (const [slot, count] of counts) packed.set(slot, new Float64Array(count))
    for (let key = this.keyCount - 1; key >= 0; key--) {
      if (!this.#hasVersions(key)) continue
      const slot = this.keySlot(key)
      const at = (counts.get(slot) as number) - 1
      counts.set(slot, at)
      const column = packed.get(slot) as Float64Array
      column[at] = this.keyBlk(key) * MAX_KEYS + key
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

  /**
   * All versions as a layer file has them: keys in the order given, the versions of each oldest
   * first. Walks through the versions in the order they came, since a walk along the chains would
   * wait for memory at each step.
   */
  versionsInOrder(keyLists: readonly Uint32Array[]): Uint32Array {
    const versions = this.#versions
    const ends = this.#plainEnds()
    const places = new Uint32Array(this.keyCount)
    versions.countByKey(ends, places)
    let total = 0
    for (const keys of keyLists) {
      for (const key of keys) {
        const count = this.#hasOwnImage(key) ? this.versionsOf(key).length : places[key]
        places[key] = total
        total += count as number
      }
    }
    const order = new Uint32Array(total)
    versions.placeByKey(ends, places, order)
    for (const keys of keyLists) {
      for (const key of keys) {
        if (this.#hasOwnImage(key)) order.set(this.versionsOf(key).reverse(), places[key])
      }
    }
    return order
  }

  /**
   * By key, the end of its versions that can be counted as they came: those behind have moved to the
   * next layer. 0 for a key with own images.
   */
  #plainEnds(): Uint32Array {
    const keys = this.#keys
    const ends = new Uint32Array(keys.count)
    for (let key = 0; key < ends.length; key++) {
      if (!this.#hasOwnImage(key)) ends[key] = keys.ownHead(key)
    }
    return ends
  }

  #hasOwnImage(key: number): boolean {
    return this.#keys.ownImage(key) !== 0
  }

  /**
   * All versions of a key, newest first, own images before what they stand for. The array is
   * overwritten by the next call.
   */
  versionsOf(key: number): Uint32Array {
    const versions = this.#versions
    let count = 0
    let image = this.#keys.ownImage(key)
    let at = this.#keys.ownHead(key)
    while (at !== 0 || image !== 0) {
      if (count === this.#scratch.length) this.#scratch = grown(this.#scratch, count * 2)
      const lsn = at === 0 ? -1 : versions.lsn(at - 1)
      if (image !== 0 && versions.lsn(image - 1) >= lsn) {
        this.#scratch[count++] = image - 1
        image = versions.prev(image - 1)
      } else {
        this.#scratch[count++] = at - 1
        at = versions.prev(at - 1)
      }
    }
    return this.#scratch.subarray(0, count)
  }

  /**
   * Appends versions from `order` to a layer file, from index `from` on, until the writer is busy;
   * returns the index where it stopped.
   */
  writeVersions(order: Uint32Array, from: number, writer: VersionWriter): number {
    const versions = this.#versions
    const keys = this.#keys
    let touched = from
    for (let at = from; at < order.length; at++) {
      if (at === touched) {
        touched = Math.min(at + TOUCHED_AHEAD, order.length)
        versions.touch(order, at, touched)
      }
      const version = order[at] as number
      const key = versions.key(version)
      const length = versions.length(version)
      const to = writer.claim(
        keys.slot(key),
        keys.blk(key),
        versions.lsn(version),
        versions.kind(version),
        length,
      )
      versions.copyOut(version, writer.values, writer.valuesView, to)
      if (writer.isBusy) return at + 1
    }
    return order.length
  }

  /** False for a key whose versions all moved to the next layer. */
  #hasVersions(key: number): boolean {
    return this.#keys.ownHead(key) !== 0 || this.#keys.ownImage(key) !== 0
  }

  #isOwnImage(version: number): boolean {
    const versions = this.#versions
    let at = this.#keys.ownImage(versions.key(version))
    while (at - 1 > version) at = versions.prev(at - 1)
    return at - 1 === version
  }
}

function costOf(kind: number, length: number): number {
  return kind === ValueKind.NativeOp ? 1 : 4 + (length >>> 8)
}
