/**
 * Where a timeline's versions live: open layer, frozen layers, layer files, and the road from one
 * to the next.
 *
 * Order of a flush: freeze; write the delta under a temporary name, sync, rename, sync the folder;
 * enter it into the map and drop the frozen layer in one step (disk_consistent moves); upload it;
 * write the manifest (durable moves); ask whether our generation is the newest (remote_consistent
 * moves). Frozen layers go in LSN order, so what is flushed is always everything below one LSN. A
 * crash anywhere leaves the last manifest as it was, with all its objects; WAL above it is read
 * again.
 *
 * Writing files and publishing them go on side by side: object storage that fails holds up neither
 * reads nor the taking in of WAL, until too much is on local disk only.
 */
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import { FlushDelay, flushDelayMs } from '../compaction/flush-delay.ts'
import type { ShardFilter } from '../ingest/shard-filter.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import { Layer, type LayerContext, type LayerEntry } from '../layers/layer.ts'
import type { LayerOwner } from '../layers/layer-format.ts'
import { LayerMap } from '../layers/layer-map.ts'
import { LayerKind } from '../layers/layer-name.ts'
import type { OpenLayer } from '../layers/open-layer.ts'
import { Confirmation } from '../remote/confirmation.ts'
import type { Manifest, TimelineFacts, TimelineState } from '../remote/manifest.ts'
import { ManifestStore } from '../remote/manifest-store.ts'
import { manifestFolder, layerFolder, localFolder } from '../remote/paths.ts'
import type { Attachment } from '../tenants/attachment.ts'
import { writeDelta } from './delta-writer.ts'
import { FlushWaiters } from './flush-waiters.ts'
import { LayerPublisher, type TimelineHead } from './layer-publisher.ts'
import { type FrozenLayer, MemoryLayers } from './memory-layers.ts'
import type { StorageContext } from './storage-context.ts'

/** Between attempts to write while the disk is full. */
const DISK_FULL_REST_MS = 1000
/** How long after a branch was made it is asked whether that counts. */
const CONFIRM_EMPTY_MS = 200

export interface LayerStoreOptions {
  tenantId: TenantId
  timelineId: TimelineId
  generation: number
  facts: TimelineFacts
  slots: SlotTable
  context: StorageContext
  /** Null for a timeline that has none yet. */
  manifest: Manifest | null
  manifests: ManifestStore
  /** Which keys are here; null = all. */
  shard: ShardFilter | null
  /** What may be written to object storage at present. */
  attachment: Attachment
  /** Takes names of objects that this timeline's durable manifest no longer names. */
  releaseObjects: (names: readonly string[]) => void
}

/** One step from a manifest to the next. What is not given stays as it is. */
export interface LayerChange {
  /** Our own layers, which lie in the folder under their names; they are uploaded first. */
  add?: readonly LayerEntry[]
  /** Layers of other timelines, in object storage already. */
  adopt?: readonly LayerEntry[]
  remove?: readonly Layer[]
  facts?: TimelineFacts
  state?: TimelineState
  /** Never goes down. */
  gcCutoffLsn?: Lsn
  /** Which LSNs below the cutoff are leased. */
  leasedLsns?: readonly Lsn[]
}

export interface LayerStoreEvents {
  /** After each manifest of a flush. */
  onFlushed: () => void
  /** A flush failed that nobody waits for; it is tried again when the next is due. */
  onFlushFailed: (error: unknown) => void
}

export class LayerStore {
  readonly slots: SlotTable
  readonly folder: string
  readonly generation: number
  readonly owner: LayerOwner
  readonly #context: StorageContext
  readonly #attachment: Attachment
  readonly #releaseObjects: (names: readonly string[]) => void
  /** As the last manifest says it. */
  #head: TimelineHead
  readonly #layerContext: LayerContext
  #memory: MemoryLayers
  readonly #layers: LayerMap
  readonly #retiring = new Set<Layer>()
  #diskConsistentLsn: Lsn
  #prevRecordLsn: Lsn | null
  readonly #confirmation: Confirmation
  readonly #publisher: LayerPublisher
  readonly #closing = new AbortController()
  readonly #delay = new FlushDelay()
  #writing: Promise<void> | null = null
  #publishing: Promise<void> | null = null
  readonly #flushWaiters = new FlushWaiters()
  /** Nothing is in a manifest before the history is whole; see `beginDraft`. */
  #draft = false
  readonly #onFlushed: () => void
  readonly #onFlushFailed: (error: unknown) => void
  #roomWaiters: (() => void)[] = []

