/**
 * Writes a cluster as image layers, all at one LSN, straight from its files: what an import begins
 * with. Nothing passes through the open layer, so that memory does not grow with the cluster.
 */
import { rename } from 'node:fs/promises'
import { join } from 'node:path'
import type { Lsn } from '#libs/lsn.ts'
import { syncFolder } from '#libs/object-store/durable-file.ts'
import { isPageClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { type Key, MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import type { LayerEntry } from '../layers/layer.ts'
import { type LayerId, LayerKind, layerName } from '../layers/layer-name.ts'
import { LayerWriter } from '../layers/layer-writer.ts'
import type { DraftPlace } from '../tenants/tenant.ts'
import type { ClusterPiece } from './cluster-files.ts'

const ZERO_PAGE = Buffer.alloc(PAGE_SIZE)
const NOTHING = Buffer.alloc(0)

/**
 * Writes the pieces, which come in key order, and returns what the manifest needs; of a shard those
 * that are its own. Files are cut at `layerBytes`; together they cover every key. The caller removes the folder when it throws.
 */
export async function writeClusterImages(
  pieces: AsyncIterable<ClusterPiece>,
  lsn: Lsn,
  place: DraftPlace,
  onBytes: (bytes: number) => void,
): Promise<LayerEntry[]> {
  const output = new ImageSet(lsn, place)
  try {
    for await (const piece of pieces) {
      const { cls, spc, db, rel, fork, firstBlk, bytes } = piece
      const slot = place.slots.intern(cls, spc, db, rel, fork)
      const isOurs = (blk: number) => place.shard === null || place.shard.keeps(slot, blk)
      if (!isPageClass(cls)) {
        if (!isOurs(firstBlk)) continue
        await output.add(slot, firstBlk, ValueKind.Image, bytes, 0, bytes.length)
        continue
      }
      for (let offset = 0; offset < bytes.length; offset += PAGE_SIZE) {
        const blk = firstBlk + offset / PAGE_SIZE
        if (!isOurs(blk)) continue
        const zero = bytes.compare(ZERO_PAGE, 0, PAGE_SIZE, offset, offset + PAGE_SIZE) === 0
        if (zero) await output.add(slot, blk, ValueKind.ZeroPage, NOTHING, 0, 0)
        else await output.add(slot, blk, ValueKind.Image, bytes, offset, PAGE_SIZE)
      }
      onBytes(bytes.length)
    }
    return await output.finish()
  } catch (error) {
    await output.abort()
    throw error
  }
}

class ImageSet {
  readonly #lsn: Lsn
  readonly #place: DraftPlace
  readonly #done: { temp: string; entry: LayerEntry }[] = []
  #writer: LayerWriter | null = null
  #temp = ''
  #firstKey: Key = MIN_KEY
  #lastKey: Key = MIN_KEY

  constructor(lsn: Lsn, place: DraftPlace) {
    this.#lsn = lsn
    this.#place = place
  }

  async add(
    slot: number,
    blk: number,
    kind: ValueKind,
    source: Buffer,
    offset: number,
    length: number,
  ): Promise<void> {
    if (this.#writer && this.#writer.sizeBytes >= this.#place.layerBytes) {
      await this.#close(this.#lastKey)
      this.#firstKey = { ...this.#lastKey, blk: this.#lastKey.blk + 1 }
    }
    const writer = this.#writer ?? (await this.#open())
    this.#lastKey = this.#place.slots.key(slot, blk)
    if (writer.add(slot, blk, this.#lsn, kind, source, offset, length)) await writer.pump()
  }

  async finish(): Promise<LayerEntry[]> {
    await this.#close(MAX_KEY)
    for (const { temp, entry } of this.#done) {
      await rename(temp, join(this.#place.folder, layerName(entry.id)))
    }
    await syncFolder(this.#place.folder)
    return this.#done.map(({ entry }) => entry)
  }

  /** Ends without a result: what was written is removed. */
  async abort(): Promise<void> {
    await this.#writer?.abort()
  }

  async #open(): Promise<LayerWriter> {
    const { folder, owner, generation, slots } = this.#place
    const id: LayerId = {
      kind: LayerKind.Image,
      firstKey: this.#firstKey,
      lastKey: MAX_KEY,
      startLsn: this.#lsn,
      endLsn: this.#lsn + 1,
      floorLsn: this.#lsn,
      generation,
    }
    this.#temp = join(folder, `import.tmp~${this.#done.length}`)
    this.#writer = await LayerWriter.create(this.#temp, id, owner, slots)
    return this.#writer
  }

  async #close(lastKey: Key): Promise<void> {
    if (!this.#writer) return
    const entry = await this.#writer.finish(lastKey)
    this.#done.push({ temp: this.#temp, entry })
    this.#writer = null
  }
}
