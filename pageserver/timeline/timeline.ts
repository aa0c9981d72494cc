/**
 * One branch's history: every version of every key, readable at any LSN up to `lastRecordLsn`.
 *
 * One writer (ingest) puts versions in LSN order and publishes record ends; readers see only what
 * is published. What lies below the branch point is read from the ancestor, never copied; after a
 * restart the ancestor may still have to take in WAL up to there, and reads wait for that.
 *
 * LSNs, each at most the one before: lastRecordLsn (readable), diskConsistentLsn (in local layer
 * files), remoteConsistentLsn (in a manifest in object storage of what was then the newest
 * generation; WAL below it may be forgotten).
 */
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lock } from '#libs/lock.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { type Collected, collectTimeline } from '../gc/collector.ts'
import { firstShardCutoff } from '../gc/first-shard.ts'
import { Retention } from '../gc/retention.ts'
import type { HistorySettings } from '../gc/settings.ts'
import { TimelineCompaction } from '../compaction/timeline-compaction.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import type { ShardFilter } from '../ingest/shard-filter.ts'
import type { Layer, LayerEntry } from '../layers/layer.ts'
import type { LayerMap } from '../layers/layer-map.ts'
import type { OpenLayer } from '../layers/open-layer.ts'
import type { ReadSource } from '../read/read-plan.ts'
import { type TimelineFacts, type TimelineState, walStartOf } from '../remote/manifest.ts'
import { statisticsFolder } from '../remote/paths.ts'
import { StatisticsStore } from '../remote/statistics-store.ts'
import { ChainCap } from './chain-cap.ts'
import { type LayerChange, LayerStore, type LayerStoreOptions } from './layer-store.ts'
import { type Ancestor, Lineage } from './lineage.ts'
import { RelSizes } from './rel-sizes.ts'
import type { StorageContext } from './storage-context.ts'
import { type BlobEntry, TimelineReader } from './timeline-reader.ts'
import { Tip } from './tip.ts'
import { Upkeep } from './upkeep.ts'

export interface TimelineOptions extends LayerStoreOptions {
  /** Where its children leave it, archived ones included. */
  branchPoints: () => readonly Lsn[]
  /** Gives another timeline of the tenant; throws when it is not open. */
  timelineOf: (timelineId: TimelineId) => Timeline
}

export class Timeline {
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
  readonly statistics: StatisticsStore
  /** Which keys are here; null = all. Versions of others are passed over by `put`. */
  readonly shard: ShardFilter | null
  /** What of the past is kept: cutoff, leases, holds. */
  readonly retention: Retention
  readonly lineage: Lineage
  /** What reads are planned over. */
  readonly source: ReadSource
  readonly compaction: TimelineCompaction
  readonly #store: LayerStore
  readonly #context: StorageContext
  #relSizes = new RelSizes()
  readonly #reader: TimelineReader
  readonly #cap: ChainCap
  readonly #tip: Tip
  readonly #upkeep: Upkeep
  #ready: Promise<void> | null = null
  #closed = false

