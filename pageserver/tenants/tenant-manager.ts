/** The tenants attached to this page server, and what their timelines share. */
import { join } from 'node:path'
import type { AttachMode } from '#libs/api/attach-mode.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { type CompactionTarget, Compactor } from '../compaction/compactor.ts'
import type { CompactionRunner } from '../compaction/job.ts'
import { LocalRunner } from '../compaction/runner.ts'
import { LayerMemory } from '../layers/layer-memory.ts'
import { type DeltaFiles, LOCAL_DELTA_FILES } from '../timeline/delta-writer.ts'
import { Residency } from '../layers/residency.ts'
import { ReadStats } from '../read/read-stats.ts'
import { ChunkCache } from '../layers/chunk-cache.ts'
import type { ApplyNativeOp, PageRedo } from '../read/reconstruct.ts'
import {
  DEFAULT_LIMITS,
  type StorageContext,
  type StorageLimits,
  type StorageStep,
} from '../timeline/storage-context.ts'
import { type Deletions, NO_DELETIONS } from '../remote/deletions.ts'
import type { AccessTimes } from '../remote/access-times.ts'
import {
  DEFAULT_DISK,
  DiskKeeper,
  type DiskSettings,
  type DiskStats,
  type KeptTimeline,
} from '../remote/disk-keeper.ts'
import { Downloads, type DownloadStats } from '../remote/downloads.ts'
import { type Generations, ONLY_ONE } from '../remote/generations.ts'
import { UploadQueue, type UploadStats } from '../remote/upload-queue.ts'
import type { HistorySettings } from '../gc/settings.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { type SplitParent, takeOverFrom } from './split.ts'
import { type BootstrapOptions, type BranchOptions, Tenant } from './tenant.ts'

const TICK_MS = 10_000

export interface TenantManagerOptions {
  /** Data folder of the page server; layers lie below `tenants/` in it. */
  dataDir: string
  objectStore: ObjectStore
  redo: PageRedo
  applyNativeOp: ApplyNativeOp
  deletions?: Deletions
  /** Runs compaction jobs; in this thread unless given. */
  compaction?: CompactionRunner
  /** Where memory of open layers comes from. */
  layerMemory?: LayerMemory
  /** Writes frozen layers; in this thread unless given. */
  deltaFiles?: DeltaFiles
  generations?: Generations
  /** When layers were last used, kept over restarts. */
  accesses?: AccessTimes
  disk?: Partial<DiskSettings>
  log: Logger
  limits?: Partial<StorageLimits>
  /** Tests stop here to act out a crash. */
  onStep?: (step: StorageStep) => void
}

export class TenantManager {
  readonly #context: StorageContext
  readonly #tenants = new Map<TenantId, Tenant>()
  readonly #attaching = new Map<TenantId, Promise<Tenant>>()
  readonly #compactor: Compactor
  readonly #timer: NodeJS.Timeout

