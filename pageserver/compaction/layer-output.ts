/**
 * New layer files of one kind and one span of LSNs, cut by keys at about a size. They get their
 * names when all of them are complete, so a job that fails leaves temporary files only.
 */
import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Lsn } from '#libs/lsn.ts'
import { syncFolder } from '#libs/object-store/durable-file.ts'
import { keyAfter } from '../keyspace/key-range.ts'
import { compareKeys, type Key } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { LayerEntry } from '../layers/layer.ts'
import type { LayerOwner } from '../layers/layer-format.ts'
import { type LayerId, LayerKind, layerName, newSerial } from '../layers/layer-name.ts'
import { LayerWriter } from '../layers/layer-writer.ts'

export interface OutputPlace {
  folder: string
  owner: LayerOwner
  generation: number
  /** A file is cut at about this size. */
  layerBytes: number
}

export interface OutputSpan {
  kind: LayerKind
  startLsn: Lsn
  endLsn: Lsn
  floorLsn: Lsn
}

/** Entries come in key order, each key's oldest first. */
export class LayerOutput {
  readonly #place: OutputPlace
  readonly #span: OutputSpan
  readonly #slots: SlotTable
  readonly #done: { temp: string; entry: LayerEntry }[] = []
  #writer: LayerWriter | null = null
  #temp = ''
  /** Where the next file of images begins: they tile the range. */
  #nextKey: Key | null
  #slot = -1
  #blk = -1

  /** `firstKey` is given for images, which cover a range and not only the keys that they hold. */
  constructor(place: OutputPlace, span: OutputSpan, slots: SlotTable, firstKey: Key | null) {
    this.#place = place
    this.#span = span
    this.#slots = slots
    this.#nextKey = firstKey
  }

  /** Complete files so far. */
  get fileCount(): number {
    return this.#done.length
  }

  /** Closes the file when it is large enough; called between keys only. */
  async cut(): Promise<void> {
    const writer = this.#writer
    if (!writer || writer.sizeBytes < this.#place.layerBytes) return
    const lastKey = this.#slots.key(this.#slot, this.#blk)
    await this.#close(lastKey)
    if (this.#span.kind === LayerKind.Image) this.#nextKey = keyAfter(lastKey)
  }

  /** As `cut`, unless the key that comes next is the one that came last. */
  async cutBefore(slot: number, blk: number): Promise<void> {
    if (slot !== this.#slot || blk !== this.#blk) await this.cut()
  }

  /** Appends a version; keys ascend, and the LSNs of a key as the kind of layer wants them. */
  async add(slot: number, blk: number, lsn: Lsn, kind: number, value: Buffer): Promise<void> {
    const writer = this.#writer ?? (await this.#open(slot, blk))
    this.#slot = slot
    this.#blk = blk
    if (writer.add(slot, blk, lsn, kind, value, 0, value.length)) await writer.pump()
  }

  /** Appends entries of another layer's chunk, all of one key. */
  async addRun(
    slot: number,
    blk: number,
    chunk: Buffer,
    first: number,
    count: number,
  ): Promise<void> {
    const writer = this.#writer ?? (await this.#open(slot, blk))
    this.#slot = slot
    this.#blk = blk
    if (writer.addRun(slot, blk, chunk, first, count)) await writer.pump()
  }

  /** Makes images cover the keys up to `lastKey`, also when there is none to hold. */
  async endAt(lastKey: Key): Promise<void> {
    const isOpen = this.#writer !== null
    if (!isOpen && this.#nextKey && compareKeys(this.#nextKey, lastKey) <= 0) {
      await this.#create(this.#nextKey)
    }
    if (this.#writer) await this.#close(lastKey)
  }

  /** Names the files, durably. The last one ends at the last key added. */
  async finish(): Promise<LayerEntry[]> {
    if (this.#writer) await this.#close(this.#slots.key(this.#slot, this.#blk))
    for (const { temp, entry } of this.#done) {
      await rename(temp, join(this.#place.folder, layerName(entry.id)))
    }
    if (this.#done.length > 0) await syncFolder(this.#place.folder)
    return this.#done.map(({ entry }) => entry)
  }

  /** Ends without a result: what was written is removed. */
  async abort(): Promise<void> {
    await this.#writer?.abort()
    for (const temp of [this.#temp, ...this.#done.map((done) => done.temp)]) {
      if (temp) await rm(temp, { force: true })
    }
  }

  #open(slot: number, blk: number): Promise<LayerWriter> {
    return this.#create(this.#nextKey ?? this.#slots.key(slot, blk))
  }

  async #create(firstKey: Key): Promise<LayerWriter> {
    const { folder, owner, generation } = this.#place
    const serial = newSerial()
    const id: LayerId = { ...this.#span, firstKey, lastKey: firstKey, generation, serial }
    this.#temp = join(folder, `${layerName(id)}.tmp`)
    this.#writer = await LayerWriter.create(this.#temp, id, owner, this.#slots)
    return this.#writer
  }

  async #close(lastKey: Key): Promise<void> {
    const entry = await (this.#writer as LayerWriter).finish(lastKey)
    this.#done.push({ temp: this.#temp, entry })
    this.#writer = null
    this.#temp = ''
  }
}
