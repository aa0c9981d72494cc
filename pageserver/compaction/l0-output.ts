/**
 * The files that a merge of L0 layers writes: L1 deltas, cut so that later ones tend to be cut at
 * the same places. A file ends when it is large; earlier at the end of a relation or of a partition
 * of its blocks; and inside one key, by LSN, when that key alone is larger than a file.
 */
import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Lsn } from '#libs/lsn.ts'
import { syncFolder } from '#libs/object-store/durable-file.ts'
import type { Key } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { LayerEntry } from '../layers/layer.ts'
import { LayerKind, layerName, newSerial } from '../layers/layer-name.ts'
import { LayerWriter } from '../layers/layer-writer.ts'
import type { L0Job } from './job.ts'

/** Blocks of a partition: 128 MiB of pages. */
const PARTITION_SHIFT = 14
/** At a bound of a partition or relation a file ends when it has reached this share of its size. */
const BOUND_SHARE = 1 / 4

export class L0Output {
  readonly #job: L0Job
  readonly #slots: SlotTable
  readonly #startLsn: Lsn
  readonly #endLsn: Lsn
  readonly #done: { temp: string; entry: LayerEntry }[] = []
  #writer: LayerWriter | null = null
  #temp = ''
  #slot = -1
  #blk = -1
  #lastLsn: Lsn = 0
  /** The open file holds one key alone, which is larger than a file. */
  #isSplit = false

  constructor(job: L0Job, slots: SlotTable, startLsn: Lsn, endLsn: Lsn) {
    this.#job = job
    this.#slots = slots
    this.#startLsn = startLsn
    this.#endLsn = endLsn
  }

  /** Files finished so far. */
  get fileCount(): number {
    return this.#done.length
  }

  /** Goes on to another key, in key order; `isHuge` when it may be larger than a file. */
  async startKey(slot: number, blk: number, isHuge: boolean): Promise<void> {
    const writer = this.#writer
    if (writer) {
      const { layerBytes } = this.#job
      const atBound =
        slot !== this.#slot || blk >>> PARTITION_SHIFT !== this.#blk >>> PARTITION_SHIFT
      const enough = atBound ? layerBytes * BOUND_SHARE : layerBytes
      if (isHuge || this.#isSplit || writer.sizeBytes >= enough) await this.#close(this.#endLsn)
    }
    this.#slot = slot
    this.#blk = blk
    this.#isSplit = isHuge
    if (!this.#writer) await this.#open(this.#startLsn)
  }

  /** Appends versions of the key; `firstLsn` and `lastLsn` are those of the run. */
  async addRun(
    chunk: Buffer,
    first: number,
    count: number,
    firstLsn: Lsn,
    lastLsn: Lsn,
  ): Promise<void> {
    let writer = this.#writer as LayerWriter
    const isFull = this.#isSplit && writer.sizeBytes >= this.#job.layerBytes
    // Versions of one LSN stay together.
    if (isFull && firstLsn > this.#lastLsn) {
      await this.#close(firstLsn)
      writer = await this.#open(firstLsn)
    }
    this.#lastLsn = lastLsn
    if (writer.addRun(this.#slot, this.#blk, chunk, first, count)) await writer.pump()
  }

  /** Gives the files their names, durably. */
  async finish(): Promise<LayerEntry[]> {
    if (this.#writer) await this.#close(this.#endLsn)
    for (const { temp, entry } of this.#done) {
      await rename(temp, join(this.#job.source.folder, layerName(entry.id)))
    }
    await syncFolder(this.#job.source.folder)
    return this.#done.map(({ entry }) => entry)
  }

  /** Ends without a result: what was written is removed. */
  async abort(): Promise<void> {
    await this.#writer?.abort()
    for (const temp of [this.#temp, ...this.#done.map((done) => done.temp)]) {
      if (temp) await rm(temp, { force: true })
    }
  }

  async #open(startLsn: Lsn): Promise<LayerWriter> {
    const { source, owner, generation } = this.#job
    const key: Key = this.#slots.key(this.#slot, this.#blk)
    const id = {
      kind: LayerKind.Delta,
      firstKey: key,
      lastKey: key,
      startLsn,
      endLsn: this.#endLsn,
      floorLsn: startLsn,
      generation,
      serial: newSerial(),
    }
    this.#temp = join(source.folder, `l1.tmp~${this.#done.length}`)
    await rm(this.#temp, { force: true })
    this.#writer = await LayerWriter.create(this.#temp, id, owner, this.#slots)
    return this.#writer
  }

  async #close(endLsn: Lsn): Promise<void> {
    const writer = this.#writer as LayerWriter
    const entry = await writer.finish(this.#slots.key(this.#slot, this.#blk), endLsn)
    this.#done.push({ temp: this.#temp, entry })
    this.#writer = null
    this.#temp = ''
  }
}
