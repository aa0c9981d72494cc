/**
 * Writes one layer file: header, chunks as they fill, index, footer. Entries come in key order,
 * each key's oldest first. Chunks are compressed in another thread, a few at a time; the caller
 * awaits `pump` when `add` says so, which bounds memory and lets other work run in between.
 */
import { type FileHandle, open } from 'node:fs/promises'
import { crc32 } from 'node:zlib'
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { syncFile } from '#libs/object-store/durable-file.ts'
import { isBaseKind } from '../keyspace/key-class.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import { grown } from './column.ts'
import {
  chunkOverhead,
  type Codec,
  encodeFooter,
  encodeHeader,
  FOOTER_SIZE,
  footerCrc,
  HEADER_SIZE,
  type LayerOwner,
  pack,
} from './layer-format.ts'
import type { Key } from '../keyspace/key.ts'
import type { LayerEntry } from './layer.ts'
import { sectionColumns } from './index-section.ts'
import { type LayerId, LayerKind } from './layer-name.ts'
import { type ChunkToPack, chunkToPack, type PackedChunk } from './zstd-packer.ts'

/** Raw bytes of a chunk: small for images, where reads are single pages; two and their columns fit. */
const DELTA_CHUNK_BYTES = 64 * 1024
const IMAGE_CHUNK_BYTES = 17 * 1024
/** Row counts and entry numbers are 16 bits. */
const MAX_CHUNK_ENTRIES = 8192
const CHUNKS_IN_FLIGHT = 8
const WRITE_BYTES = 1024 * 1024
/**
 * So much is written at most before it goes to the disk. Whoever else syncs a file there, such as a
 * safekeeper for a commit, waits behind what a sync finds to write: with a whole layer 85 to 150 ms
 * were seen, with this 16 to 28, at the same rate.
 */
const SYNC_BYTES = 8 * 1024 * 1024
/** Who writes a claimed value in words may write a little more. */
const CLAIM_SLACK_BYTES = 8

interface QueuedChunk {
  chunk: ChunkToPack
  packed: Promise<PackedChunk>
}

export class LayerWriter {
  #id: LayerId
  readonly #slots: SlotTable
  #header: Buffer
  readonly #file: FileHandle
  readonly #path: string
  readonly #owner: LayerOwner
  readonly #chunkBytes: number

  #values: Buffer
  #valuesView: DataView
  #valuesUsed = 0
  #entries = 0
  readonly #entryLsn = new Float64Array(MAX_CHUNK_ENTRIES)
  readonly #entryLsnBytes = new Uint8Array(this.#entryLsn.buffer)
  readonly #entryOffset = new Uint32Array(MAX_CHUNK_ENTRIES)
  readonly #entryKind = new Uint8Array(MAX_CHUNK_ENTRIES)

  #groupSlot: number[] = []
  #groupFirstRow: number[] = []
  #rows = 0
  #rowBlk = new Uint32Array(1024)
  #rowChunk = new Uint32Array(1024)
  #rowEntry = new Uint16Array(1024)
  #rowCount = new Uint16Array(1024)
  #rowFirstLsn = new Float64Array(1024)
  #rowBaseLsn = new Float64Array(1024)

  #queue: QueuedChunk[] = []
  /** Raw bytes of the chunks in it. */
  #queuedBytes = 0
  #sealed = 0
  #chunkOffset: number[] = []
  #chunkStored: number[] = []
  #chunkRaw: number[] = []
  #chunkCrc: number[] = []
  #chunkCodec: Codec[] = []
  /** Bytes that are to be written next, and how many. */
  #pending: Buffer = Buffer.allocUnsafeSlow(WRITE_BYTES)
  #pendingBytes = 0
  #unsyncedBytes = 0
  /** One at a time, beside the writes that follow; it never fails. */
  #syncing: Promise<void> = Promise.resolve()
  /** File offset after all that is pending. */
  #end = 0

  private constructor(
    file: FileHandle,
    path: string,
    id: LayerId,
    owner: LayerOwner,
    slots: SlotTable,
  ) {
    this.#file = file
    this.#path = path
    this.#id = id
    this.#owner = owner
    this.#slots = slots
    this.#header = encodeHeader(id, owner)
    this.#chunkBytes = id.kind === LayerKind.Delta ? DELTA_CHUNK_BYTES : IMAGE_CHUNK_BYTES
    this.#values = Buffer.allocUnsafeSlow(this.#chunkBytes * 2)
    this.#valuesView = viewOf(this.#values)
    this.#append(this.#header)
  }

