/**
 * Descriptors of a timeline's layers, in columns: 54 bytes a layer. A row stands for a layer as long
 * as that is in the map; then the row is used for another one, so rows are not kept over an await.
 */
import { assert } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Key } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import { grown } from './column.ts'
import type { LayerEntry, LayerIdentity } from './layer.ts'
import { isL0, type LayerId, LayerKind } from './layer-name.ts'

/** What is known of a layer besides its descriptor, as bits. */
export const LayerFlag = {
  /** Its file is on local disk, as far as known. */
  Local: 16,
  /** It is not. Neither = nobody has looked. */
  Absent: 32,
  /** The object does not exist yet. */
  OnlyCopy: 64,
  /** Rewriting it alone would not make it smaller. */
  Settled: 128,
} as const
export type LayerFlag = (typeof LayerFlag)[keyof typeof LayerFlag]

const IMAGE = 1
const HAS_SERIAL = 2
const L0 = 4
const USED = 8

/** What many layers have in common. */
interface Family {
  generation: number
  origin: TimelineId | null
  ceilingLsn: Lsn | null
  splitFrom: TenantId | undefined
}

const UINT32 = 2 ** 32

export class LayerTable {
  readonly #slots: SlotTable
  #startLsn: Float64Array<ArrayBuffer>
  /** End of a delta, floor of an image. */
  #secondLsn: Float64Array<ArrayBuffer>
  #firstSlot: Uint32Array<ArrayBuffer>
  #firstBlk: Uint32Array<ArrayBuffer>
  #lastSlot: Uint32Array<ArrayBuffer>
  #lastBlk: Uint32Array<ArrayBuffer>
  #size: Uint32Array<ArrayBuffer>
  #sizeHigh: Uint8Array<ArrayBuffer>
  #crc: Uint32Array<ArrayBuffer>
  #serial: Uint32Array<ArrayBuffer>
  #family: Uint32Array<ArrayBuffer>
  /** When its data was read last, in seconds since 1970; 0 = not known. */
  #access: Uint32Array<ArrayBuffer>
  #flags: Uint8Array<ArrayBuffer>
  readonly #families: Family[] = []
  readonly #familyNumbers = new Map<string, number>()
  /** Rows below this one were used. */
  #end = 0
  readonly #free: number[] = []
  #residentBytes = 0
  readonly #accessed = new Set<number>()

  /** Prefixes of keys are interned in `slots`. Grows beyond `capacity` when need be. */
  constructor(slots: SlotTable, capacity: number) {
    this.#slots = slots
    this.#startLsn = new Float64Array(capacity)
    this.#secondLsn = new Float64Array(capacity)
    this.#firstSlot = new Uint32Array(capacity)
    this.#firstBlk = new Uint32Array(capacity)
    this.#lastSlot = new Uint32Array(capacity)
    this.#lastBlk = new Uint32Array(capacity)
    this.#size = new Uint32Array(capacity)
    this.#sizeHigh = new Uint8Array(capacity)
    this.#crc = new Uint32Array(capacity)
    this.#serial = new Uint32Array(capacity)
    this.#family = new Uint32Array(capacity)
    this.#access = new Uint32Array(capacity)
    this.#flags = new Uint8Array(capacity)
  }

