/**
 * Makes image layers: the value, at one flushed LSN, of every key that changed since the last
 * images. A read of the tip then needs no delta below them, so its work stays bounded however long
 * the history grows.
 *
 * The set made by one run shares its LSN and floor and covers the whole key space, cut into files.
 * A key that is not in it has no version in [floor, LSN], and reads go on below the floor. Blocks
 * past the end of their relation, and of dropped relations, are left out. So the cost follows what
 * changed, not the size of the database; after several sets one is made that stands for all.
 */
import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { syncFolder } from '#libs/object-store/durable-file.ts'
import { isInheritedClass, isPageClass, KeyClass, ValueKind } from '../keyspace/key-class.ts'
import { formatKey, type Key, MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { Layer, LayerEntry } from '../layers/layer.ts'
import type { LayerOwner } from '../layers/layer-format.ts'
import { type LayerId, LayerKind, layerName } from '../layers/layer-name.ts'
import { LayerWriter } from '../layers/layer-writer.ts'
import { type ReadSource, readVersions, type Version } from '../read/read-plan.ts'
import { type Appliers, reconstructPage } from '../read/reconstruct.ts'

/** Keys read and rebuilt together; few, since reads of computes share the redo processes. */
const BATCH_KEYS = 32
let tempCount = 0

export interface ImageJob {
  source: ReadSource
  /** Layers whose keys are imaged, loaded. */
  inputs: readonly Layer[]
  imageLsn: Lsn
  floorLsn: Lsn
  folder: string
  owner: LayerOwner
  generation: number
  layerBytes: number
  appliers: Appliers
}

/** Writes the files, durably under their names, and returns what the manifest needs. */
export async function buildImages(job: ImageJob): Promise<LayerEntry[]> {
  const output = new ImageOutput(job)
  try {
    for (const { slot, blks } of changedKeys(job.inputs, job.source.slots)) {
      const limit = await blockLimit(job, slot)
      const kept = limit === null ? blks : blks.filter((blk) => blk < limit)
      for (let at = 0; at < kept.length; at += BATCH_KEYS) {
        await addBatch(job, slot, kept.subarray(at, at + BATCH_KEYS), output)
      }
    }
    return await output.finish()
  } catch (error) {
    await output.abort()
    throw error
  }
}

/** Every key of the layers once, in key order, one prefix at a time. */
function* changedKeys(
  layers: readonly Layer[],
  slots: SlotTable,
): Generator<{ slot: number; blks: Uint32Array }> {
  const slotSet = new Set<number>()
  for (const layer of layers) for (const slot of layer.index.groupSlot) slotSet.add(slot)
  const order = [...slotSet].sort((a, b) => slots.compare(a, b))
  for (const slot of order) {
    const pieces: Uint32Array[] = []
    let total = 0
    for (const layer of layers) {
      const group = layer.index.findGroup(slot)
      if (group < 0) continue
      if (layer.origin !== null && !isInheritedClass(slots.cls(slot))) continue
      const { groupFirstRow, rowBlk } = layer.index.columns
      const piece = rowBlk.subarray(groupFirstRow[group], groupFirstRow[group + 1])
      pieces.push(piece)
      total += piece.length
    }
    const all = new Uint32Array(total)
    let at = 0
    for (const piece of pieces) {
      all.set(piece, at)
      at += piece.length
    }
    all.sort()
    yield { slot, blks: all.filter((blk, index) => index === 0 || blk !== all[index - 1]) }
  }
}

/** Blocks of the fork or segment at the image's LSN; null for classes without a size. */
async function blockLimit(job: ImageJob, slot: number): Promise<number | null> {
  const { slots } = job.source
  const cls = slots.cls(slot)
  if (!isPageClass(cls)) return null
  const sizeClass = cls === KeyClass.RelBlock ? KeyClass.RelSize : KeyClass.SlruSegSize
  const sizeSlot = slots.intern(
    sizeClass,
    slots.spc(slot),
    slots.db(slot),
    slots.rel(slot),
    slots.fork(slot),
  )
  const [versions] = await readVersions(job.source, [{ slot: sizeSlot, blk: 0 }], job.imageLsn + 1)
  const newest = versions?.[0]
  return newest?.kind === ValueKind.Image ? newest.value.readUInt32LE(0) : 0
}

async function addBatch(
  job: ImageJob,
  slot: number,
  blks: Uint32Array,
  output: ImageOutput,
): Promise<void> {
  const { slots } = job.source
  const keys = Array.from(blks, (blk) => ({ slot, blk }))
  const versions = await readVersions(job.source, keys, job.imageLsn + 1)
  const pages = await Promise.all(
    versions.map((chain, index) =>
      valueOf(slots.key(slot, blks[index] as number), chain, job.appliers),
    ),
  )
  for (const [index, value] of pages.entries()) {
    const kind = versions[index]?.[0]?.kind
    if (kind === undefined) continue
    const stored = kind === ValueKind.ZeroPage || kind === ValueKind.Tombstone
    await output.add(
      slot,
      blks[index] as number,
      stored ? kind : ValueKind.Image,
      stored || value === null ? Buffer.alloc(0) : value,
    )
  }
}

async function valueOf(key: Key, chain: Version[], appliers: Appliers): Promise<Buffer | null> {
  if (isPageClass(key.cls)) return await reconstructPage(key, chain, appliers)
  const newest = chain[0]
  if (newest === undefined || newest.kind === ValueKind.Tombstone) return null
  if (newest.kind === ValueKind.Image) return newest.value
  throw new ZenithError('corrupt', `key ${formatKey(key)} of a blob class holds a record`)
}

/** The set's files, cut at a size; together they cover every key. */
class ImageOutput {
  readonly #job: ImageJob
  readonly #done: { temp: string; entry: LayerEntry }[] = []
  #writer: LayerWriter | null = null
  #temp = ''
  #firstKey: Key = MIN_KEY
  #lastKey: Key = MIN_KEY

  constructor(job: ImageJob) {
    this.#job = job
  }

  async add(slot: number, blk: number, kind: number, value: Buffer): Promise<void> {
    if (this.#writer && this.#writer.sizeBytes >= this.#job.layerBytes) {
      await this.#close(this.#lastKey)
      this.#firstKey = { ...this.#lastKey, blk: this.#lastKey.blk + 1 }
    }
    const writer = this.#writer ?? (await this.#open())
    this.#lastKey = this.#job.source.slots.key(slot, blk)
    const { imageLsn } = this.#job
    if (writer.add(slot, blk, imageLsn, kind, value, 0, value.length)) await writer.pump()
  }

  /** Names the files, durably. When nothing is left of what changed, one empty file says so. */
  async finish(): Promise<LayerEntry[]> {
    if (!this.#writer) await this.#open()
    await this.#close(MAX_KEY)
    for (const { temp, entry } of this.#done) {
      await rename(temp, join(this.#job.folder, layerName(entry.id)))
    }
    await syncFolder(this.#job.folder)
    return this.#done.map(({ entry }) => entry)
  }

  async abort(): Promise<void> {
    await this.#writer?.abort()
    for (const temp of [this.#temp, ...this.#done.map((done) => done.temp)]) {
      if (temp) await rm(temp, { force: true })
    }
  }

  async #open(): Promise<LayerWriter> {
    const { imageLsn, floorLsn, generation, folder, owner, source } = this.#job
    const id: LayerId = {
      kind: LayerKind.Image,
      firstKey: this.#firstKey,
      lastKey: MAX_KEY,
      startLsn: imageLsn,
      endLsn: imageLsn + 1,
      floorLsn,
      generation,
    }
    this.#temp = join(folder, `image.tmp~${tempCount++}`)
    this.#writer = await LayerWriter.create(this.#temp, id, owner, source.slots)
    return this.#writer
  }

  async #close(lastKey: Key): Promise<void> {
    if (!this.#writer) return
    const entry = await this.#writer.finish(lastKey)
    this.#done.push({ temp: this.#temp, entry })
    this.#writer = null
    this.#temp = ''
  }
}