  constructor(options: TenantManagerOptions) {
    const limits = { ...DEFAULT_LIMITS, ...options.limits }
    const { redo, applyNativeOp } = options
    const appliers = { redo, applyNativeOp }
    const runner = options.compaction ?? new LocalRunner(options.objectStore, appliers)
    this.#compactor = new Compactor(runner, () => this.#compactionTargets(), options.log)
    const disk = new DiskKeeper({
      folder: options.dataDir,
      settings: { ...DEFAULT_DISK, ...options.disk },
      timelines: () => this.#keptTimelines(),
      accesses: options.accesses ?? null,
      log: options.log,
    })
    this.#context = {
      compactor: this.#compactor,
      folder: join(options.dataDir),
      store: options.objectStore,
      cache: new ChunkCache(limits.chunkCacheBytes),
      residency: new Residency(limits.indexBytes, limits.openFiles),
      readStats: new ReadStats(),
      deletions: options.deletions ?? NO_DELETIONS,
      appliers,
      layerMemory: options.layerMemory ?? new LayerMemory(),
      deltaFiles: options.deltaFiles ?? LOCAL_DELTA_FILES,
      generations: options.generations ?? ONLY_ONE,
      downloads: new Downloads({ log: options.log, disk }),
      disk,
      accesses: options.accesses ?? null,
      uploads: new UploadQueue({
        store: options.objectStore,
        log: options.log,
        maxPendingBytes: limits.maxPendingUploadBytes,
      }),
      log: options.log,
      limits,
      ...(options.onStep ? { onStep: options.onStep } : {}),
    }
    this.#timer = setInterval(() => this.tick(Date.now()), TICK_MS)
    this.#timer.unref()
  }

  /**
   * Loads the tenant's timelines under a generation. The same generation again is the same tenant;
   * a higher one closes what was attached and loads anew; a lower one is `fenced`. Without `history`
   * what was attached keeps its own, and what was not gets the default. The first time that a shard
   * is attached, `stripeBlocks` must be given (`invalid_argument`). What is loaded begins in `mode`.
   * A shard that begins as a part of `splitFrom` takes over its timelines first.
   */
  async attach(
    tenantId: TenantId,
    generation: number,
    history?: HistorySettings,
    stripeBlocks?: number,
    mode: AttachMode = 'attached',
    splitFrom: SplitParent | null = null,
  ): Promise<Tenant> {
    const running = this.#attaching.get(tenantId)
    if (running) await running.catch(() => undefined)
    const attached = this.#tenants.get(tenantId)
    if (attached && attached.generation === generation) {
      attached.history = history ?? attached.history
      return attached
    }
    if (attached && attached.generation > generation) {
      throw new ZenithError(
        'fenced',
        `tenant ${tenantId} is attached with generation ${attached.generation}, above ${generation}`,
      )
    }
    const how = {
      mode,
      splitFrom,
      ...(history ? { history } : {}),
      ...(stripeBlocks ? { stripeBlocks } : {}),
    }
    const attaching = this.#attach(tenantId, generation, how).finally(() => {
      this.#attaching.delete(tenantId)
    })
    this.#attaching.set(tenantId, attaching)
    return await attaching
  }

  /** What goes to and comes from object storage, and what of it is on local disk. */
  get remoteStats(): { uploads: UploadStats; downloads: DownloadStats; disk: DiskStats } {
    const { uploads, downloads, disk } = this.#context
    return { uploads: uploads.stats, downloads: downloads.stats, disk: disk.stats }
  }

  /** Makes room on local disk when there is too little. Done at each tick, too. */
  keepDisk(): Promise<void> {
    return this.#context.disk.run()
  }

  get objectStore(): ObjectStore {
    return this.#context.store
  }

  /** Throws `not_found`. */
  tenant(tenantId: TenantId): Tenant {
    const tenant = this.#tenants.get(tenantId)
    if (tenant) return tenant
    throw new ZenithError('not_found', `tenant ${tenantId} is not attached to this page server`)
  }

  tenants(): Tenant[] {
    return [...this.#tenants.values()]
  }

  /** Null when it is not attached. */
  find(tenantId: TenantId): Tenant | null {
    return this.#tenants.get(tenantId) ?? null
  }

  /**
   * Lets the tenant go: new readers are turned away, then all is closed. Its local files stay.
   * What has not been flushed is read again from WAL, by whoever has the tenant now.
   */
  async detach(tenantId: TenantId): Promise<void> {
    await this.#attaching.get(tenantId)?.catch(() => undefined)
    const tenant = this.#tenants.get(tenantId)
    if (!tenant) return
    this.#tenants.delete(tenantId)
    await tenant.close({ flush: false })
    // Its files are another's to judge from now on, if they stay at all.
    this.#context.accesses?.forgetAll(tenantId)
  }

  createTimeline(
    tenantId: TenantId,
    timelineId: TimelineId,
    options: BootstrapOptions,
    fill: (timeline: Timeline) => Promise<unknown>,
  ): Promise<Timeline> {
    return this.tenant(tenantId).createTimeline(timelineId, options, fill)
  }

  branchTimeline(
    tenantId: TenantId,
    timelineId: TimelineId,
    options: BranchOptions,
  ): Promise<Timeline> {
    return this.tenant(tenantId).branchTimeline(timelineId, options)
  }

  /** Freezes what is old, retries what failed, and frees memory. The timer calls it. */
  tick(nowMs: number): void {
    void this.keepDisk()
    this.#compactor.wake()
    for (const tenant of this.#tenants.values()) tenant.tick(nowMs)
    const timelines = this.tenants().flatMap((tenant) => tenant.timelines())
    let totalBytes = timelines.reduce((sum, timeline) => sum + timeline.memoryBytes, 0)
    const largestFirst = timelines.toSorted((a, b) => b.memoryBytes - a.memoryBytes)
    for (const timeline of largestFirst) {
      if (totalBytes <= this.#context.limits.openBytes) break
      totalBytes -= timeline.memoryBytes
      timeline.relieve()
    }
  }

  get readStats(): ReadStats {
    return this.#context.readStats
  }

  get residency(): Residency {
    return this.#context.residency
  }

  get compactor(): Compactor {
    return this.#compactor
  }

  /** Flushes everything and closes. What cannot be flushed is read again from WAL. */
  async shutdown(): Promise<void> {
    clearInterval(this.#timer)
    await this.#compactor.close()
    await Promise.allSettled(this.#attaching.values())
    for (const tenant of this.#tenants.values()) {
      try {
        await tenant.close({ flush: true })
      } catch (error) {
        this.#context.log.error(
          { tenantId: tenant.tenantId, error: errorMessage(error) },
          'the last flush failed; its WAL will be read again',
        )
      }
    }
    this.#tenants.clear()
  }

  /** Lets go without flushing, as a crash would; for tests. */
  async abandon(): Promise<void> {
    clearInterval(this.#timer)
    await this.#compactor.close()
    for (const tenant of this.#tenants.values()) await tenant.close({ flush: false })
    this.#tenants.clear()
  }

  *#compactionTargets(): Generator<CompactionTarget> {
    for (const tenant of this.#tenants.values()) {
      for (const timeline of tenant.timelines()) yield timeline.compaction
    }
  }

  *#keptTimelines(): Generator<KeptTimeline> {
    for (const tenant of this.tenants()) {
      for (const timeline of tenant.timelines()) {
        yield {
          tenantId: tenant.tenantId,
          timelineId: timeline.timelineId,
          layers: timeline.layers,
          retainedPoints: timeline.retainedPoints(),
        }
      }
    }
  }

  async #attach(
    tenantId: TenantId,
    generation: number,
    how: {
      mode: AttachMode
      splitFrom: SplitParent | null
      history?: HistorySettings
      stripeBlocks?: number
    },
  ): Promise<Tenant> {
    const old = this.#tenants.get(tenantId)
    if (old) {
      this.#tenants.delete(tenantId)
      await old.close({ flush: true })
    }
    const tenant = new Tenant(
      tenantId,
      generation,
      this.#context,
      how.history ?? old?.history,
      how.stripeBlocks ?? old?.shard?.identity.stripeBlocks,
    )
    await tenant.become(how.mode)
    if (how.splitFrom) await takeOverFrom(how.splitFrom, tenantId, generation, this.#context)
    await tenant.load()
    this.#tenants.set(tenantId, tenant)
    this.#compactor.wake()
    return tenant
  }
}