  /** Creates the file, which must not exist. */
  static async create(
    path: string,
    id: LayerId,
    owner: LayerOwner,
    slots: SlotTable,
  ): Promise<LayerWriter> {
    return new LayerWriter(await open(path, 'wx'), path, id, owner, slots)
  }

  /** About the size of the file so far; what waits for compression counts as it is. */
  get sizeBytes(): number {
    return this.#end + this.#queuedBytes + this.#valuesUsed
  }

  get isEmpty(): boolean {
    return this.#rows === 0
  }

  /** Appends a version and copies its value. Returns true when `pump` should be awaited. */
  add(
    slot: number,
    blk: number,
    lsn: Lsn,
    kind: number,
    src: Buffer,
    offset: number,
    length: number,
  ): boolean {
    const to = this.claim(slot, blk, lsn, kind, length)
    src.copy(this.#values, to, offset, offset + length)
    return this.isBusy
  }

  /**
   * Appends a version whose `length` bytes the caller then writes to `values`, at the offset
   * returned. It may write up to 8 bytes more, which nobody looks at.
   */
  claim(slot: number, blk: number, lsn: Lsn, kind: number, length: number): number {
    const used = this.#valuesUsed + chunkOverhead(this.#entries + 1)
    if (
      this.#entries > 0 &&
      (used + length > this.#chunkBytes || this.#entries === MAX_CHUNK_ENTRIES)
    ) {
      this.#seal()
    }
    const row = this.#rowFor(slot, blk, lsn)
    this.#rowCount[row] = (this.#rowCount[row] as number) + 1
    if (isBaseKind(kind)) this.#rowBaseLsn[row] = lsn
    const entry = this.#entries++
    const to = this.#valuesUsed
    this.#entryLsn[entry] = lsn
    this.#entryKind[entry] = kind
    this.#entryOffset[entry] = to
    this.#reserve(length)
    this.#valuesUsed = to + length
    return to
  }

  /** Values of the chunk being filled; another after a `claim`. */
  get values(): Buffer {
    return this.#values
  }

  /** The same memory as `values`. */
  get valuesView(): DataView {
    return this.#valuesView
  }

  /** True when `pump` should be awaited. */
  get isBusy(): boolean {
    return this.#queue.length >= CHUNKS_IN_FLIGHT
  }

  /**
   * Appends `count` versions of one key, entries of another layer's chunk from `first` on, without
   * looking at each. Returns true when `pump` should be awaited.
   */
  addRun(slot: number, blk: number, chunk: Buffer, first: number, count: number): boolean {
    const total = chunk.readUInt32LE(0)
    const offsets = 8 + 8 * total
    const kinds = offsets + 4 * (total + 1)
    const end = first + count
    for (let at = first; at < end; ) {
      const start = chunk.readUInt32LE(offsets + 4 * at)
      const fitting = this.#fitting(chunk, offsets, at, end)
      if (fitting === 0) {
        this.#seal()
        continue
      }
      const row = this.#rowFor(slot, blk, chunk.readDoubleLE(8 + 8 * at))
      this.#rowCount[row] = (this.#rowCount[row] as number) + fitting
      const last = at + fitting
      for (let entry = last - 1; entry >= at; entry--) {
        if (!isBaseKind(chunk[kinds + entry] as number)) continue
        this.#rowBaseLsn[row] = chunk.readDoubleLE(8 + 8 * entry)
        break
      }
      chunk.copy(this.#entryLsnBytes, 8 * this.#entries, 8 + 8 * at, 8 + 8 * last)
      chunk.copy(this.#entryKind, this.#entries, kinds + at, kinds + last)
      const shift = this.#valuesUsed - start
      for (let entry = at; entry < last; entry++) {
        this.#entryOffset[this.#entries++] = chunk.readUInt32LE(offsets + 4 * entry) + shift
      }
      const valuesEnd = chunk.readUInt32LE(offsets + 4 * last)
      this.#reserve(valuesEnd - start)
      chunk.copy(this.#values, this.#valuesUsed, start, valuesEnd)
      this.#valuesUsed += valuesEnd - start
      at = last
    }
    return this.isBusy
  }

  /** Writes out what is compressed until few chunks are in flight. */
  async pump(): Promise<void> {
    await this.#drain(CHUNKS_IN_FLIGHT / 2)
  }

  /**
   * Completes the file and makes its bytes durable; its name is the caller's to make durable.
   * What is given was not known at the start.
   */
  async finish(lastKey: Key = this.#id.lastKey, endLsn = this.#id.endLsn): Promise<LayerEntry> {
    this.#seal()
    await this.#drain(0)
    this.#id = { ...this.#id, lastKey, endLsn }
    this.#header = encodeHeader(this.#id, this.#owner)
    const section = this.#indexSection()
    const { stored, codec } = pack(section)
    const indexOffset = this.#end
    this.#append(stored)
    const footer = encodeFooter(
      {
        indexOffset,
        indexStoredBytes: stored.length,
        indexRawBytes: section.length,
        indexCodec: codec,
        indexCrc: crc32(stored),
        groups: this.#groupSlot.length,
        rows: this.#rows,
        chunks: this.#sealed,
        fileBytes: this.#end + FOOTER_SIZE,
      },
      this.#header,
    )
    this.#append(footer)
    await this.#flush()
    await this.#file.write(this.#header, 0, HEADER_SIZE, 0)
    await this.#syncing
    await syncFile(this.#file, this.#path)
    await this.#file.close()
    const crc = footerCrc(footer)
    return { id: this.#id, sizeBytes: this.#end, crc, origin: null, ceilingLsn: null }
  }

  /** Gives up; the caller removes the file. */
  async abort(): Promise<void> {
    for (const { chunk, packed } of this.#queue) {
      await packed.catch(() => undefined)
      chunk.release()
    }
    this.#queue = []
    await this.#syncing
    await this.#file.close().catch(() => undefined)
  }

  /** How many entries from `at` on the chunk being filled still takes; an empty one takes any. */
  #fitting(chunk: Buffer, offsets: number, at: number, end: number): number {
    const start = chunk.readUInt32LE(offsets + 4 * at)
    const fits = (count: number) =>
      this.#entries + count <= MAX_CHUNK_ENTRIES &&
      chunkOverhead(this.#entries + count) +
        this.#valuesUsed +
        chunk.readUInt32LE(offsets + 4 * (at + count)) -
        start <=
        this.#chunkBytes
    if (fits(end - at)) return end - at
    let low = 0
    let high = end - at
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (fits(middle)) low = middle
      else high = middle
    }
    return low === 0 && this.#entries === 0 ? 1 : low
  }

  #reserve(length: number): void {
    const needed = this.#valuesUsed + length + CLAIM_SLACK_BYTES
    if (needed <= this.#values.length) return
    const bigger = Buffer.allocUnsafeSlow(needed)
    this.#values.copy(bigger, 0, 0, this.#valuesUsed)
    this.#values = bigger
    this.#valuesView = viewOf(bigger)
  }

  #rowFor(slot: number, blk: number, lsn: Lsn): number {
    const last = this.#rows - 1
    const sameGroup = this.#groupSlot[this.#groupSlot.length - 1] === slot
    if (last >= 0 && sameGroup && this.#rowBlk[last] === blk && this.#entries > 0) return last
    if (!sameGroup) {
      this.#groupSlot.push(slot)
      this.#groupFirstRow.push(this.#rows)
    } else {
      assert((this.#rowBlk[last] as number) <= blk, 'a layer is written in key order')
    }
    if (this.#rows === this.#rowBlk.length) this.#growRows()
    const row = this.#rows++
    this.#rowBlk[row] = blk
    this.#rowChunk[row] = this.#sealed
    this.#rowEntry[row] = this.#entries
    this.#rowFirstLsn[row] = lsn
    return row
  }

  #growRows(): void {
    const capacity = this.#rowBlk.length * 2
    this.#rowBlk = grown(this.#rowBlk, capacity)
    this.#rowChunk = grown(this.#rowChunk, capacity)
    this.#rowEntry = grown(this.#rowEntry, capacity)
    this.#rowCount = grown(this.#rowCount, capacity)
    this.#rowFirstLsn = grown(this.#rowFirstLsn, capacity)
    this.#rowBaseLsn = grown(this.#rowBaseLsn, capacity)
  }

  #seal(): void {
    const count = this.#entries
    if (count === 0) return
    const overhead = chunkOverhead(count)
    const chunk = chunkToPack(overhead + this.#valuesUsed)
    const { raw } = chunk
    raw.writeUInt32LE(count, 0)
    raw.writeUInt32LE(0, 4)
    const offsets = 8 + 8 * count
    const kinds = offsets + 4 * (count + 1)
    raw.set(this.#entryLsnBytes.subarray(0, 8 * count), 8)
    const offsetColumn = new Uint32Array(raw.buffer, raw.byteOffset + offsets, count + 1)
    const entryOffset = this.#entryOffset
    for (let entry = 0; entry < count; entry++) {
      offsetColumn[entry] = overhead + (entryOffset[entry] as number)
    }
    offsetColumn[count] = raw.length
    raw.set(this.#entryKind.subarray(0, count), kinds)
    raw.set(this.#values.subarray(0, this.#valuesUsed), overhead)
    this.#entries = 0
    this.#valuesUsed = 0
    this.#sealed++
    const packed = chunk.pack()
    // Its failure is seen by the `pump` or `finish` that awaits it.
    packed.catch(() => undefined)
    this.#queue.push({ chunk, packed })
    this.#queuedBytes += raw.length
  }

  async #drain(keep: number): Promise<void> {
    while (this.#queue.length > keep) {
      const { chunk, packed } = this.#queue[0] as QueuedChunk
      const { codec, stored, crc } = await packed
      this.#queue.shift()
      this.#queuedBytes -= chunk.raw.length
      if (this.#pendingBytes + stored.length > this.#pending.length) await this.#flush()
      this.#chunkOffset.push(this.#end)
      this.#chunkStored.push(stored.length)
      this.#chunkRaw.push(chunk.raw.length)
      this.#chunkCrc.push(crc)
      this.#chunkCodec.push(codec)
      this.#append(stored)
      chunk.release()
    }
  }

  /** Takes a copy. There is room, or all was flushed before. */
  #append(bytes: Buffer): void {
    if (this.#pendingBytes + bytes.length > this.#pending.length) {
      const bigger = Buffer.allocUnsafeSlow(this.#pendingBytes + bytes.length)
      this.#pending.copy(bigger, 0, 0, this.#pendingBytes)
      this.#pending = bigger
    }
    this.#pending.set(bytes, this.#pendingBytes)
    this.#pendingBytes += bytes.length
    this.#end += bytes.length
  }

  async #flush(): Promise<void> {
    const length = this.#pendingBytes
    this.#pendingBytes = 0
    for (let done = 0; done < length; ) {
      const { bytesWritten } = await this.#file.write(this.#pending, done, length - done)
      done += bytesWritten
    }
    this.#unsyncedBytes += length
    if (this.#unsyncedBytes < SYNC_BYTES) return
    await this.#syncing
    this.#unsyncedBytes = 0
    this.#syncing = syncFile(this.#file, this.#path)
  }

  #indexSection(): Buffer {
    const counts = { groups: this.#groupSlot.length, rows: this.#rows, chunks: this.#sealed }
    const columns = sectionColumns(this.#id.kind, counts)
    for (const [group, slot] of this.#groupSlot.entries()) {
      columns.groupCls[group] = this.#slots.cls(slot)
      columns.groupSpc[group] = this.#slots.spc(slot)
      columns.groupDb[group] = this.#slots.db(slot)
      columns.groupRel[group] = this.#slots.rel(slot)
      columns.groupFork[group] = this.#slots.fork(slot)
    }
    columns.groupFirstRow.set(this.#groupFirstRow)
    columns.groupFirstRow[counts.groups] = this.#rows
    columns.rowBlk.set(this.#rowBlk.subarray(0, this.#rows))
    columns.rowChunk.set(this.#rowChunk.subarray(0, this.#rows))
    columns.rowEntry.set(this.#rowEntry.subarray(0, this.#rows))
    columns.rowCount.set(this.#rowCount.subarray(0, this.#rows))
    if (this.#id.kind === LayerKind.Delta) {
      columns.rowFirstLsn.set(this.#rowFirstLsn.subarray(0, this.#rows))
      columns.rowBaseLsn.set(this.#rowBaseLsn.subarray(0, this.#rows))
    }
    columns.chunkOffset.set(this.#chunkOffset)
    columns.chunkStored.set(this.#chunkStored)
    columns.chunkRaw.set(this.#chunkRaw)
    columns.chunkCrc.set(this.#chunkCrc)
    columns.chunkCodec.set(this.#chunkCodec)
    return Buffer.from(columns.rowBlk.buffer)
  }
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
}