  /** Makes room for so many layers more, exactly. */
  reserve(count: number): void {
    if (this.#end + count > this.#startLsn.length) this.#resize(this.#end + count)
  }

  /** Layers in it. */
  get count(): number {
    return this.#end - this.#free.length
  }

  /** Sizes of the layers whose files are on local disk, as far as known. */
  get residentBytes(): number {
    return this.#residentBytes
  }

  /** All rows in use. */
  rows(): Uint32Array<ArrayBuffer> {
    const rows = new Uint32Array(this.count)
    let at = 0
    for (let row = 0; row < this.#end; row++) {
      if ((this.#flags[row] as number) & USED) rows[at++] = row
    }
    return rows
  }

  /** Returns the row. */
  add(entry: LayerEntry): number {
    const { id, sizeBytes, crc } = entry
    const row = this.#free.pop() ?? this.#end++
    // By an eighth: copies are rare enough, and little lies idle.
    if (row === this.#startLsn.length) this.#resize(Math.ceil(row * 1.125) + 16)
    const isImage = id.kind === LayerKind.Image
    this.#startLsn[row] = id.startLsn
    this.#secondLsn[row] = isImage ? id.floorLsn : id.endLsn
    this.#firstSlot[row] = this.#slotOf(id.firstKey)
    this.#firstBlk[row] = id.firstKey.blk
    this.#lastSlot[row] = this.#slotOf(id.lastKey)
    this.#lastBlk[row] = id.lastKey.blk
    this.#size[row] = sizeBytes
    this.#sizeHigh[row] = Math.floor(sizeBytes / UINT32)
    this.#crc[row] = crc
    this.#serial[row] = id.serial ?? 0
    this.#family[row] = this.#familyOf(entry)
    this.#access[row] = 0
    this.#flags[row] =
      USED |
      (isImage ? IMAGE : 0) |
      (id.serial === undefined ? 0 : HAS_SERIAL) |
      (isL0(id) ? L0 : 0)
    return row
  }

  /** The layer has left: the row may stand for another from now on. */
  remove(row: number): void {
    assert(((this.#flags[row] as number) & USED) !== 0, 'a layer leaves once')
    this.#setFlags(row, 0)
    this.#accessed.delete(row)
    this.#free.push(row)
  }

  isImage(row: number): boolean {
    return ((this.#flags[row] as number) & IMAGE) !== 0
  }

  isL0(row: number): boolean {
    return ((this.#flags[row] as number) & L0) !== 0
  }

  startLsn(row: number): Lsn {
    return this.#startLsn[row] as number
  }

  /** Exclusive end of the versions that count. */
  endLsn(row: number): Lsn {
    const end = this.isImage(row) ? this.startLsn(row) + 1 : (this.#secondLsn[row] as number)
    const { ceilingLsn } = this.#familyAt(row)
    return ceilingLsn === null ? end : Math.min(end, ceilingLsn)
  }

  floorLsn(row: number): Lsn {
    return (this.isImage(row) ? this.#secondLsn[row] : this.#startLsn[row]) as number
  }

  firstSlot(row: number): number {
    return this.#firstSlot[row] as number
  }

  firstBlk(row: number): number {
    return this.#firstBlk[row] as number
  }

  lastSlot(row: number): number {
    return this.#lastSlot[row] as number
  }

  lastBlk(row: number): number {
    return this.#lastBlk[row] as number
  }

  sizeBytes(row: number): number {
    return (this.#sizeHigh[row] as number) * UINT32 + (this.#size[row] as number)
  }

  /** The timeline that it was taken over from; null = our own. */
  origin(row: number): TimelineId | null {
    return this.#familyAt(row).origin
  }

  /** Rows of layers that were taken over at a split. */
  borrowedRows(): Uint32Array<ArrayBuffer> {
    if (this.#families.every(({ splitFrom }) => splitFrom === undefined)) return new Uint32Array(0)
    return this.rows().filter((row) => this.#familyAt(row).splitFrom !== undefined)
  }

  id(row: number): LayerId {
    const flags = this.#flags[row] as number
    const isImage = (flags & IMAGE) !== 0
    const startLsn = this.#startLsn[row] as number
    const second = this.#secondLsn[row] as number
    return {
      kind: isImage ? LayerKind.Image : LayerKind.Delta,
      firstKey: this.#slots.key(this.firstSlot(row), this.firstBlk(row)),
      lastKey: this.#slots.key(this.lastSlot(row), this.lastBlk(row)),
      startLsn,
      endLsn: isImage ? startLsn + 1 : second,
      floorLsn: isImage ? second : startLsn,
      generation: this.#familyAt(row).generation,
      ...(flags & HAS_SERIAL ? { serial: this.#serial[row] as number } : {}),
    }
  }

  entry(row: number): LayerEntry {
    const { origin, ceilingLsn, splitFrom } = this.#familyAt(row)
    return {
      id: this.id(row),
      sizeBytes: this.sizeBytes(row),
      crc: this.#crc[row] as number,
      origin,
      ceilingLsn,
      ...(splitFrom === undefined ? {} : { splitFrom }),
    }
  }

  /** True for the row of just this layer. */
  is(row: number, { id, origin, splitFrom }: LayerIdentity): boolean {
    const flags = this.#flags[row] as number
    const isImage = id.kind === LayerKind.Image
    const family = this.#familyAt(row)
    return (
      (flags & USED) !== 0 &&
      ((flags & IMAGE) !== 0) === isImage &&
      this.#startLsn[row] === id.startLsn &&
      this.#secondLsn[row] === (isImage ? id.floorLsn : id.endLsn) &&
      ((flags & HAS_SERIAL) !== 0) === (id.serial !== undefined) &&
      this.#serial[row] === (id.serial ?? 0) &&
      family.generation === id.generation &&
      family.origin === origin &&
      family.splitFrom === splitFrom &&
      this.compareFirst(row, id.firstKey) === 0 &&
      this.compareLast(row, id.lastKey) === 0
    )
  }

  /** Order of its first key against another. */
  compareFirst(row: number, key: Key): number {
    return compareToKey(this.#slots, this.firstSlot(row), this.firstBlk(row), key)
  }

  /** Order of its last key against another. */
  compareLast(row: number, key: Key): number {
    return compareToKey(this.#slots, this.lastSlot(row), this.lastBlk(row), key)
  }

  /** Highest end LSN first, at equal ends images before deltas, then by first keys. */
  compare(a: number, b: number): number {
    return (
      this.endLsn(b) - this.endLsn(a) ||
      ((this.#flags[b] as number) & IMAGE) - ((this.#flags[a] as number) & IMAGE) ||
      this.#slots.compare(this.firstSlot(a), this.firstSlot(b)) ||
      this.firstBlk(a) - this.firstBlk(b)
    )
  }

  has(row: number, flag: LayerFlag): boolean {
    return ((this.#flags[row] as number) & flag) !== 0
  }

  set(row: number, flag: LayerFlag, isSet: boolean): void {
    const flags = this.#flags[row] as number
    this.#setFlags(row, isSet ? flags | flag : flags & ~flag)
  }

  /** When its data was read last, in seconds since 1970; 0 = not known. */
  accessSeconds(row: number): number {
    return this.#access[row] as number
  }

  /** With `isNew` false it is known to be kept elsewhere, and `takeAccessed` does not give it. */
  setAccessSeconds(row: number, seconds: number, isNew = true): void {
    if (this.#access[row] === seconds) return
    this.#access[row] = seconds
    if (isNew) this.#accessed.add(row)
  }

  /** Rows whose time of use was set since the last call. */
  takeAccessed(): number[] {
    const rows = [...this.#accessed]
    this.#accessed.clear()
    return rows
  }

  #setFlags(row: number, flags: number): void {
    const before = (this.#flags[row] as number) & LayerFlag.Local
    const after = flags & LayerFlag.Local
    if (before !== after) this.#residentBytes += (after ? 1 : -1) * this.sizeBytes(row)
    this.#flags[row] = flags
  }

  #slotOf({ cls, spc, db, rel, fork }: Key): number {
    return this.#slots.intern(cls, spc, db, rel, fork)
  }

  #familyAt(row: number): Family {
    return this.#families[this.#family[row] as number] as Family
  }

  #familyOf({ id: { generation }, origin, ceilingLsn, splitFrom }: LayerEntry): number {
    const key = `${generation} ${origin} ${ceilingLsn} ${splitFrom}`
    const known = this.#familyNumbers.get(key)
    if (known !== undefined) return known
    const number = this.#families.push({ generation, origin, ceilingLsn, splitFrom }) - 1
    this.#familyNumbers.set(key, number)
    return number
  }

  #resize(capacity: number): void {
    this.#startLsn = grown(this.#startLsn, capacity)
    this.#secondLsn = grown(this.#secondLsn, capacity)
    this.#firstSlot = grown(this.#firstSlot, capacity)
    this.#firstBlk = grown(this.#firstBlk, capacity)
    this.#lastSlot = grown(this.#lastSlot, capacity)
    this.#lastBlk = grown(this.#lastBlk, capacity)
    this.#size = grown(this.#size, capacity)
    this.#sizeHigh = grown(this.#sizeHigh, capacity)
    this.#crc = grown(this.#crc, capacity)
    this.#serial = grown(this.#serial, capacity)
    this.#family = grown(this.#family, capacity)
    this.#access = grown(this.#access, capacity)
    this.#flags = grown(this.#flags, capacity)
  }
}

/** Order of a key in memory against another: negative, zero, positive. */
export function compareToKey(slots: SlotTable, slot: number, blk: number, key: Key): number {
  return (
    slots.cls(slot) - key.cls ||
    slots.spc(slot) - key.spc ||
    slots.db(slot) - key.db ||
    slots.rel(slot) - key.rel ||
    slots.fork(slot) - key.fork ||
    blk - key.blk
  )
}
