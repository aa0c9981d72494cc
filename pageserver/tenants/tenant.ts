/**
 * The timelines of one tenant that this page server holds, under one generation.
 *
 * What exists is what has a manifest in object storage. A timeline becomes visible here only after
 * its first manifest is durable, so nobody ever sees half of a bootstrap or branch.
 */
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { parseTimelineId, type TenantId, type TimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { Mutex } from '#libs/mutex.ts'
import { DEFAULT_HISTORY, type HistorySettings } from '../gc/settings.ts'
import { SlotTable } from '../keyspace/slot-table.ts'
import { parseLayerName } from '../layers/layer-name.ts'
import type { Manifest, TimelineFacts } from '../remote/manifest.ts'
import type { ManifestStore } from '../remote/manifest-store.ts'
import { layerFolder, localFolder, timelinesFolder } from '../remote/paths.ts'
import { manifestStoreOf } from '../timeline/layer-store.ts'
import type { StorageContext } from '../timeline/storage-context.ts'
import { Timeline } from '../timeline/timeline.ts'

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

export interface BranchOptions {
  ancestorTimelineId: TimelineId
  ancestorLsn: Lsn
  timeoutMs?: number
}

interface Found {
  timelineId: TimelineId
  manifests: ManifestStore
  manifest: Manifest
}

export class Tenant {
  readonly tenantId: TenantId
  readonly generation: number
  /** How much history is kept; the control plane says. */
  history: HistorySettings
  /** Garbage collection, branch creation and detach exclude each other; holds are short. */
  readonly gcLock = new Mutex()
  readonly #context: StorageContext
  readonly #slots = new SlotTable()
  readonly #timelines = new Map<TimelineId, Timeline>()
  /** Timelines in storage that cannot be opened, with the reason. */
  readonly #broken = new Map<TimelineId, ZenithError>()
  readonly #creating = new Map<TimelineId, Promise<Timeline>>()

  constructor(
    tenantId: TenantId,
    generation: number,
    context: StorageContext,
    history: HistorySettings = DEFAULT_HISTORY,
  ) {
    this.tenantId = tenantId
    this.generation = generation
    this.history = history
    this.#context = context
  }

  /** Opens every timeline that has a manifest; a damaged one is reported and does not stop others. */
  async load(): Promise<void> {
    const { store } = this.#context
    const { folders } = await store.list(timelinesFolder(this.tenantId), { delimited: true })
    const found: Found[] = []
    const queue = [...folders]
    const work = async () => {
      for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
        const one = await this.#loadManifest(parseTimelineId(name))
        if (one) found.push(one)
      }
    }
    await Promise.all(Array.from({ length: LOADS_AT_ONCE }, work))
    await this.#openInOrder(found)
    await this.#tidyLocalFolder()
  }

  /** Throws `not_found`, or what makes the timeline unusable. */
  timeline(timelineId: TimelineId): Timeline {
    const timeline = this.#timelines.get(timelineId)
    if (timeline) return timeline
    throw (
      this.#broken.get(timelineId) ??
      new ZenithError('not_found', `tenant ${this.tenantId} has no timeline ${timelineId}`)
    )
  }

  timelines(): Timeline[] {
    return [...this.#timelines.values()]
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
      const timeline = await this.#newTimeline(timelineId, facts, null)
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
      const timeline = await this.#newTimeline(timelineId, facts, manifest)
      await timeline.createEmpty()
      this.#timelines.set(timelineId, timeline)
      return timeline
    } finally {
      release()
    }
  }

  /** Where children leave the timeline. */
  branchPointsOf(timelineId: TimelineId): Lsn[] {
    return this.timelines().flatMap(({ ancestor }) =>
      ancestor?.timeline.timelineId === timelineId ? [ancestor.lsn] : [],
    )
  }

  tick(nowMs: number): void {
    for (const timeline of this.#timelines.values()) timeline.tick(nowMs)
  }

  /** Children first, so that no ancestor is closed under a reader. */
  async close(options: { flush: boolean }): Promise<void> {
    await Promise.allSettled(this.#creating.values())
    const timelines = this.timelines().reverse()
    const flushed = options.flush
      ? await Promise.allSettled(timelines.map((timeline) => timeline.flush()))
      : []
    for (const timeline of timelines) await timeline.close({ flush: false })
    for (const result of flushed) if (result.status === 'rejected') throw result.reason
  }

  /** One creation per id at a time; a second request joins the first. */
  #once(timelineId: TimelineId, create: () => Promise<Timeline>): Promise<Timeline> {
    const existing = this.#timelines.get(timelineId)
    if (existing) return Promise.resolve(existing)
    const broken = this.#broken.get(timelineId)
    if (broken) return Promise.reject(broken)
    const running = this.#creating.get(timelineId)
    if (running) return running
    const creating = create()
      .then((timeline) => {
        this.#timelines.set(timelineId, timeline)
        return timeline
      })
      .finally(() => this.#creating.delete(timelineId))
    this.#creating.set(timelineId, creating)
    return creating
  }

  async #newTimeline(
    timelineId: TimelineId,
    facts: TimelineFacts,
    manifest: Manifest | null,
  ): Promise<Timeline> {
    const manifests = manifestStoreOf(this.#context, this.tenantId, timelineId, this.generation)
    if (!manifest) await this.#removeLeftovers(timelineId)
    const timeline = this.#makeTimeline({ timelineId, manifests, manifest, facts })
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

  async #loadManifest(timelineId: TimelineId): Promise<Found | null> {
    const manifests = manifestStoreOf(this.#context, this.tenantId, timelineId, this.generation)
    try {
      const manifest = await manifests.load()
      return manifest && { timelineId, manifests, manifest }
    } catch (error) {
      this.#markBroken(timelineId, errorMessage(error))
      return null
    }
  }

  /** Ancestors before their branches. */
  async #openInOrder(found: readonly Found[]): Promise<void> {
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

  #makeTimeline(parts: {
    timelineId: TimelineId
    manifests: ManifestStore
    manifest: Manifest | null
    facts: TimelineFacts
  }): Timeline {
    const { ancestorTimelineId, ancestorLsn } = parts.facts
    return new Timeline({
      ...parts,
      tenantId: this.tenantId,
      generation: this.generation,
      slots: this.#slots,
      context: this.#context,
      releaseObjects: (names) => this.#release(names),
      branchPoints: () => this.branchPointsOf(parts.timelineId),
      ancestor:
        ancestorTimelineId === null || ancestorLsn === null
          ? null
          : { timeline: this.timeline(ancestorTimelineId), lsn: ancestorLsn },
    })
  }

  /** Hands on the objects that no timeline of the tenant refers to. */
  #release(names: readonly string[]): void {
    if (names.length === 0) return
    const used = new Set<string>()
    for (const timeline of this.#timelines.values()) {
      for (const layer of timeline.layers.newestFirst) used.add(layer.objectName)
    }
    const free = names.filter((name) => !used.has(name))
    this.#context.deletions.push(this.tenantId, this.generation, free)
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
