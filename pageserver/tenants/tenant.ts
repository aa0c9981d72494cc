/**
 * The timelines of one tenant that this page server holds, under one generation.
 *
 * What exists is what has a manifest in object storage. A timeline becomes visible here only after
 * its first manifest is durable, so nobody ever sees half of a bootstrap or branch.
 */
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { AttachMode } from '#libs/api/attach-mode.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { Lock } from '#libs/lock.ts'
import type { Collected } from '../gc/collector.ts'
import type { HistorySettings } from '../gc/settings.ts'
import { shardIdentity } from '#libs/sharding.ts'
import { ShardFilter } from '../ingest/shard-filter.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import type { LayerOwner } from '../layers/layer-format.ts'
import { parseLayerName } from '../layers/layer-name.ts'
import type { Manifest, TimelineFacts } from '../remote/manifest.ts'
import type { ManifestStore } from '../remote/manifest-store.ts'
import { layerFolder, localFolder, timelinesFolder } from '../remote/paths.ts'
import { manifestStoreOf } from '../timeline/layer-store.ts'
import type { StorageContext } from '../timeline/storage-context.ts'
import { Timeline } from '../timeline/timeline.ts'
import { Attachment } from './attachment.ts'
import type { FoundTimeline } from './found-timeline.ts'
import { TimelineLives } from './timeline-lives.ts'

/** Timelines whose manifests are read at once. */
const LOADS_AT_ONCE = 16
/** How long a branch waits for its ancestor's WAL, unless the caller says otherwise. */
const BRANCH_WAIT_MS = 60_000

export interface BootstrapOptions {
  /** Where the imported cluster stands; all its pages are put at this LSN. */
  startLsn: Lsn
  systemId: string
  pgVersion: number
}

/** Where and how the first layers of an import are written. */
export interface DraftPlace {
  folder: string
  owner: LayerOwner
  generation: number
  layerBytes: number
  slots: SlotTable
  /** Which keys belong here; null = all of them. */
  shard: ShardFilter | null
}

export interface BranchOptions {
  ancestorTimelineId: TimelineId
  ancestorLsn: Lsn
  timeoutMs?: number
}

export class Tenant {
  readonly tenantId: TenantId
  readonly generation: number
  readonly attachment: Attachment
  /** How much history is kept; null until the control plane has said, and nothing is removed. */
  history: HistorySettings | null
  /** Since when it is ours alone: until then others gave leases, too. Monotonic milliseconds. */
  #attachedAtMs = performance.now()
  /** Garbage collection, branch creation and detach exclude each other; holds are short. */
  readonly gcLock = new Lock()
  readonly #context: StorageContext
  readonly #slots = new SlotTable()
  /** Which keys of the tenant are here; null = all of them. */
  readonly shard: ShardFilter | null
  readonly #timelines = new Map<TimelineId, Timeline>()
  /** Timelines in storage that cannot be opened, with the reason. */
  readonly #broken = new Map<TimelineId, ZenithError>()
  readonly #creating = new Map<TimelineId, Promise<Timeline>>()
  /** The whole tenant is to be deleted: no timeline is made any more. */
  #isEnding = false
  /** How timelines are archived, detached and deleted, and those that are not open. */
  readonly lives: TimelineLives