  constructor(options: TimelineOptions) {
    this.tenantId = options.tenantId
    this.timelineId = options.timelineId
    this.shard = options.shard
    this.#context = options.context
    const { tenantId, timelineId } = options
    const statistics = statisticsFolder(tenantId, timelineId)
    this.statistics = new StatisticsStore(options.context.store, statistics, options.releaseObjects)
    const store = new LayerStore({
      ...options,
      onFlushed: () => {
        if (this.#store.isDraft) return
        this.#context.compactor.wake()
      },
      onFlushFailed: (error) => this.#warn(error, 'flush'),
    })
    this.#store = store
    this.retention = new Retention({
      timelineId,
      startLsn: () => store.facts.startLsn,
      cutoffLsn: store.gcCutoffLsn,
      leasedLsns: () => store.leasedLsns,
      branchPoints: options.branchPoints,
      leaseMs: options.context.limits.leaseMs,
    })
    this.#tip = new Tip(timelineId, store.diskConsistentLsn, store.prevRecordLsn)
    const lineage = new Lineage({ facts: () => store.facts, timelineOf: options.timelineOf })
    this.lineage = lineage
    this.source = {
      stats: options.context.readStats,
      slots: options.slots,
      get memory(): readonly OpenLayer[] {
        return store.memory
      },
      get layers(): LayerMap {
        return store.layers
      },
      get parent(): Lineage['parent'] {
        return lineage.parent
      },
    }
    const { context } = options
    const { source, retention } = this
    this.#reader = new TimelineReader({
      source,
      lineage,
      retention,
      context,
      readableLsn: (lsn) => this.#readableLsn(lsn),
      openLayer: () => store.open,
    })
    this.compaction = new TimelineCompaction({
      tenantId,
      timelineId,
      store,
      source,
      retention,
      context,
    })
    this.#upkeep = new Upkeep({
      store,
      tip: this.#tip,
      compaction: this.compaction,
      limits: context.limits,
      onFailed: (error, what) => this.#warn(error, what),
    })
    this.#cap = new ChainCap({
      build: (keys, lsn) => this.#reader.buildPages(keys, lsn),
      currentLayer: () => store.open,
      lastRecordLsn: () => this.lastRecordLsn,
      log: context.log,
    })
  }

  /** Where it branches off; null when its whole history is its own. A detach changes it. */
  get ancestor(): Ancestor | null {
    return this.lineage.ancestor
  }

  /** What the manifest says of it. */
  get facts(): TimelineFacts {
    return this.#store.facts
  }

  get state(): TimelineState {
    return this.#store.state
  }

  /** End of the last published record; reads are answered up to here. 0 before the first. */
  get lastRecordLsn(): Lsn {
    return this.#tip.recordLsn
  }

  /** Start of the record that ends at lastRecordLsn; null when nobody told. */
  get lastRecordStartLsn(): Lsn | null {
    return this.#tip.recordStartLsn
  }

  get diskConsistentLsn(): Lsn {
    return this.#store.diskConsistentLsn
  }

  get remoteConsistentLsn(): Lsn {
    return this.#store.remoteConsistentLsn
  }

  /** First LSN of the branch's own history. */
  get startLsn(): Lsn {
    return this.#store.facts.startLsn
  }

  /** Reads below are refused unless leased; null = all is there since the timeline began. */
  get gcCutoffLsn(): Lsn | null {
    return this.retention.cutoffLsn
  }

  /**
   * Which states must stay readable: ascending, the last is the cutoff, above which all do. Whoever
   * removes or merges versions keeps each of them as it is.
   */
  retainedPoints(): Lsn[] {
    return this.retention.retainedPoints()
  }

  /** Decimal text of pg_control's system identifier. */
  get systemId(): string {
    return this.#store.facts.systemId
  }

  /** As server_version_num: 170011. */
  get pgVersion(): number {
    return this.#store.facts.pgVersion
  }

  /** Layer files, for status and tests. */
  get layers(): LayerMap {
    return this.#store.layers
  }

  /** Layers that have left the map, and may still be read by who began before. */
  get retiring(): Iterable<Layer> {
    return this.#store.retiring
  }

  /** How long flushes have waited for compaction, all together. */
  get flushDelayedMs(): number {
    return this.#store.flushDelayedMs
  }

  /** Held by whatever replaces layers: one such work at a time. */
  get compactionLock(): Lock {
    return this.compaction.lock
  }

  /** Memory of open and frozen layers, roughly. */
  get memoryBytes(): number {
    return this.#store.memory.reduce((sum, memory) => sum + memory.sizeBytes, 0)
  }

  /**
   * Bytes of all relation forks at the end, as its shard knows them; null until `ready()` has
   * resolved. Kept up to date by every change, so that it costs nothing to ask.
   */
  get logicalBytes(): number | null {
    return this.#relSizes.isLoaded ? this.#relSizes.totalBlocks * PAGE_SIZE : null
  }

  /** WAL that was written on the timeline itself. */
  get writtenBytes(): number {
    return Math.max(this.lastRecordLsn - walStartOf(this.#store.facts), 0)
  }

  /** Resolves when `latestRelSize` may be used; ingest waits for it before its first record. */
  ready(): Promise<void> {
    this.#ready ??= this.#loadRelSizes().catch((error: unknown) => {
      this.#ready = null
      throw error
    })
    return this.#ready
  }

  /** Interns a key prefix. */
  slot(cls: number, spc: number, db: number, rel: number, fork: number): number {
    return this.source.slots.intern(cls, spc, db, rel, fork)
  }

  /**
   * Adds a version, unless it belongs to another shard; copies the bytes. LSNs (record ends) do not
   * decrease and lie above what is published; readers see nothing of it before `publish`.
   */
  put(
    slot: number,
    blk: number,
    lsn: Lsn,
    kind: ValueKind,
    src: Buffer,
    offset: number,
    length: number,
  ): void {
    if (this.shard !== null && !this.shard.keeps(slot, blk)) return
    this.#tip.notePut(lsn)
    const { open, slots } = this.#store
    open.put(slot, blk, lsn, kind, src, offset, length)
    // Sizes are never records.
    if (kind === ValueKind.Record || slots.cls(slot) !== KeyClass.RelSize) return
    this.#relSizes.put(slot, lsn, kind, src, offset)
  }

  /**
   * Keeps a copy of WAL from `lsn` on, and returns it: versions that are records out of there take
   * no other copy. Good until `letGo`.
   */
  hold(wal: Buffer, lsn: Lsn): Buffer {
    return this.#store.open.hold(wal, lsn)
  }

  /** What `hold` returned is not read any more. */
  letGo(): void {
    this.#store.open.letGo()
  }

  /**
   * Makes everything up to this record end readable and wakes waiters. `lastRecordStartLsn` is
   * where that record starts; a base backup at the tip needs it.
   */
  publish(lastRecordLsn: Lsn, lastRecordStartLsn: Lsn | null = null): void {
    const { open } = this.#store
    for (const key of open.takeHot()) this.#cap.note(open, key)
    this.#tip.publish(lastRecordLsn, lastRecordStartLsn)
    this.#upkeep.rollWhenFull()
    this.#cap.kick()
  }

  /** Resolves when memory allows more puts; ingest awaits it between batches. */
  async waitForRoom(): Promise<void> {
    if (!this.#store.hasRoom) await this.#store.waitForRoom()
  }

  /** Throws `timeout` when the LSN is not reached in time, `unavailable` at shutdown. */
  async waitForLsn(lsn: Lsn, timeoutMs: number): Promise<void> {
    await this.#tip.waitFor(lsn, timeoutMs)
  }

  /** No more WAL will come, for this reason: who waits for some, now or later, fails at once. */
  failWaiters(reason: ZenithError): void {
    this.#tip.failWaiters(reason)
  }

  /** WAL comes again after `failWaiters`. */
  takeWaiters(): void {
    if (!this.#closed) this.#tip.takeWaiters()
  }

  /**
   * Forgets what was put but never published: the first versions of a record that could not be
   * taken in. Whoever writes next continues at `lastRecordLsn`.
   */
  dropUnpublished(): void {
    if (!this.#tip.hasUnpublished) return
    this.#upkeep.openIsNew()
    this.#store.dropUnpublished(this.lastRecordLsn, this.lastRecordStartLsn)
    this.#tip.dropUnpublished()
    // The sizes may have been changed by what is gone now.
    this.#relSizes = new RelSizes()
    this.#ready = null
    this.#store.startFlush()
  }

  /**
   * `count` pages of 8 KiB from `firstBlk` on, as of `lsn`; zeros where nothing was stored. They go
   * to `target`, which has just that size, or to a new buffer.
   */
  readPages(
    slot: number,
    firstBlk: number,
    count: number,
    lsn: Lsn,
    target?: Buffer,
  ): Promise<Buffer> {
    return this.#reader.readPages(slot, firstBlk, count, lsn, target)
  }

  /** One page, as `readPages`. */
  readPage(slot: number, blk: number, lsn: Lsn): Promise<Buffer> {
    return this.readPages(slot, blk, 1, lsn)
  }

  /** Newest value at or below `lsn`; null when absent or deleted. */
  readBlob(slot: number, blk: number, lsn: Lsn): Promise<Buffer | null> {
    return this.#reader.readBlob(slot, blk, lsn)
  }

  /** All live entries of a blob class, in key order. */
  scanBlobs(
    cls: number,
    lsn: Lsn,
    filter: { spc?: number; db?: number } = {},
  ): Promise<BlobEntry[]> {
    return this.#reader.scanBlobs(cls, lsn, filter)
  }

  /** Blocks of a fork as of `lsn`; null when it does not exist. */
  async relSize(
    spc: number,
    db: number,
    rel: number,
    fork: number,
    lsn: Lsn,
  ): Promise<number | null> {
    const slot = this.slot(KeyClass.RelSize, spc, db, rel, fork)
    const known = this.#relSizes.at(slot, this.#readableLsn(lsn))
    if (known !== undefined) return known
    const value = await this.readBlob(slot, 0, lsn)
    return value === null ? null : value.readUInt32LE(0)
  }

  /** Blocks of a fork now, unpublished puts included; `slot` is the RelSize slot. */
  latestRelSize(slot: number): number | undefined {
    assert(this.#relSizes.isLoaded, 'ready() has resolved before latest sizes are asked for')
    return this.#relSizes.latest(slot)
  }

  /** Freezes what is published, writes it as layers, uploads, advances the LSNs. */
  async flush(): Promise<void> {
    const target = this.lastRecordLsn
    this.#upkeep.freeze()
    await this.#store.flushTo(target)
  }

  /** Flushes, then makes images of what changed since the last ones; nothing to do is no error. */
  async createImageLayers(): Promise<void> {
    await this.lineage.complete()
    // Compaction reads layers, not an ancestor's memory.
    for (let at = this.ancestor; at !== null; at = at.timeline.ancestor) await at.timeline.flush()
    await this.flush()
    await this.compaction.makeImages()
  }

  /**
   * Called every some seconds with the time: freezes an open layer that has held data for too long,
   * uses a pause in the WAL to make reads cheap, and retries what failed.
   */
  tick(nowMs: number): void {
    this.#upkeep.tick(nowMs)
  }

  /** Layers whose files are on local disk, of those that are in object storage. */
  residentPublished(): Layer[] {
    return this.#store.residentPublished()
  }

  /** The tenant is stale here: resolves when nothing of this timeline is being written any more. */
  stopWriting(): Promise<void> {
    return this.#store.stopWriting()
  }

  /** What was held up goes on. */
  resumeWriting(): void {
    this.#store.startFlush()
  }

  /** Freezes now, because the process needs memory. */
  relieve(): void {
    this.#upkeep.roll()
  }

  /** True for shards but the first, whose cutoff they follow (gc/first-shard.ts). */
  get followsFirstShard(): boolean {
    return this.shard !== null && this.shard.identity.number !== 0
  }

  /** The durable cutoff of shard 0; null while it keeps all of its history. */
  async firstShardCutoff(): Promise<Lsn | null> {
    const { tenantId, timelineId, shard } = this
    if (shard === null) return this.gcCutoffLsn
    return firstShardCutoff(this.#context.store, tenantId, timelineId, shard.identity.count)
  }

  /**
   * Moves the cutoff as the settings say, and takes away what no state that is kept needs. The part
   * that must not meet the making of a branch runs within `exclusively`.
   */
  collectGarbage(
    history: HistorySettings,
    exclusively: (work: () => Promise<Collected>) => Promise<Collected>,
  ): Promise<Collected> {
    return this.compactionLock.run(() => collectTimeline(this, this.#store, history, exclusively))
  }

  /** Waits for background work that is due: page images of hot keys, flushes. For tests. */
  async settle(): Promise<void> {
    await this.#cap.idle()
    await this.#store.idle()
    await this.compaction.lock.idle()
  }

  /** Makes a change durable, then visible; see `LayerStore.change`. */
  async change(change: LayerChange): Promise<void> {
    await this.#store.change(change)
  }

  /** Resolves when every ancestor has its history up to where we branch off. */
  async awaitAncestorWal(): Promise<void> {
    await this.lineage.complete()
  }

  /**
   * An import: the new timeline begins with image layers that lie in its folder, all as of `lsn`,
   * and takes in WAL from there. It is in no manifest, and nobody may read it, before `endDraft`.
   */
  beginDraft(images: readonly LayerEntry[], lsn: Lsn): void {
    this.#store.beginDraft(images, lsn)
    this.#tip.beginAt(lsn)
  }

  /** True while an import is not whole. */
  get isDraft(): boolean {
    return this.#store.isDraft
  }

  /** The history is whole and consistent from `startLsn` on: makes it durable. */
  async endDraft(startLsn: Lsn): Promise<void> {
    assert(this.lastRecordLsn >= startLsn, 'the WAL that makes it consistent is taken in')
    this.#store.endDraft({ ...this.#store.facts, startLsn, walStartLsn: this.lastRecordLsn })
    await this.flush()
  }

  /** Where WAL of its own begins, in safekeepers: later than startLsn for what was imported. */
  get walStartLsn(): Lsn {
    return walStartOf(this.#store.facts)
  }

  /** WAL of its own begins at its present end: nobody is followed any more. */
  async beginOwnWal(): Promise<void> {
    await this.flush()
    const walStartLsn = this.lastRecordLsn
    await this.#store.change({ facts: { ...this.#store.facts, walStartLsn } })
  }

  /** Makes the manifest of a new branch durable. */
  async createEmpty(): Promise<void> {
    await this.#store.createEmpty()
  }

  /** Asks whether what is durable counts; never rejects. Done at each flush and tick, too. */
  confirm(): Promise<void> {
    return this.#store.confirm()
  }

  /** Set when this page server must not write any more, since another uses its generation. */
  get fenced(): ZenithError | null {
    return this.#store.fenced
  }

  /** Readies the local folder; the manifest is already loaded. */
  async open(): Promise<void> {
    await this.#store.tidyFolder()
  }

  /** Ends waiting readers and background work, flushes when asked, closes files. */
  async close(options: { flush: boolean }): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#upkeep.stop()
    this.#tip.failWaiters(
      new ZenithError('unavailable', `timeline ${this.timelineId} is shutting down`),
    )
    await this.#cap.stop()
    await this.compaction.close()
    try {
      if (options.flush) await this.flush()
    } finally {
      await this.#store.close()
    }
  }

  #readableLsn(lsn: Lsn): Lsn {
    this.checkWithin(lsn)
    return Math.min(lsn, this.lastRecordLsn)
  }

  /** Throws `out_of_range` for an LSN before the timeline begins, or whose state may be gone. */
  checkWithin(lsn: Lsn): void {
    if (lsn < this.startLsn) {
      throw new ZenithError(
        'out_of_range',
        `timeline ${this.timelineId} has no history at ${formatLsn(lsn)}; it starts at ${formatLsn(this.startLsn)}`,
      )
    }
    this.retention.checkReadable(lsn)
  }

  async #loadRelSizes(): Promise<void> {
    await this.lineage.complete()
    const { ancestor } = this
    const inherited = ancestor && { sizes: ancestor.timeline.#relSizes, lsn: ancestor.lsn }
    const { slots } = this.source
    await this.#relSizes.loadAt(this.lastRecordLsn, this.#reader, slots, inherited)
  }

  #warn(error: unknown, what: string): void {
    this.#context.log.error(
      { tenantId: this.tenantId, timelineId: this.timelineId, error: errorMessage(error) },
      `${what} failed and will be tried again`,
    )
  }
}
