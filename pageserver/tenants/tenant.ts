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
import { parseLayerName } from '../layers/layer-name.ts'
import {
  type Manifest,
  type TimelineFacts,
  type TimelineState,
  walStartOf,
} from '../remote/manifest.ts'
import type { ManifestStore } from '../remote/manifest-store.ts'
import { layerFolder, localFolder, timelinesFolder } from '../remote/paths.ts'
import { manifestStoreOf } from '../timeline/layer-store.ts'
import type { StorageContext, StorageStep } from '../timeline/storage-context.ts'
import { Timeline } from '../timeline/timeline.ts'
import { Attachment } from './attachment.ts'
import { DeletedTimelines } from './deleted-timelines.ts'
import { type Ancestry, planDetach } from './detach-plan.ts'
import { type FoundTimeline, layerObject, layerObjects } from './found-timeline.ts'

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

/** Where a timeline leaves its ancestor. */
export interface BranchPlace {
  ancestorTimelineId: TimelineId
  ancestorLsn: Lsn
}

export class Tenant {
  readonly tenantId: TenantId
  readonly generation: number
  readonly attachment: Attachment
  /** How much history is kept; null until the control plane has said, and nothing is removed. */
  history: HistorySettings | null
  /** Monotonic milliseconds. */
  readonly attachedAtMs = performance.now()
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
  /** Known and kept in storage, not open. */
  readonly #archived = new Map<TimelineId, FoundTimeline>()
  readonly #deleted: DeletedTimelines
  /** Objects that a timeline is just taking over. */
  #adopting: ReadonlySet<string> = new Set()

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
    this.#deleted = new DeletedTimelines({
      tenantId,
      generation,
      context,
      attachment: this.attachment,
      unused: (names) => this.#unused(names),
    })
  }

  /**
   * Takes another role. One that becomes stale has written nothing to object storage any more when
   * this resolves.
   */
  async become(mode: AttachMode): Promise<void> {
    const free = this.attachment.become(mode)
    if (free.length > 0) this.#context.deletions.push(this.tenantId, this.generation, free)
    const timelines = this.timelines()
    if (mode === 'stale') await Promise.all(timelines.map((timeline) => timeline.stopWriting()))
    else for (const timeline of timelines) timeline.resumeWriting()
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
    const having = (state: TimelineState) => found.filter((one) => one.manifest.state === state)
    for (const one of having('archived')) this.#archived.set(one.timelineId, one)
    for (const one of having('deleted')) this.#deleted.add(one)
    await this.#openInOrder(having('active'))
    await this.#tidyLocalFolder()
    this.#context.deletions.adopt(this.tenantId, this.generation, (names) => this.#unused(names))
    void this.#deleted.sweepAll()
    await Promise.all(this.timelines().map((timeline) => timeline.confirm()))
  }

  /** Throws `not_found`, or what makes the timeline unusable. */
  timeline(timelineId: TimelineId): Timeline {
    const timeline = this.#timelines.get(timelineId)
    if (timeline) return timeline
    if (this.#archived.has(timelineId)) {
      throw new ZenithError('conflict', `timeline ${timelineId} is archived`, {
        hint: 'Bring it back first: zenith branch unarchive <branch>.',
      })
    }
    throw (
      this.#broken.get(timelineId) ??
      new ZenithError('not_found', `tenant ${this.tenantId} has no timeline ${timelineId}`)
    )
  }

  timelines(): Timeline[] {
    return [...this.#timelines.values()]
  }

  /** Null unless it is archived. */
  archived(timelineId: TimelineId): Manifest | null {
    return this.#archived.get(timelineId)?.manifest ?? null
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

  /** Where children leave the timeline, and where children of theirs reach down into it. */
  branchPointsOf(timelineId: TimelineId): Lsn[] {
    return this.childrenOf(timelineId).flatMap((child) => [
      child.lsn,
      ...this.branchPointsOf(child.timelineId).filter((lsn) => lsn < child.lsn),
    ])
  }

  /**
   * Puts a timeline away: flushed, its local files gone, its memory freed; nobody reads it until it
   * is brought back. No WAL may come in meanwhile. Throws `conflict` while it has children that are
   * not archived. One that is archived is fine.
   */
  async archiveTimeline(timelineId: TimelineId): Promise<void> {
    if (this.#archived.has(timelineId)) return
    await this.timeline(timelineId).flush()
    await this.gcLock.run(async () => {
      if (this.#archived.has(timelineId)) return
      const timeline = this.timeline(timelineId)
      const child = this.childrenOf(timelineId).find((one) => !this.#archived.has(one.timelineId))
      if (child) {
        throw new ZenithError(
          'conflict',
          `timeline ${timelineId} has a child that is not archived: ${child.timelineId}`,
          { hint: 'Archive its children first, or detach them.' },
        )
      }
      await timeline.flush()
      await timeline.change({ state: 'archived' })
      this.#step('archive-written')
      const found = await this.#loadManifest(timelineId)
      if (found) this.#archived.set(timelineId, found)
      this.#timelines.delete(timelineId)
      await timeline.close({ flush: false })
      await this.#removeLocalFiles(timelineId)
    })
  }

  /** Opens an archived timeline as it was. One that is open is fine. */
  async unarchiveTimeline(timelineId: TimelineId): Promise<Timeline> {
    return await this.gcLock.run(async () => {
      const found = this.#archived.get(timelineId)
      if (!found) return this.timeline(timelineId)
      const { ancestorTimelineId } = found.manifest.facts
      if (ancestorTimelineId !== null) this.timeline(ancestorTimelineId)
      const manifest: Manifest = { ...found.manifest, state: 'active' }
      this.attachment.checkMayWrite()
      await found.manifests.write(manifest)
      this.#step('unarchive-written')
      const timeline = this.#makeTimeline({ ...found, manifest, facts: manifest.facts })
      await timeline.open()
      this.#timelines.set(timelineId, timeline)
      this.#archived.delete(timelineId)
      return timeline
    })
  }

  /**
   * Deletes a timeline for good. When it resolves, that is durable and nobody sees the timeline any
   * more; its objects go in their own time, those that other timelines refer to when these let go.
   * Throws `conflict` while it has children. One that is not there is fine.
   */
  async deleteTimeline(timelineId: TimelineId): Promise<void> {
    await this.#creating.get(timelineId)?.catch(() => undefined)
    await this.gcLock.run(() => this.#delete(timelineId))
    await this.#deleted.sweep(timelineId)
  }

  /** Goes on with what deleted timelines still have in storage; a timer does it too. */
  async sweepDeleted(): Promise<void> {
    await this.#deleted.sweepAll()
  }

  async #delete(timelineId: TimelineId): Promise<void> {
    if (this.#deleted.isDurable(timelineId)) return
    this.#checkNoChildren(timelineId)
    // From here on it is not there for anybody, nor made again under the same id.
    this.#deleted.begin(timelineId)
    const open = this.#timelines.get(timelineId)
    this.#timelines.delete(timelineId)
    await open?.close({ flush: false })
    this.#step('delete-closed')
    await this.#deleted.mark(timelineId)
    this.#step('delete-written')
    this.#archived.delete(timelineId)
    this.#broken.delete(timelineId)
    await this.#removeLocalFiles(timelineId)
    this.#step('delete-local-gone')
  }

  /**
   * Makes a timeline independent of its ancestors: it takes over their layers up to where it left
   * them, and copies nothing. Siblings that left the ancestor at or before the same LSN become its
   * children. Reads and writes go on. Again after a crash it goes on where it was; when all is done
   * it does nothing. Throws `conflict` when the timeline branches from somewhere else.
   */
  async detachTimeline(timelineId: TimelineId, from: BranchPlace): Promise<Timeline> {
    await this.#flushChain(this.timeline(timelineId))
    return await this.gcLock.run(async () => {
      const timeline = this.timeline(timelineId)
      const { ancestor } = timeline
      if (ancestor === null) return timeline
      if (
        ancestor.timeline.timelineId !== from.ancestorTimelineId ||
        ancestor.lsn !== from.ancestorLsn
      ) {
        throw new ZenithError(
          'conflict',
          `timeline ${timelineId} does not branch from ${from.ancestorTimelineId} at ${formatLsn(from.ancestorLsn)}`,
        )
      }
      await this.#flushChain(timeline)
      // Siblings first: through us they read what they read before, and from then on their branch
      // points are ours. Were they to follow later, we might have let go of what they need.
      await this.#moveSiblings(timelineId, from)
      this.#step('siblings-moved')
      await keepStatistics(timeline)
      await this.#adoptHistory(timeline)
      return timeline
    })
  }

  /** Everything of the ancestors that the timeline reads becomes durable layers. */
  async #flushChain(timeline: Timeline): Promise<void> {
    await timeline.awaitAncestorWal()
    for (let at = timeline.ancestor; at !== null; at = at.timeline.ancestor) {
      if (at.timeline.remoteConsistentLsn < at.lsn) await at.timeline.flush()
    }
  }

  async #moveSiblings(timelineId: TimelineId, from: BranchPlace): Promise<void> {
    for (const sibling of this.childrenOf(from.ancestorTimelineId)) {
      if (sibling.timelineId === timelineId || sibling.lsn > from.ancestorLsn) continue
      const open = this.#timelines.get(sibling.timelineId)
      if (open) await open.change({ facts: { ...open.facts, ancestorTimelineId: timelineId } })
      else {
        const found = this.#archived.get(sibling.timelineId) as FoundTimeline
        const facts = { ...found.manifest.facts, ancestorTimelineId: timelineId }
        const manifest = { ...found.manifest, facts }
        this.attachment.checkMayWrite()
        await found.manifests.write(manifest)
        found.manifest = manifest
      }
      this.#step('sibling-moved')
    }
  }

  async #adoptHistory(timeline: Timeline): Promise<void> {
    const chain: Ancestry[] = []
    for (let at = timeline.ancestor; at !== null; at = at.timeline.ancestor) {
      const { timelineId, startLsn, gcCutoffLsn, layers } = at.timeline
      const entries = layers.newestFirst.map((layer) => layer.entry)
      chain.push({ timelineId, branchLsn: at.lsn, startLsn, gcCutoffLsn, layers: entries })
    }
    const { adopt, startLsn, gcCutoffLsn } = planDetach(timeline.gcCutoffLsn, chain)
    this.#adopting = new Set(
      adopt.map(({ id, origin }) => layerObject(this.tenantId, origin as TimelineId, id)),
    )
    try {
      if (gcCutoffLsn !== null) timeline.retention.raiseCutoff(gcCutoffLsn)
      await timeline.change({
        adopt,
        facts: {
          ...timeline.facts,
          ancestorTimelineId: null,
          ancestorLsn: null,
          startLsn,
          walStartLsn: walStartOf(timeline.facts),
        },
        ...(gcCutoffLsn === null ? {} : { gcCutoffLsn }),
      })
    } finally {
      this.#adopting = new Set()
    }
  }

  /** Timelines that branch from it, archived ones included, and where. */
  childrenOf(timelineId: TimelineId): { timelineId: TimelineId; lsn: Lsn }[] {
    const children: { timelineId: TimelineId; lsn: Lsn }[] = []
    const look = (id: TimelineId, { ancestorTimelineId, ancestorLsn }: TimelineFacts) => {
      if (ancestorTimelineId !== timelineId || ancestorLsn === null) return
      children.push({ timelineId: id, lsn: ancestorLsn })
    }
    for (const [id, timeline] of this.#timelines) look(id, timeline.facts)
    for (const [id, found] of this.#archived) look(id, found.manifest.facts)
    return children
  }

  #checkNoChildren(timelineId: TimelineId): void {
    const hint = 'Delete its children first, or detach them: zenith branch detach <child>.'
    const [child] = this.childrenOf(timelineId)
    if (child) {
      const message = `timeline ${timelineId} has a child: ${child.timelineId}`
      throw new ZenithError('conflict', message, { hint })
    }
    for (const broken of this.#broken.keys()) {
      if (broken === timelineId) continue
      throw new ZenithError(
        'conflict',
        `timeline ${timelineId} cannot be deleted while ${broken} cannot be opened: it may be a child`,
        { hint: 'Mend that timeline, or delete it first.' },
      )
    }
  }

  #removeLocalFiles(timelineId: TimelineId): Promise<void> {
    const folder = localFolder(this.#context.folder, this.tenantId, timelineId)
    return rm(folder, { recursive: true, force: true })
  }

  #step(step: StorageStep): void {
    this.#context.onStep?.(step)
  }

  tick(nowMs: number): void {
    for (const timeline of this.#timelines.values()) timeline.tick(nowMs)
    this.#deleted.tick(nowMs)
  }

  /** Children first, so that no ancestor is closed under a reader. */
  async close(options: { flush: boolean }): Promise<void> {
    await Promise.allSettled(this.#creating.values())
    await this.#deleted.stop()
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
    if (this.#archived.has(timelineId) || this.#deleted.has(timelineId)) {
      const what = this.#archived.has(timelineId) ? 'archived' : 'deleted'
      const message = `timeline ${timelineId} is ${what} already`
      return Promise.reject(new ZenithError('conflict', message))
    }
    const running = this.#creating.get(timelineId)
    if (running) return running
    const creating = Promise.try(() => this.attachment.checkMayWrite())
      .then(create)
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

  async #loadManifest(timelineId: TimelineId): Promise<FoundTimeline | null> {
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

  #makeTimeline(parts: {
    timelineId: TimelineId
    manifests: ManifestStore
    manifest: Manifest | null
    facts: TimelineFacts
  }): Timeline {
    return new Timeline({
      ...parts,
      tenantId: this.tenantId,
      generation: this.generation,
      slots: this.#slots,
      shard: this.shard,
      context: this.#context,
      attachment: this.attachment,
      releaseObjects: (names) => this.#release(names),
      branchPoints: () => this.branchPointsOf(parts.timelineId),
      timelineOf: (timelineId) => this.timeline(timelineId),
    })
  }

  /** Hands on the objects that no timeline of the tenant refers to. */
  #release(names: readonly string[]): void {
    const free = this.attachment.released(this.#unused(names))
    if (free.length > 0) this.#context.deletions.push(this.tenantId, this.generation, free)
  }

  /** Those of the objects that no timeline refers to, nor is about to. */
  #unused(names: readonly string[]): string[] {
    // What a timeline refers to that cannot be opened is not known.
    if (names.length === 0 || this.#broken.size > 0) return []
    const asked = new Set(names.map((name) => name.slice(name.lastIndexOf('/') + 1)))
    const used = new Set(this.#adopting)
    for (const timeline of this.#timelines.values()) {
      for (const layer of timeline.layers.newestFirst) {
        if (asked.has(layer.name)) used.add(layer.objectName)
      }
    }
    for (const found of this.#archived.values()) {
      for (const name of layerObjects(this.tenantId, found)) used.add(name)
    }
    return names.filter((name) => !used.has(name))
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

/** A compute that starts where the branch began gets the statistics that were kept there. */
async function keepStatistics(timeline: Timeline): Promise<void> {
  const lsn = timeline.ancestor?.lsn
  for (let at = timeline.ancestor; at !== null && at.lsn === lsn; at = at.timeline.ancestor) {
    const bundle = await at.timeline.statistics.get(at.lsn)
    if (bundle === null) continue
    if (timeline.lastRecordLsn === lsn) await timeline.statistics.put(lsn, bundle)
    return
  }
}