  constructor(
    tenantId: TenantId,
    generation: number,
    context: StorageContext,
    history: HistorySettings | null = null,
    stripeBlocks?: number,
  ) {
    this.tenantId = tenantId
    const shard = shardIdentity(tenantId, stripeBlocks)
    this.shard = shard && new ShardFilter(shard, this.#slots)
    this.generation = generation
    this.history = history
    this.#context = context
    this.attachment = new Attachment(tenantId)
    this.lives = new TimelineLives({
      tenantId,
      generation,
      context,
      attachment: this.attachment,
      lock: this.gcLock,
      timelines: this.#timelines,
      broken: this.#broken,
      creating: this.#creating,
      load: (timelineId) => this.#loadManifest(timelineId),
      open: (found) => this.#open(found),
    })
  }

  /** Garbage collection rests from then on; see garbage-collector.ts. */
  get attachedAtMs(): number {
    return this.#attachedAtMs
  }

  /**
   * Takes another role. One that becomes stale has written nothing to object storage any more when
   * this resolves.
   */
  async become(mode: AttachMode): Promise<void> {
    if (mode === 'attached' && this.attachment.mode !== mode) this.#attachedAtMs = performance.now()
    const free = this.attachment.become(mode)
    if (free.length > 0) this.#context.deletions.push(this.tenantId, this.generation, free)
    const timelines = this.timelines()
    if (mode !== 'stale') {
      for (const timeline of timelines) timeline.resumeWriting()
      return
    }
    await Promise.all(timelines.map((timeline) => timeline.stopWriting()))
    // What was begun before, such as a detach, has ended.
    await this.gcLock.run(async () => undefined)
  }

  /** Opens every timeline that has a manifest; a damaged one is reported and does not stop others. */
  async load(): Promise<void> {
    const { store } = this.#context
    const { folders } = await store.list(timelinesFolder(this.tenantId), { delimited: true })
    const found: FoundTimeline[] = []
    const queue = [...folders]
    const work = async () => {
      for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
        const one = await this.#loadManifest(parseTimelineId(name))
        if (one) found.push(one)
      }
    }
    await Promise.all(Array.from({ length: LOADS_AT_ONCE }, work))
    await this.#openInOrder(this.lives.takeIn(found))
    await this.#tidyLocalFolder()
    this.#context.deletions.adopt(this.tenantId, this.generation, (names) =>
      this.lives.unused(names),
    )
    void this.lives.sweepDeleted()
    await Promise.all(this.timelines().map((timeline) => timeline.confirm()))
  }

  /** Throws `not_found`, or what makes the timeline unusable. */
  timeline(timelineId: TimelineId): Timeline {
    const timeline = this.#timelines.get(timelineId)
    if (timeline) return timeline
    this.lives.checkOpen(timelineId)
    throw (
      this.#broken.get(timelineId) ??
      new ZenithError('not_found', `tenant ${this.tenantId} has no timeline ${timelineId}`)
    )
  }

  timelines(): Timeline[] {
    return [...this.#timelines.values()]
  }

  /** Those in storage that cannot be opened. */
  get brokenTimelines(): TimelineId[] {
    return [...this.#broken.keys()]
  }

  /** Where children leave the timeline. */
  branchPointsOf(timelineId: TimelineId): Lsn[] {
    return this.lives.branchPointsOf(timelineId)
  }

  /**
   * Makes a timeline without ancestor: `fill` puts its pages at `startLsn` and may publish; then
   * all is flushed, and only then the timeline is there. The same id again gives the same timeline.
   */
  createTimeline(
    timelineId: TimelineId,
    options: BootstrapOptions,
    fill: (timeline: Timeline) => Promise<unknown>,
  ): Promise<Timeline> {
    return this.#once(timelineId, async () => {
      const facts = { ...options, ancestorTimelineId: null, ancestorLsn: null }
      const timeline = await this.#newTimeline(timelineId, facts)
      try {
        await fill(timeline)
        if (timeline.lastRecordLsn < options.startLsn) timeline.publish(options.startLsn)
        await timeline.flush()
      } catch (error) {
        await timeline.close({ flush: false })
        throw error
      }
      return timeline
    })
  }

  /**
   * Makes a timeline without ancestor from elsewhere, which may take long: `fill` begins the draft,
   * takes in its WAL and returns the first LSN at which it is consistent. Nothing is left of one
   * that fails; the timeline is there only when it is whole and durable.
   */
  async importTimeline(
    timelineId: TimelineId,
    options: BootstrapOptions,
    fill: (timeline: Timeline, place: DraftPlace) => Promise<Lsn>,
  ): Promise<Timeline> {
    this.#checkNotEnding()
    const facts = { ...options, ancestorTimelineId: null, ancestorLsn: null }
    const timeline = await this.#newTimeline(timelineId, facts)
    const folder = localFolder(this.#context.folder, this.tenantId, timelineId)
    const owner = { tenantId: this.tenantId, timelineId, pgVersion: options.pgVersion }
    const { generation } = this
    const layerBytes = this.#context.limits.imageLayerBytes
    try {
      const startLsn = await fill(timeline, {
        folder,
        owner,
        generation,
        layerBytes,
        slots: this.#slots,
        shard: this.shard,
      })
      await timeline.endDraft(startLsn)
      this.#checkNotEnding()
    } catch (error) {
      await timeline.close({ flush: false })
      await rm(folder, { recursive: true, force: true })
      await this.#removeLeftovers(timelineId).catch(() => undefined)
      throw error
    }
    this.#timelines.set(timelineId, timeline)
    return timeline
  }

  /**
   * Makes a branch: waits until the ancestor has WAL up to the LSN, writes one manifest, copies
   * nothing. The same request again gives the same timeline; another origin is a `conflict`.
   */
  async branchTimeline(timelineId: TimelineId, options: BranchOptions): Promise<Timeline> {
    const { ancestorTimelineId, ancestorLsn } = options
    const branch = await this.#once(timelineId, async () => {
      const ancestor = this.timeline(ancestorTimelineId)
      checkBranchLsn(ancestor, ancestorLsn)
      await ancestor.waitForLsn(ancestorLsn, options.timeoutMs ?? BRANCH_WAIT_MS)
      return await this.gcLock.run(() => this.#branch(timelineId, options))
    })
    const origin = branch.ancestor
    if (origin?.timeline.timelineId !== ancestorTimelineId || origin.lsn !== ancestorLsn) {
      throw new ZenithError(
        'conflict',
        `timeline ${timelineId} exists already and does not branch from ${ancestorTimelineId} at ${formatLsn(ancestorLsn)}`,
      )
    }
    return branch
  }

  /** The ancestor keeps its state at the branch point from the check on until the branch counts. */
  async #branch(timelineId: TimelineId, options: BranchOptions): Promise<Timeline> {
    const { ancestorTimelineId, ancestorLsn } = options
    const ancestor = this.timeline(ancestorTimelineId)
    const release = ancestor.retention.hold(ancestorLsn)
    try {
      const facts: TimelineFacts = {
        ancestorTimelineId,
        ancestorLsn,
        startLsn: ancestorLsn,
        systemId: ancestor.systemId,
        pgVersion: ancestor.pgVersion,
      }
      const atTip = ancestor.lastRecordLsn === ancestorLsn
      const manifest: Manifest = {
        facts,
        diskConsistentLsn: ancestorLsn,
        prevRecordLsn: atTip ? ancestor.lastRecordStartLsn : null,
        state: 'active',
        gcCutoffLsn: null,
        leasedLsns: [],
        layers: [],
      }
      const manifests = this.#manifestsOf(timelineId)
      const timeline = this.#makeTimeline({ timelineId, manifests, manifest, facts })
      // Side by side: nothing of a branch is on local disk yet.
      const opened = timeline.open()
      opened.catch(() => undefined)
      try {
        await timeline.createEmpty()
      } finally {
        await opened
      }
      this.#timelines.set(timelineId, timeline)
      return timeline
    } finally {
      release()
    }
  }

  /**
   * Why nothing may be removed now; null when it may. A timeline that cannot be opened may be a
   * branch of any other, of which nobody knows where it begins.
   */
  get gcObstacle(): string | null {
    const [broken] = this.#broken.keys()
    if (broken !== undefined) return `timeline ${broken} cannot be opened`
    return this.attachment.mode === 'attached' ? null : 'it is being moved'
  }

  /** See gc/collector.ts. Throws `unavailable` while nothing may be removed. */
  async collectGarbage(timelineId: TimelineId, history: HistorySettings): Promise<Collected> {
    const timeline = this.timeline(timelineId)
    return await timeline.collectGarbage(history, (work) =>
      this.gcLock.run(async () => {
        const obstacle =
          this.gcObstacle ??
          (this.#timelines.get(timelineId) === timeline ? null : 'the timeline has been closed')
        if (obstacle === null) return await work()
        throw new ZenithError(
          'unavailable',
          `no garbage of tenant ${this.tenantId} is collected: ${obstacle}`,
        )
      }),
    )
  }

  /**
   * No timeline is made from now on, and none is under way any more when it resolves: the tenant is
   * to be deleted. A restart forgets it; whoever deletes says it again.
   */
  async beginEnd(): Promise<void> {
    this.#isEnding = true
    await Promise.allSettled(this.#creating.values())
  }

  tick(nowMs: number): void {
    for (const timeline of this.#timelines.values()) timeline.tick(nowMs)
    this.lives.tick(nowMs)
  }

  /** Children first, so that no ancestor is closed under a reader. */
  async close(options: { flush: boolean }): Promise<void> {
    await Promise.allSettled(this.#creating.values())
    await this.lives.stop()
    const timelines = this.timelines().toSorted((a, b) => depthOf(b) - depthOf(a))
    const flushed =
      options.flush && this.attachment.mayWrite
        ? await Promise.allSettled(timelines.map((timeline) => this.#lastFlush(timeline)))
        : []
    for (const timeline of timelines) await timeline.close({ flush: false })
    for (const result of flushed) if (result.status === 'rejected') throw result.reason
  }

  /** Object storage that does not answer must not keep the process from ending. */
  async #lastFlush(timeline: Timeline): Promise<void> {
    const { shutdownFlushMs } = this.#context.limits
    const { promise, reject } = Promise.withResolvers<never>()
    const timer = setTimeout(() => {
      const what = `timeline ${timeline.timelineId} could not be flushed`
      reject(new ZenithError('timeout', `${what} within ${shutdownFlushMs / 1000} s`))
    }, shutdownFlushMs)
    await Promise.race([timeline.flush(), promise]).finally(() => clearTimeout(timer))
  }

  /** One creation per id at a time; a second request joins the first. */
  #once(timelineId: TimelineId, create: () => Promise<Timeline>): Promise<Timeline> {
    const existing = this.#timelines.get(timelineId)
    if (existing) return Promise.resolve(existing)
    const broken = this.#broken.get(timelineId)
    if (broken) return Promise.reject(broken)
    const past = this.lives.pastOf(timelineId)
    if (past !== null) {
      const message = `timeline ${timelineId} is ${past} already`
      return Promise.reject(new ZenithError('conflict', message))
    }
    const running = this.#creating.get(timelineId)
    if (running) return running
    const creating = Promise.try(() => {
      this.#checkNotEnding()
      this.attachment.checkMayWrite()
    })
      .then(create)
      .then((timeline) => {
        this.#timelines.set(timelineId, timeline)
        return timeline
      })
      .finally(() => this.#creating.delete(timelineId))
    this.#creating.set(timelineId, creating)
    return creating
  }

  #checkNotEnding(): void {
    if (!this.#isEnding) return
    throw new ZenithError('conflict', `tenant ${this.tenantId} is being deleted`)
  }

  #manifestsOf(timelineId: TimelineId): ManifestStore {
    return manifestStoreOf(this.#context, this.tenantId, timelineId, this.generation)
  }

  async #newTimeline(timelineId: TimelineId, facts: TimelineFacts): Promise<Timeline> {
    await this.#removeLeftovers(timelineId)
    const manifests = this.#manifestsOf(timelineId)
    const timeline = this.#makeTimeline({ timelineId, manifests, manifest: null, facts })
    await timeline.open()
    return timeline
  }

  /**
   * Layers of an attempt of ours that never got a manifest; their names would be in the way of the
   * next attempt. Only our own generation's: others are not ours to delete.
   */
  async #removeLeftovers(timelineId: TimelineId): Promise<void> {
    const { store } = this.#context
    const { objects } = await store.list(layerFolder(this.tenantId, timelineId))
    for (const { name } of objects) {
      const { generation } = parseLayerName(name.slice(name.lastIndexOf('/') + 1))
      if (generation === this.generation) await store.delete(name)
    }
  }

  async #loadManifest(timelineId: TimelineId): Promise<FoundTimeline | null> {
    const manifests = this.#manifestsOf(timelineId)
    try {
      const manifest = await manifests.load()
      return manifest && { timelineId, manifests, manifest }
    } catch (error) {
      this.#markBroken(timelineId, errorMessage(error))
      return null
    }
  }

  /** Ancestors before their branches. */
  async #openInOrder(found: readonly FoundTimeline[]): Promise<void> {
    let waiting = found.toSorted((a, b) => (a.timelineId < b.timelineId ? -1 : 1))
    while (waiting.length > 0) {
      const ready = waiting.filter(({ manifest }) => {
        const { ancestorTimelineId } = manifest.facts
        return ancestorTimelineId === null || this.#timelines.has(ancestorTimelineId)
      })
      if (ready.length === 0) break
      for (const { timelineId, manifests, manifest } of ready) {
        const { facts } = manifest
        const timeline = this.#makeTimeline({ timelineId, manifests, manifest, facts })
        await timeline.open()
        this.#timelines.set(timelineId, timeline)
      }
      waiting = waiting.filter((one) => !ready.includes(one))
    }
    for (const { timelineId, manifest } of waiting) {
      this.#markBroken(timelineId, `its ancestor ${manifest.facts.ancestorTimelineId} is missing`)
    }
  }

  async #open(found: FoundTimeline): Promise<Timeline> {
    const timeline = this.#makeTimeline({ ...found, facts: found.manifest.facts })
    await timeline.open()
    return timeline
  }

  #makeTimeline(parts: {
    timelineId: TimelineId
    manifests: ManifestStore
    manifest: Manifest | null
    facts: TimelineFacts
  }): Timeline {
    // What the timeline keeps must not hold on to the manifest, which names all layers.
    const { timelineId } = parts
    return new Timeline({
      ...parts,
      tenantId: this.tenantId,
      generation: this.generation,
      slots: this.#slots,
      shard: this.shard,
      context: this.#context,
      attachment: this.attachment,
      releaseObjects: (names) => this.#release(names),
      branchPoints: () => this.lives.branchPointsOf(timelineId),
      timelineOf: (timelineId) => this.timeline(timelineId),
    })
  }

  /** Hands on the objects that no timeline of the tenant refers to. */
  #release(names: readonly string[]): void {
    const free = this.attachment.released(this.lives.unused(names))
    if (free.length > 0) this.#context.deletions.push(this.tenantId, this.generation, free)
  }

  #markBroken(timelineId: TimelineId, reason: string): void {
    const message = `timeline ${timelineId} of tenant ${this.tenantId} cannot be opened: ${reason}`
    this.#broken.set(timelineId, new ZenithError('corrupt', message))
    this.#context.log.error({ tenantId: this.tenantId, timelineId }, message)
  }

  /** Local folders of timelines that are not in storage: left by a creation that a crash cut short. */
  async #tidyLocalFolder(): Promise<void> {
    const parent = join(localFolder(this.#context.folder, this.tenantId, '' as TimelineId))
    for (const name of await readdir(parent).catch(() => [])) {
      const timelineId = name as TimelineId
      if (this.#timelines.has(timelineId) || this.#broken.has(timelineId)) continue
      await rm(join(parent, name), { recursive: true, force: true })
    }
  }
}

function checkBranchLsn(ancestor: Timeline, lsn: Lsn): void {
  if (lsn % 8 !== 0) {
    throw new ZenithError(
      'invalid_argument',
      `${formatLsn(lsn)} is not a place between WAL records; they start at multiples of 8`,
    )
  }
  if (lsn < ancestor.startLsn) {
    throw new ZenithError(
      'out_of_range',
      `timeline ${ancestor.timelineId} has no history at ${formatLsn(lsn)}: its oldest LSN is ${formatLsn(ancestor.startLsn)}`,
      ancestor.ancestor === null ? {} : { hint: 'For an earlier LSN branch from its ancestor.' },
    )
  }
}

function depthOf(timeline: Timeline): number {
  let depth = 0
  for (let at = timeline.ancestor; at !== null; at = at.timeline.ancestor) depth++
  return depth
}
