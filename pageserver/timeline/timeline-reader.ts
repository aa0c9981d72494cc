/** Reads of one timeline: pages, blobs, and all entries of a class, each as of an LSN. */
import { assert, ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { Retention } from '../gc/retention.ts'
import { isPageClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { formatKey } from '../keyspace/key.ts'
import type { OpenLayer } from '../layers/open-layer.ts'
import { type KeyRef, type ReadSource, readVersions, type Version } from '../read/read-plan.ts'
import { reconstructPage } from '../read/reconstruct.ts'
import { scanKeys } from '../read/scan.ts'
import type { Lineage } from './lineage.ts'
import type { StorageContext } from './storage-context.ts'

export interface BlobEntry {
  spc: number
  db: number
  rel: number
  fork: number
  blk: number
  value: Buffer
}

export interface TimelineReaderOptions {
  source: ReadSource
  lineage: Lineage
  retention: Retention
  context: StorageContext
  /** The LSN, or the last published one if that is lower; throws when its state may be gone. */
  readableLsn: (lsn: Lsn) => Lsn
  /** Takes in pages that were dear to build. */
  openLayer: () => OpenLayer
}

/** A page that took more records than this to build is worth keeping. */
const KEEP_AFTER_RECORDS = 16
/** Of the roll size, at most so much goes to pages kept by reads. */
const KEPT_SHARE = 1 / 4

export class TimelineReader {
  readonly #source: ReadSource
  readonly #options: TimelineReaderOptions

  constructor(options: TimelineReaderOptions) {
    this.#options = options
    this.#source = options.source
  }

  /** As `Timeline.readPages`. */
  async readPages(
    slot: number,
    firstBlk: number,
    count: number,
    lsn: Lsn,
    target?: Buffer,
  ): Promise<Buffer> {
    assert(!target || target.length === count * PAGE_SIZE, 'the target holds just the pages')
    const readLsn = this.#options.readableLsn(lsn)
    const keys: KeyRef[] = []
    for (let index = 0; index < count; index++) keys.push({ slot, blk: firstBlk + index })
    const versions = await this.#versions(keys, readLsn)
    const pages = target ?? Buffer.allocUnsafeSlow(count * PAGE_SIZE)
    const pending: Promise<void>[] = []
    for (const [index, chain] of versions.entries()) {
      const blk = firstBlk + index
      const at = index * PAGE_SIZE
      const page = this.#reconstruct(slot, blk, chain)
      if (page === null) pages.fill(0, at, at + PAGE_SIZE)
      else if (page instanceof Promise) {
        pending.push(
          page.then((built) => {
            built.copy(pages, at)
            this.#keep(slot, blk, readLsn, chain.length, built)
          }),
        )
      } else page.copy(pages, at)
    }
    if (pending.length > 0) await Promise.all(pending)
    return pages
  }

  /** The page of each key at a published LSN, which may be a view of storage; null where there is none. */
  async buildPages(keys: readonly KeyRef[], lsn: Lsn): Promise<(Buffer | null)[]> {
    const chains = await this.#versions(keys, lsn)
    return await Promise.all(
      keys.map(async ({ slot, blk }, index) => {
        if (!isPageClass(this.#source.slots.cls(slot))) return null
        return await this.#reconstruct(slot, blk, chains[index] as Version[])
      }),
    )
  }

  /** As `Timeline.readBlob`. */
  async readBlob(slot: number, blk: number, lsn: Lsn): Promise<Buffer | null> {
    const [blob] = await this.blobs([{ slot, blk }], this.#options.readableLsn(lsn))
    return blob as Buffer | null
  }

  /** Value of each key at a published LSN; null where it is absent or deleted. */
  async blobs(keys: readonly KeyRef[], lsn: Lsn): Promise<(Buffer | null)[]> {
    const chains = await this.#versions(keys, lsn)
    return keys.map((key, index) => this.#blobOf(key, chains[index] as Version[]))
  }

  /** As `Timeline.scanBlobs`. */
  async scanBlobs(
    cls: number,
    lsn: Lsn,
    filter: { spc?: number; db?: number } = {},
  ): Promise<BlobEntry[]> {
    const { slots } = this.#source
    const readLsn = this.#options.readableLsn(lsn)
    const [keys, chains] = await this.#read(async () => {
      const found = await scanKeys(this.#source, cls, readLsn + 1, filter)
      return [found, await readVersions(this.#source, found, readLsn + 1)] as const
    })
    const entries: BlobEntry[] = []
    for (const [index, key] of keys.entries()) {
      const value = this.#blobOf(key, chains[index] as Version[])
      if (value === null) continue
      const { spc, db, rel, fork } = slots.key(key.slot, key.blk)
      entries.push({ spc, db, rel, fork, blk: key.blk, value })
    }
    return entries
  }

  #versions(keys: readonly KeyRef[], lsn: Lsn): Promise<Version[][]> {
    return this.#read(() => readVersions(this.#source, keys, lsn + 1))
  }

  /** A collection that passes the LSN meanwhile waits for the end of this before it removes. */
  async #read<T>(work: () => Promise<T>): Promise<T> {
    const { lineage, retention } = this.#options
    const read = retention.reads.enter()
    try {
      if (!lineage.isComplete) await lineage.complete()
      return await work()
    } finally {
      read.leave()
    }
  }

  #reconstruct(slot: number, blk: number, chain: Version[]): Buffer | null | Promise<Buffer> {
    const { appliers } = this.#options.context
    return reconstructPage(this.#source.slots.key(slot, blk), chain, appliers)
  }

  /** Keeps a page that was dear to build, so that the next read of it is cheap. */
  #keep(slot: number, blk: number, lsn: Lsn, steps: number, page: Buffer): void {
    if (steps <= KEEP_AFTER_RECORDS) return
    const open = this.#options.openLayer()
    const limit = this.#options.context.limits.rollSizeBytes * KEPT_SHARE
    if (lsn < open.startLsn || open.ownImageBytes >= limit) return
    open.putOwnImage(slot, blk, lsn, page)
  }

  #blobOf({ slot, blk }: KeyRef, versions: Version[]): Buffer | null {
    const newest = versions[0]
    if (newest === undefined || newest.kind === ValueKind.Tombstone) return null
    if (newest.kind === ValueKind.Image) return newest.value
    throw new ZenithError(
      'corrupt',
      `key ${formatKey(this.#source.slots.key(slot, blk))} of a blob class holds a record`,
    )
  }
}
