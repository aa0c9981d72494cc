/**
 * The latest size of every relation fork of a timeline. Only ingest's puts and the load at open
 * fill it, never a read at some LSN: a cache that old reads could fill would serve wrong sizes.
 */
import type { Lsn } from '#libs/lsn.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { KeyRef } from '../read/read-plan.ts'
import type { TimelineReader } from './timeline-reader.ts'

interface RelSize {
  /** -1 = dropped. */
  blocks: number
  /** The size holds from here on. */
  sinceLsn: Lsn
}

export class RelSizes {
  readonly #sizes = new Map<number, RelSize>()
  #totalBlocks = 0
  /** From here on a slot without an entry is a fork that does not exist. */
  #loadedLsn = Number.POSITIVE_INFINITY

  /** As of which LSN `loadAt` has read them; infinite before. */
  get loadedLsn(): Lsn {
    return this.#loadedLsn
  }

  /** True once `loadAt` has resolved. */
  get isLoaded(): boolean {
    return this.#loadedLsn !== Number.POSITIVE_INFINITY
  }

  /** Of all forks together, as of the newest puts. */
  get totalBlocks(): number {
    return this.#totalBlocks
  }

  /**
   * Reads all sizes as of a published LSN. `ancestor` says whose sizes count up to the point where
   * the timeline branches off.
   */
  async loadAt(
    lsn: Lsn,
    reader: TimelineReader,
    slots: SlotTable,
    ancestor: { sizes: RelSizes; lsn: Lsn } | null,
  ): Promise<void> {
    if (lsn === 0) return this.#finishLoad(0)
    if (ancestor?.lsn === lsn && (await this.#inherit(ancestor.sizes, lsn, reader))) return
    for (const entry of await reader.scanBlobs(KeyClass.RelSize, lsn)) {
      const slot = slots.intern(KeyClass.RelSize, entry.spc, entry.db, entry.rel, entry.fork)
      this.#load(slot, entry.value.readUInt32LE(0), lsn)
    }
    this.#finishLoad(lsn)
  }

  /** A size (u32 little-endian at `offset`), or any other kind for a fork that is dropped. */
  put(slot: number, lsn: Lsn, kind: number, src: Buffer, offset: number): void {
    const blocks = kind === ValueKind.Image ? src.readUInt32LE(offset) : -1
    const entry = this.#sizes.get(slot)
    this.#totalBlocks += Math.max(blocks, 0) - Math.max(entry?.blocks ?? 0, 0)
    if (entry === undefined) this.#sizes.set(slot, { blocks, sinceLsn: lsn })
    else {
      entry.blocks = blocks
      entry.sinceLsn = lsn
    }
  }

  /** Blocks now; undefined = absent. */
  latest(slot: number): number | undefined {
    const entry = this.#sizes.get(slot)
    return entry === undefined || entry.blocks < 0 ? undefined : entry.blocks
  }

  /** Size at an LSN: blocks, null = absent, undefined = not known here. */
  at(slot: number, lsn: Lsn): number | null | undefined {
    const entry = this.#sizes.get(slot)
    if (entry === undefined) return lsn >= this.#loadedLsn ? null : undefined
    if (lsn < entry.sinceLsn) return undefined
    return entry.blocks < 0 ? null : entry.blocks
  }

  /** Slot and size of all that is known; -1 blocks = dropped. */
  entries(): Iterable<[number, Readonly<RelSize>]> {
    return this.#sizes
  }

  /** A fresh branch takes its ancestor's sizes, and reads only those that changed since. */
  async #inherit(from: RelSizes, lsn: Lsn, reader: TimelineReader): Promise<boolean> {
    if (!from.isLoaded || from.loadedLsn > lsn) return false
    const changed: KeyRef[] = []
    for (const [slot, { blocks, sinceLsn }] of from.entries()) {
      if (sinceLsn > lsn) changed.push({ slot, blk: 0 })
      else this.#load(slot, blocks, lsn)
    }
    const values = await reader.blobs(changed, lsn)
    for (const [index, { slot }] of changed.entries()) {
      this.#load(slot, values[index]?.readUInt32LE(0) ?? -1, lsn)
    }
    this.#finishLoad(lsn)
    return true
  }

  /** An entry found at load; a put that came in meanwhile wins. */
  #load(slot: number, blocks: number, lsn: Lsn): void {
    if (this.#sizes.has(slot)) return
    this.#sizes.set(slot, { blocks, sinceLsn: lsn })
    this.#totalBlocks += Math.max(blocks, 0)
  }

  /** From here on everything is known. */
  #finishLoad(lsn: Lsn): void {
    this.#loadedLsn = lsn
  }
}
