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
import { isPageClass, KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import type { ShardFilter } from '../ingest/shard-filter.ts'
import { formatKey } from '../keyspace/key.ts'
import type { Layer, LayerEntry } from '../layers/layer.ts'
import type { LayerMap } from '../layers/layer-map.ts'
import { MAX_KEYS } from '../layers/key-table.ts'
import type { OpenLayer } from '../layers/open-layer.ts'
import { type KeyRef, type ReadSource, readVersions, type Version } from '../read/read-plan.ts'
import { reconstructPage } from '../read/reconstruct.ts'
import { scanKeys } from '../read/scan.ts'
import { type TimelineFacts, type TimelineState, walStartOf } from '../remote/manifest.ts'
import { statisticsFolder } from '../remote/paths.ts'
import { StatisticsStore } from '../remote/statistics-store.ts'
import { ChainCap } from './chain-cap.ts'
import { type LayerChange, LayerStore, type LayerStoreOptions } from './layer-store.ts'
import { LsnWaiters } from './lsn-waiters.ts'
import { RelSizes } from './rel-sizes.ts'
import type { StorageContext } from './storage-context.ts'

export interface BlobEntry {
  spc: number
  db: number
  rel: number
  fork: number
  blk: number
  value: Buffer
}

export interface Ancestor {
  timeline: Timeline
  lsn: Lsn
}

interface Lineage {
  readonly ancestor: Ancestor
  /** The same, as reads use it. */
  readonly parent: { readonly source: ReadSource; readonly lsn: Lsn }
}

export interface TimelineOptions extends LayerStoreOptions {
  /** What of the WAL is kept; null = all of it, the tenant is not sharded. */
  shard: ShardFilter | null
  /** Where its children leave it, archived ones included. */
  branchPoints: () => readonly Lsn[]
  /** Gives another timeline of the tenant; throws when it is not open. */
  timelineOf: (timelineId: TimelineId) => Timeline
}

/** A page that took more records than this to build is worth keeping. */
const KEEP_AFTER_RECORDS = 16
/** Of the roll size, at most so much goes to pages kept by reads. */
const KEPT_SHARE = 1 / 4
/** After a restart reads wait so long for the ancestor's WAL up to the branch point. */
const ANCESTOR_WAIT_MS = 60_000
/** With less WAL than this from one tick to the next a timeline counts as idle. */
const IDLE_WAL_BYTES = 256 * 1024
/** Leaves room for the puts of one batch before the hard limit. */
const ROLL_KEYS = MAX_KEYS * 0.75

export class Timeline {
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
  readonly statistics: StatisticsStore
  /** Which keys are here; null = all. Versions of others are passed over by `put`. */
  readonly shard: ShardFilter | null
  /** What of the past is kept: cutoff, leases, holds. */
  readonly retention: Retention
  readonly #store: LayerStore
  readonly #context: StorageContext
  readonly #source: ReadSource
  readonly #waiters = new LsnWaiters()
  #relSizes = new RelSizes()
  readonly #cap: ChainCap
  readonly compaction: TimelineCompaction
  #lastRecordLsn: Lsn
  #lastRecordStartLsn: Lsn | null
  #lastPutLsn: Lsn
  #ready: Promise<void> | null = null
  /** When the open layer was first seen to hold data; 0 = it is empty. */
  #openSinceMs = 0
  #lastTickLsn: Lsn = 0
  #ancestorComplete = false
  readonly #timelineOf: (timelineId: TimelineId) => Timeline
  /** What `#lineage` was made of. */
  #lineageFacts: TimelineFacts | null = null
  #lineage: Lineage | null = null
  #closed = false

  constructor(options: TimelineOptions) {
    this.tenantId = options.tenantId
    this.timelineId = options.timelineId
    this.#timelineOf = options.timelineOf
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
      leasedLsns: store.leasedLsns,
      branchPoints: options.branchPoints,
      leaseMs: options.context.limits.leaseMs,
    })
    this.#lastRecordLsn = store.diskConsistentLsn
    this.#lastRecordStartLsn = store.prevRecordLsn
    this.#lastPutLsn = this.#lastRecordLsn
    const lineage = () => this.#lineageNow()
    this.#source = {
      stats: options.context.readStats,
      slots: options.slots,
      get memory(): readonly OpenLayer[] {
        return store.memory
      },
      get layers(): LayerMap {
        return store.layers
      },
      get parent(): Lineage['parent'] | null {
        return lineage()?.parent ?? null
      },
    }
    const { context } = options
    const source = this.#source
    this.compaction = new TimelineCompaction({
      tenantId,
      timelineId,
      store,
      source,
      retention: this.retention,
      context,
    })
    this.#cap = new ChainCap({
      build: (keys, lsn) => this.#buildPages(keys, lsn),
      currentLayer: () => store.open,
      lastRecordLsn: () => this.#lastRecordLsn,
      log: options.context.log,
    })
  }

  /** Where it branches off; null when its whole history is its own. A detach changes it. */
  get ancestor(): Ancestor | null {
    return this.#lineageNow()?.ancestor ?? null
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
    return this.#lastRecordLsn
  }

  /** Start of the record that ends at lastRecordLsn; null when nobody told. */
  get lastRecordStartLsn(): Lsn | null {
    return this.#lastRecordStartLsn
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
    return Math.max(this.#lastRecordLsn - walStartOf(this.#store.facts), 0)
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
    return this.#source.slots.intern(cls, spc, db, rel, fork)
  }

  /**
   * Adds a version, unless it belongs to another shard; copies the bytes. LSNs (record ends) do not decrease and lie above what is
   * published; readers see nothing of it before `publish`.
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
    if (lsn < this.#lastPutLsn || lsn <= this.#lastRecordLsn) {
      throw new ZenithError(
        'internal',
        `a version at ${formatLsn(lsn)} comes after ${formatLsn(this.#lastPutLsn)} was put`,
      )
    }
    this.#lastPutLsn = lsn
    const { open, slots } = this.#store
    const hotKey = open.put(slot, blk, lsn, kind, src, offset, length)
    if (hotKey >= 0) this.#cap.note(open, hotKey)
    if (slots.cls(slot) === KeyClass.RelSize) this.#relSizes.put(slot, lsn, kind, src, offset)
  }

  /**
   * Makes everything up to this record end readable and wakes waiters. `lastRecordStartLsn` is
   * where that record starts; a base backup at the tip needs it.
   */
  publish(lastRecordLsn: Lsn, lastRecordStartLsn: Lsn | null = null): void {
    if (lastRecordLsn < this.#lastRecordLsn) {
      throw new ZenithError(
        'internal',
        `publish went back from ${formatLsn(this.#lastRecordLsn)} to ${formatLsn(lastRecordLsn)}`,
      )
    }
    this.#lastRecordLsn = lastRecordLsn
    this.#lastRecordStartLsn = lastRecordStartLsn
    this.#waiters.reached(lastRecordLsn)
    const { open } = this.#store
    const { rollSizeBytes, rollDistanceBytes } = this.#context.limits
    if (
      open.sizeBytes >= rollSizeBytes ||
      lastRecordLsn - open.startLsn >= rollDistanceBytes ||
      open.keyCount >= ROLL_KEYS
    ) {
      this.#roll()
    }
    this.#cap.kick()
  }

  /** Resolves when memory allows more puts; ingest awaits it between batches. */
  async waitForRoom(): Promise<void> {
    if (!this.#store.hasRoom) await this.#store.waitForRoom()
  }

  /** Throws `timeout` when the LSN is not reached in time, `unavailable` at shutdown. */
  async waitForLsn(lsn: Lsn, timeoutMs: number): Promise<void> {
    if (lsn <= this.#lastRecordLsn) return
    await this.#waiters.wait(
      lsn,
      timeoutMs,
      () => `timeline ${this.timelineId} is at ${formatLsn(this.#lastRecordLsn)}`,
    )
  }

  /** No more WAL will come, for this reason: who waits for some, now or later, fails at once. */
  failWaiters(reason: ZenithError): void {
    this.#waiters.close(reason)
  }

  /** WAL comes again after `failWaiters`. */
  takeWaiters(): void {
    if (!this.#closed) this.#waiters.reopen()
  }

  /**
   * Forgets what was put but never published: the first versions of a record that could not be
   * taken in. Whoever writes next continues at `lastRecordLsn`.
   */
  dropUnpublished(): void {
    if (this.#lastPutLsn === this.#lastRecordLsn) return
    this.#openSinceMs = 0
    this.#store.dropUnpublished(this.#lastRecordLsn, this.#lastRecordStartLsn)
    this.#lastPutLsn = this.#lastRecordLsn
    // The sizes may have been changed by what is gone now.
    this.#relSizes = new RelSizes()
    this.#ready = null
    this.#store.startFlush()
  }

  /**
   * `count` pages of 8 KiB from `firstBlk` on, as of `lsn`; zeros where nothing was stored. They go
   * to `target`, which has just that size, or to a new buffer.
   */
  async readPages(
    slot: number,
    firstBlk: number,
    count: number,
    lsn: Lsn,
    target?: Buffer,
  ): Promise<Buffer> {
    assert(!target || target.length === count * PAGE_SIZE, 'the target holds just the pages')
    const readLsn = this.#readableLsn(lsn)
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

  readPage(slot: number, blk: number, lsn: Lsn): Promise<Buffer> {
    return this.readPages(slot, blk, 1, lsn)
  }

  /** Newest value at or below `lsn`; null when absent or deleted. */
  async readBlob(slot: number, blk: number, lsn: Lsn): Promise<Buffer | null> {
    const [versions] = await this.#versions([{ slot, blk }], this.#readableLsn(lsn))
    return this.#blobOf(slot, blk, versions as Version[])
  }

  /** All live entries of a blob class, in key order. */
  async scanBlobs(
    cls: number,
    lsn: Lsn,
    filter: { spc?: number; db?: number } = {},
  ): Promise<BlobEntry[]> {
    const { slots } = this.#source
    const readLsn = this.#readableLsn(lsn)
    const read = this.retention.reads.enter()
    let keys: KeyRef[]
    let chains: Version[][]
    try {
      if (!this.#hasAncestorWal()) await this.#awaitAncestorWal()
      keys = await scanKeys(this.#source, cls, readLsn + 1, filter)
      chains = await readVersions(this.#source, keys, readLsn + 1)
    } finally {
      read.leave()
    }
    const entries: BlobEntry[] = []
    for (const [index, { slot, blk }] of keys.entries()) {
      const value = this.#blobOf(slot, blk, chains[index] as Version[])
      if (value === null) continue
      const { spc, db, rel, fork } = slots.key(slot, blk)
      entries.push({ spc, db, rel, fork, blk, value })
    }
    return entries
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
    const target = this.#lastRecordLsn
    this.#freeze()
    await this.#store.flushTo(target)
  }

  /** Flushes, then makes images of what changed since the last ones; nothing to do is no error. */
  async createImageLayers(): Promise<void> {
    await this.#awaitAncestorWal()
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
    const { open } = this.#store
    const { idleBytes } = this.#context.limits
    const isIdle = this.#lastRecordLsn - this.#lastTickLsn < IDLE_WAL_BYTES
    this.#lastTickLsn = this.#lastRecordLsn
    if (isIdle && open.sizeBytes >= idleBytes) this.#roll()
    else if (isIdle && this.#replayBytes >= idleBytes) this.#makeImages()
    if (open.versionCount === 0) this.#openSinceMs = 0
    else if (this.#openSinceMs === 0) this.#openSinceMs = nowMs
    else if (nowMs - this.#openSinceMs >= this.#context.limits.rollAgeMs) this.#roll()
    this.#store.startFlush()
    void this.#store.confirm()
  }

  /** Those layers that are in object storage. */
  publishedLayers(): Layer[] {
    return this.#store.published()
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
    this.#roll()
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
    await this.#awaitAncestorWal()
  }

  /**
   * An import: the new timeline begins with image layers that lie in its folder, all as of `lsn`,
   * and takes in WAL from there. It is in no manifest, and nobody may read it, before `endDraft`.
   */
  beginDraft(images: readonly LayerEntry[], lsn: Lsn): void {
    this.#store.beginDraft(images, lsn)
    this.#lastRecordLsn = lsn
    this.#lastPutLsn = lsn
  }

  /** True while an import is not whole. */
  get isDraft(): boolean {
    return this.#store.isDraft
  }

  /** The history is whole and consistent from `startLsn` on: makes it durable. */
  async endDraft(startLsn: Lsn): Promise<void> {
    assert(this.#lastRecordLsn >= startLsn, 'the WAL that makes it consistent is taken in')
    this.#store.endDraft({ ...this.#store.facts, startLsn, walStartLsn: this.#lastRecordLsn })
    await this.flush()
  }

  /** Where WAL of its own begins, in safekeepers: later than startLsn for what was imported. */
  get walStartLsn(): Lsn {
    return walStartOf(this.#store.facts)
  }

  /** WAL of its own begins at its present end: nobody is followed any more. */
  async beginOwnWal(): Promise<void> {
    await this.flush()
    const walStartLsn = this.#lastRecordLsn
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
    this.#waiters.close(
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
    return Math.min(lsn, this.#lastRecordLsn)
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

  /** Follows the facts, so that it changes in the same step as the layer map. */
  #lineageNow(): Lineage | null {
    const { facts } = this.#store
    if (facts === this.#lineageFacts) return this.#lineage
    const { ancestorTimelineId, ancestorLsn: lsn } = facts
    if (ancestorTimelineId === null || lsn === null) this.#lineage = null
    else {
      const timeline = this.#timelineOf(ancestorTimelineId)
      this.#lineage = { ancestor: { timeline, lsn }, parent: { source: timeline.#source, lsn } }
    }
    this.#lineageFacts = facts
    return this.#lineage
  }

  /** A collection that passes the LSN meanwhile waits for the end of this before it removes. */
  async #versions(keys: readonly KeyRef[], lsn: Lsn): Promise<Version[][]> {
    const read = this.retention.reads.enter()
    try {
      if (!this.#hasAncestorWal()) await this.#awaitAncestorWal()
      return await readVersions(this.#source, keys, lsn + 1)
    } finally {
      read.leave()
    }
  }

  /** True when every ancestor has its history up to where we branch off. */
  #hasAncestorWal(): boolean {
    const { ancestor } = this
    if (this.#ancestorComplete || ancestor === null) return true
    const { timeline, lsn } = ancestor
    this.#ancestorComplete = timeline.lastRecordLsn >= lsn && timeline.#hasAncestorWal()
    return this.#ancestorComplete
  }

  async #awaitAncestorWal(): Promise<void> {
    const { ancestor } = this
    if (ancestor === null) return
    const { timeline, lsn } = ancestor
    await timeline.waitForLsn(lsn, ANCESTOR_WAIT_MS)
    await timeline.#awaitAncestorWal()
  }

  #reconstruct(slot: number, blk: number, chain: Version[]): Buffer | null | Promise<Buffer> {
    return reconstructPage(this.#source.slots.key(slot, blk), chain, this.#context.appliers)
  }

  async #buildPages(keys: KeyRef[], lsn: Lsn): Promise<(Buffer | null)[]> {
    const chains = await this.#versions(keys, lsn)
    return await Promise.all(
      keys.map(async ({ slot, blk }, index) => {
        if (!isPageClass(this.#source.slots.cls(slot))) return null
        return await this.#reconstruct(slot, blk, chains[index] as Version[])
      }),
    )
  }

  /** Keeps a page that was dear to build, so that the next read of it is cheap. */
  #keep(slot: number, blk: number, lsn: Lsn, steps: number, page: Buffer): void {
    if (steps <= KEEP_AFTER_RECORDS) return
    const { open } = this.#store
    const limit = this.#context.limits.rollSizeBytes * KEPT_SHARE
    if (lsn < open.startLsn || open.ownImageBytes >= limit) return
    open.putOwnImage(slot, blk, lsn, page)
  }

  #blobOf(slot: number, blk: number, versions: Version[]): Buffer | null {
    const newest = versions[0]
    if (newest === undefined || newest.kind === ValueKind.Tombstone) return null
    if (newest.kind === ValueKind.Image) return newest.value
    throw new ZenithError(
      'corrupt',
      `key ${formatKey(this.#source.slots.key(slot, blk))} of a blob class holds a record`,
    )
  }

  async #loadRelSizes(): Promise<void> {
    await this.#awaitAncestorWal()
    const lsn = this.#lastRecordLsn
    if (lsn === 0) return this.#relSizes.finishLoad(0)
    if (await this.#inheritRelSizes(lsn)) return
    for (const entry of await this.scanBlobs(KeyClass.RelSize, lsn)) {
      const slot = this.slot(KeyClass.RelSize, entry.spc, entry.db, entry.rel, entry.fork)
      this.#relSizes.load(slot, entry.value.readUInt32LE(0), lsn)
    }
    this.#relSizes.finishLoad(lsn)
  }

  /** A fresh branch takes its ancestor's sizes, and reads only those that changed since. */
  async #inheritRelSizes(lsn: Lsn): Promise<boolean> {
    const { ancestor } = this
    if (ancestor === null || ancestor.lsn !== lsn) return false
    const sizes = ancestor.timeline.#relSizes
    if (!sizes.isLoaded || sizes.loadedLsn > lsn) return false
    const changed: KeyRef[] = []
    for (const [slot, { blocks, sinceLsn }] of sizes.entries()) {
      if (sinceLsn > lsn) changed.push({ slot, blk: 0 })
      else this.#relSizes.load(slot, blocks, lsn)
    }
    const chains = await readVersions(this.#source, changed, lsn + 1)
    for (const [index, { slot, blk }] of changed.entries()) {
      const value = this.#blobOf(slot, blk, chains[index] as Version[])
      this.#relSizes.load(slot, value === null ? -1 : value.readUInt32LE(0), lsn)
    }
    this.#relSizes.finishLoad(lsn)
    return true
  }

  #freeze(): void {
    this.#openSinceMs = 0
    this.#store.freeze(this.#lastRecordLsn, this.#lastRecordStartLsn)
  }

  #roll(): void {
    this.#freeze()
    this.#store.startFlush()
  }

  /**
   * Stored bytes of deltas that reads of the tip replay from. An import at one LSN holds pages, not
   * records, and counts nothing.
   */
  get #replayBytes(): number {
    return this.#store.layers.deltasAboveImages
      .filter(({ id }) => id.endLsn > id.startLsn + 1)
      .reduce((sum, layer) => sum + layer.sizeBytes, 0)
  }

  #makeImages(): void {
    if (this.#closed || this.compaction.lock.isHeld || !this.#store.mayWrite) return
    if (this.#store.isDraft) return
    this.compaction.makeImages().catch((error: unknown) => this.#warn(error, 'image creation'))
  }

  #warn(error: unknown, what: string): void {
    this.#context.log.error(
      { tenantId: this.tenantId, timelineId: this.timelineId, error: errorMessage(error) },
      `${what} failed and will be tried again`,
    )
  }
}
