/**
 * The latest size of every relation fork of a timeline. Only ingest's puts and the load at open
 * fill it, never a read at some LSN: a cache that old reads could fill would serve wrong sizes.
 */
import type { Lsn } from '#libs/lsn.ts'
import { ValueKind } from '../keyspace/key-class.ts'

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

  get loadedLsn(): Lsn {
    return this.#loadedLsn
  }

  get isLoaded(): boolean {
    return this.#loadedLsn !== Number.POSITIVE_INFINITY
  }

  /** Of all forks together, as of the newest puts. */
  get totalBlocks(): number {
    return this.#totalBlocks
  }

  finishLoad(lsn: Lsn): void {
    this.#loadedLsn = lsn
  }

  /** An entry found at load; a put that came in meanwhile wins. */
  load(slot: number, blocks: number, lsn: Lsn): void {
    if (this.#sizes.has(slot)) return
    this.#sizes.set(slot, { blocks, sinceLsn: lsn })
    this.#totalBlocks += Math.max(blocks, 0)
  }

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

  entries(): Iterable<[number, Readonly<RelSize>]> {
    return this.#sizes
  }
}