  constructor(options: LayerStoreOptions & LayerStoreEvents) {
    const { tenantId, timelineId, generation, context, manifest, facts } = options
    this.#head = {
      facts,
      state: manifest?.state ?? 'active',
      gcCutoffLsn: manifest?.gcCutoffLsn ?? null,
      leasedLsns: manifest?.leasedLsns ?? [],
    }
    this.#releaseObjects = options.releaseObjects
    this.#attachment = options.attachment
    this.slots = options.slots
    this.generation = options.generation
    this.folder = localFolder(context.folder, tenantId, timelineId)
    this.owner = { tenantId, timelineId, pgVersion: facts.pgVersion }
    this.#context = context
    this.#onFlushed = options.onFlushed
    this.#onFlushFailed = options.onFlushFailed
    this.#layerContext = {
      folder: this.folder,
      objectFolder: ({ origin, splitFrom }) =>
        layerFolder(splitFrom ?? tenantId, origin ?? timelineId),
      shard: options.shard,
      store: context.store,
      slots: options.slots,
      cache: context.cache,
      residency: context.residency,
      downloads: context.downloads,
      signal: this.#closing.signal,
    }
    this.#diskConsistentLsn = manifest?.diskConsistentLsn ?? 0
    this.#prevRecordLsn = manifest?.prevRecordLsn ?? null
    this.#confirmation = new Confirmation(this.#diskConsistentLsn, {
      tenantId,
      generation: options.generation,
      generations: context.generations,
      onStale: () => {
        const ids = { tenantId, timelineId, generation }
        context.log.warn(ids, 'a newer generation holds the tenant: WAL is not let go any more')
      },
    })
    this.#memory = new MemoryLayers(
      manifest ? manifest.diskConsistentLsn + 1 : facts.startLsn,
      context.layerMemory,
    )
    this.#layers = LayerMap.ofEntries(this.#layerContext, manifest?.layers ?? [])
    this.#publisher = new LayerPublisher({
      context,
      attachment: options.attachment,
      manifests: options.manifests,
      confirmation: this.#confirmation,
      layers: this.#layers,
      reached: { lsn: this.#diskConsistentLsn, prevRecordLsn: this.#prevRecordLsn },
      signal: this.#closing.signal,
      releaseObjects: options.releaseObjects,
    })
  }

  /** For jobs; empty when the tenant is not sharded. */
  get stripes(): { stripeBlocks?: number } {
    const { shard } = this.#layerContext
    return shard ? { stripeBlocks: shard.identity.stripeBlocks } : {}
  }

  get facts(): TimelineFacts {
    return this.#head.facts
  }

  get state(): TimelineState {
    return this.#head.state
  }

  /** History below may be gone; null = all is there. */
  get gcCutoffLsn(): Lsn | null {
    return this.#head.gcCutoffLsn
  }

  /** LSNs below the cutoff that were leased when it was set. */
  get leasedLsns(): readonly Lsn[] {
    return this.#head.leasedLsns
  }

  get open(): OpenLayer {
    return this.#memory.open
  }

  /** Open layer, then frozen ones, newest first. */
  get memory(): readonly OpenLayer[] {
    return this.#memory.all
  }

  get layers(): LayerMap {
    return this.#layers
  }

  /** Those that have left the map, and may still be read by who began before. */
  get retiring(): Iterable<Layer> {
    return this.#retiring
  }

  get diskConsistentLsn(): Lsn {
    return this.#diskConsistentLsn
  }

  /** In a durable manifest of ours: it stays what it is whoever attaches the tenant next. */
  get durableLsn(): Lsn {
    return this.#confirmation.durableLsn
  }

  /** The durable part that a newer attachment surely knows; WAL below may go. 0 = not known yet. */
  get remoteConsistentLsn(): Lsn {
    return this.#confirmation.confirmedLsn
  }

  /** Why nothing is published any more; null while it is. */
  get fenced(): ZenithError | null {
    return this.#publisher.fenced
  }

  get prevRecordLsn(): Lsn | null {
    return this.#prevRecordLsn
  }

  /** False for a stale holder of the tenant. */
  get mayWrite(): boolean {
    return this.#attachment.mayWrite
  }

  /** Layers whose files are on local disk, of those that are in object storage. */
  residentPublished(): Layer[] {
    return this.#layers.resident().filter((layer) => !this.#publisher.holds(layer))
  }

  /** Resolves when no manifest is being written; called once the tenant may write no more. */
  async stopWriting(): Promise<void> {
    await this.#publisher.idle()
  }

  /** How long flushes have waited for compaction, all together. */
  get flushDelayedMs(): number {
    return this.#delay.waitedMs
  }

  get #accessFolder(): string {
    return `${this.owner.tenantId}/${this.owner.timelineId}`
  }

  get frozenCount(): number {
    return this.#memory.frozenCount
  }

  get isDraft(): boolean {
    return this.#draft
  }

  /**
   * Begins a new timeline with layers that lie in the folder, all of them as of `lsn`. What comes
   * above is flushed and uploaded as always, but no manifest is written before `endDraft`: a crash
   * leaves no timeline.
   */
  beginDraft(entries: readonly LayerEntry[], lsn: Lsn): void {
    assert(this.#layers.count === 0 && this.durableLsn === 0, 'it is new')
    this.#draft = true
    const layers = entries.map((entry) => new Layer(entry, this.#layerContext))
    this.#layers.change(layers, [])
    this.#publisher.hold(layers)
    this.#memory = new MemoryLayers(lsn + 1, this.#context.layerMemory)
    this.#diskConsistentLsn = lsn
  }

  /** From the next flush on there is a manifest, with these facts. */
  endDraft(facts: TimelineFacts): void {
    assert(this.#draft, 'a draft ends once')
    this.#draft = false
    this.#head = { ...this.#head, facts }
  }

  /** Makes the local folder, and removes files that the manifest does not name. */
  async tidyFolder(): Promise<void> {
    await mkdir(this.folder, { recursive: true })
    const unknown = this.#layers.noteFiles(await readdir(this.folder))
    this.#context.accesses?.load(this.#accessFolder, this.#layers)
    for (const name of unknown) await rm(join(this.folder, name), { force: true })
  }

  /** Starts a new open layer; what lies above `lastRecordLsn` moves to it. */
  freeze(lastRecordLsn: Lsn, prevRecordLsn: Lsn | null): void {
    this.#memory.freeze(lastRecordLsn, prevRecordLsn)
  }

  /** As `freeze`, but what lies above `lastRecordLsn` is forgotten. */
  dropUnpublished(lastRecordLsn: Lsn, prevRecordLsn: Lsn | null): void {
    this.#memory.dropUnpublished(lastRecordLsn, prevRecordLsn)
  }

  /**
   * Resolves when a durable manifest covers the LSN, which must be frozen, and the control plane was
   * asked whether that counts; rejects when the flush that is to bring it there fails.
   */
  flushTo(lsn: Lsn): Promise<void> {
    if (lsn <= this.durableLsn) return this.confirm()
    if (!this.#attachment.mayWrite) return this.#flushLocally()
    const reached = this.#flushWaiters.wait(lsn)
    this.#delay.cut()
    this.startFlush()
    return reached
  }

  /** Writes and publishes, in the background, everything that is frozen now or while it runs. */
  startFlush(): void {
    if (this.#closing.signal.aborted) return this.#failWaiters(closed())
    if (this.#memory.oldestFrozen) {
      this.#writing ??= this.#background(
        () => this.#writeAll(),
        () => {
          this.#writing = null
        },
      )
    }
    this.#startPublishing()
  }

  #startPublishing(): void {
    if (!this.#needsPublishing || this.#publishing) return
    if (!this.#attachment.mayWrite && this.#flushWaiters.isEmpty) return
    // Nobody is told again and again of what does not change.
    if (this.fenced && this.#flushWaiters.isEmpty) return
    this.#publishing = this.#background(
      () => this.#publishAll(),
      () => {
        this.#publishing = null
      },
    )
  }

  #background(work: () => Promise<void>, ended: () => void): Promise<void> {
    let failed = false
    return work()
      .catch((error: unknown) => {
        failed = true
        this.#failWaiters(error)
      })
      .finally(() => {
        ended()
        // What came between the end of the work and here would otherwise be left behind.
        if (!failed || !this.#flushWaiters.isEmpty) this.startFlush()
      })
  }

  /** As a stale holder does: frees memory, and brings nothing to object storage. */
  async #flushLocally(): Promise<void> {
    this.startFlush()
    await this.#writing
    this.#attachment.checkMayWrite()
  }

  #failWaiters(error: unknown): void {
    const isMeant = this.#closing.signal.aborted || !this.#attachment.mayWrite
    if (!this.#flushWaiters.fail(error) && !isMeant) this.#onFlushFailed(error)
  }

  /** Asks whether what is durable counts for everybody; never rejects. */
  async confirm(): Promise<void> {
    await this.#confirmation.run()
    this.#flushWaiters.reached(this.durableLsn)
  }

  /** Resolves when no flush runs. */
  async idle(): Promise<void> {
    while (this.#writing || this.#publishing) {
      await this.#writing
      await this.#publishing
    }
  }

  /** False while ingest should wait: too much is unwritten, or on local disk only. */
  get hasRoom(): boolean {
    const { limits, uploads } = this.#context
    return this.frozenCount <= limits.maxFrozen && !uploads.isFull
  }

  /** Resolves when there is room, or the timeline closes. */
  async waitForRoom(): Promise<void> {
    const { signal } = this.#closing
    while (!this.hasRoom && !signal.aborted) {
      if (this.#context.uploads.isFull) await this.#context.uploads.waitForRoom(signal)
      else await new Promise<void>((resolve) => this.#roomWaiters.push(resolve))
    }
  }

  /**
   * Makes a change durable, then visible: uploads what is new, writes the manifest, swaps the map.
   * Only then are the layers that left it taken from disk and their objects released, so that a
   * crash anywhere leaves either the old state or the new one, and at most objects too many.
   *
   * Images' LSNs must be durable: a delta written again after a restart would otherwise straddle
   * them.
   */
  async change(change: LayerChange): Promise<void> {
    const { add = [], adopt = [], remove = [] } = change
    this.#attachment.checkMayWrite()
    for (const { id } of add) {
      assert(
        id.kind === LayerKind.Delta || id.startLsn <= this.durableLsn,
        'images are made of durable history only',
      )
    }
    // The manifest would otherwise cover less than the layers that stand for them.
    await this.#published(remove)
    const uploaded = add.map((entry) => new Layer(entry, this.#layerContext))
    await this.#publisher.upload(uploaded)
    this.#context.onStep?.('layers-uploaded')
    const added = [...uploaded, ...adopt.map((entry) => new Layer(entry, this.#layerContext))]
    await this.#publisher.write(
      () => ({ head: this.#headWith(change), added, removed: remove }),
      () => {
        this.#layers.change(added, remove)
        for (const layer of remove) this.#retiring.add(layer)
        // Of the head as it is now: a draft may have ended meanwhile.
        this.#head = this.#headWith(change)
      },
    )
    this.#context.onStep?.('change-written')
    void this.confirm()
    for (const layer of remove) {
      await layer.retire()
      this.#retiring.delete(layer)
    }
    this.#releaseObjects(remove.map((layer) => layer.objectName))
  }

  #headWith({ facts, state, gcCutoffLsn, leasedLsns }: LayerChange): TimelineHead {
    const now = this.#head
    const given = gcCutoffLsn ?? Number.MAX_SAFE_INTEGER
    assert(given >= (now.gcCutoffLsn ?? 0), 'the cutoff never goes down')
    return {
      facts: facts ?? now.facts,
      state: state ?? now.state,
      gcCutoffLsn: gcCutoffLsn ?? now.gcCutoffLsn,
      leasedLsns: leasedLsns ?? now.leasedLsns,
    }
  }

  /** Ends what runs. What is not published then is read again from WAL. */
  async close(): Promise<void> {
    this.#closing.abort()
    this.#delay.cut()
    for (const resolve of this.#roomWaiters.splice(0)) resolve()
    await this.idle()
    await this.#publisher.idle()
    this.#publisher.close()
    this.#layers.close()
    for (const layer of this.#layers.inUse()) await layer.close()
  }

  /** Writes the first manifest of a timeline that has no layers. */
  async createEmpty(): Promise<void> {
    await this.#publisher.write(() => ({ head: this.#head }))
    // The branch is there, whether WAL below may be forgotten or not; whoever asked for it still
    // waits for the control plane, which is to say so.
    setTimeout(() => {
      if (!this.#closing.signal.aborted) void this.confirm()
    }, CONFIRM_EMPTY_MS).unref()
  }

  async #writeAll(): Promise<void> {
    for (;;) {
      const frozen = this.#memory.oldestFrozen
      if (!frozen || this.#closing.signal.aborted) return
      await this.#delayFlush()
      try {
        await this.#writeFrozen(frozen)
      } catch (error) {
        if (!isDiskFull(error)) throw error
        await this.#relieveDisk(error)
      }
      this.#startPublishing()
    }
  }

  /** Nobody who waits for a flush is kept waiting. */
  async #delayFlush(): Promise<void> {
    const delayMs = flushDelayMs(this.#layers.l0.length, this.#context.limits)
    if (delayMs > 0 && this.#flushWaiters.isEmpty && !this.#closing.signal.aborted) {
      await this.#delay.wait(delayMs)
    }
  }

  /** What can be read from object storage makes way for what is nowhere else. */
  async #relieveDisk(error: unknown): Promise<void> {
    const { tenantId, timelineId } = this.owner
    const { disk, limits, log } = this.#context
    log.warn({ tenantId, timelineId }, `the disk is full: ${errorMessage(error)}`)
    await disk.relieve(2 * limits.rollSizeBytes)
    await sleep(DISK_FULL_REST_MS, undefined, { signal: this.#closing.signal }).catch(() => {})
  }

  async #writeFrozen(frozen: FrozenLayer): Promise<void> {
    const context = this.#context
    const entry = await writeDelta(frozen.memory, frozen.endLsn, {
      folder: this.folder,
      owner: this.owner,
      generation: this.generation,
      slots: this.slots,
      files: context.deltaFiles,
      onWritten: () => context.onStep?.('delta-written'),
    })
    if (entry) {
      context.onStep?.('delta-renamed')
      const layer = new Layer(entry, this.#layerContext)
      await layer.load()
      this.#layers.change([layer], [])
      this.#publisher.hold([layer])
    }
    this.#memory.dropWritten(frozen)
    this.#diskConsistentLsn = frozen.endLsn - 1
    this.#prevRecordLsn = frozen.prevRecordLsn
    for (const resolve of this.#roomWaiters.splice(0)) resolve()
  }

  get #needsPublishing(): boolean {
    if (this.#publisher.isBehind) return true
    return !this.#draft && this.#diskConsistentLsn > this.durableLsn
  }

  async #publishAll(): Promise<void> {
    while (this.#needsPublishing) {
      if (this.fenced) throw this.fenced
      // Who waits for object storage is told that nothing goes there.
      this.#attachment.checkMayWrite()
      await this.#publisher.uploadHeld({
        lsn: this.#diskConsistentLsn,
        prevRecordLsn: this.#prevRecordLsn,
      })
      if (this.#draft) continue
      await this.#publisher.write(() => ({ head: this.#head }))
      this.#context.onStep?.('manifest-written')
      void this.confirm()
      this.#onFlushed()
    }
  }

  /** Resolves when the layers are in storage and named in a manifest. */
  async #published(layers: readonly Layer[]): Promise<void> {
    const isWaiting = () => layers.some((layer) => this.#publisher.holds(layer))
    if (!isWaiting()) return
    this.#startPublishing()
    await this.#publishing
    if (!isWaiting()) return
    throw (
      this.fenced ??
      new ZenithError('unavailable', 'layers to be replaced could not be published first')
    )
  }
}

/** Loads nothing: the store for reading a timeline's manifest before the timeline exists here. */
export function manifestStoreOf(
  context: StorageContext,
  tenantId: TenantId,
  timelineId: TimelineId,
  generation: number,
): ManifestStore {
  const folder = manifestFolder(tenantId, timelineId)
  return new ManifestStore(context.store, folder, generation, (name, bytes, signal) =>
    context.uploads.put(name, bytes, signal),
  )
}

function isDiskFull(error: unknown): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === 'ENOSPC'
}

function closed(): ZenithError {
  return new ZenithError('unavailable', 'the timeline is shutting down')
}
