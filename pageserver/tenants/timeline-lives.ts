/**
 * How timelines of a tenant are archived, brought back, detached and deleted, and those that are
 * there without being open. What a timeline is says its manifest; each change of that is one write.
 *
 * The lock that branch creation, collection and these share is never held while a timeline closes:
 * closing waits for collections, and those may wait for the lock. Between leaving the open timelines
 * and its last manifest a timeline still counts, as a child and with the objects it refers to.
 */
import { rm } from 'node:fs/promises'
import { assert, ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lock } from '#libs/lock.ts'
import { type Lsn } from '#libs/lsn.ts'
import type { Manifest, TimelineFacts } from '../remote/manifest.ts'
import { localFolder, timelinesFolder } from '../remote/paths.ts'
import type { StorageContext, StorageStep } from '../timeline/storage-context.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { Attachment } from './attachment.ts'
import { DeletedTimelines } from './deleted-timelines.ts'
import { type BranchPlace, detachHistory } from './detach.ts'
import { type FoundTimeline, layerObjects, parseLayerObject } from './found-timeline.ts'

export interface TimelineLivesOptions {
  tenantId: TenantId
  generation: number
  context: StorageContext
  attachment: Attachment
  lock: Lock
  /** The tenant's own, which change here too. */
  timelines: Map<TimelineId, Timeline>
  broken: Map<TimelineId, ZenithError>
  creating: ReadonlyMap<TimelineId, Promise<Timeline>>
  /** Reads the newest manifest; null when there is none, or it cannot be read. */
  load: (timelineId: TimelineId) => Promise<FoundTimeline | null>
  open: (found: FoundTimeline) => Promise<Timeline>
}

export interface Child {
  timelineId: TimelineId
  lsn: Lsn
}

export class TimelineLives {
  readonly #options: TimelineLivesOptions
  /** Known and kept in storage, not open. */
  readonly #archived = new Map<TimelineId, FoundTimeline>()
  /** Closed, or about to be, without a manifest yet that says why. */
  readonly #leaving = new Map<TimelineId, Timeline>()
  readonly #deleted: DeletedTimelines
  /** Objects that a timeline is just taking over. */
  #adopting: ReadonlySet<string> = new Set()

  constructor(options: TimelineLivesOptions) {
    this.#options = options
    this.#deleted = new DeletedTimelines({ ...options, unused: (names) => this.unused(names) })
  }

  /** Sorts out what was found in storage; returns what is to be opened. */
  takeIn(found: readonly FoundTimeline[]): FoundTimeline[] {
    for (const one of found) {
      if (one.manifest.state === 'archived') this.#archived.set(one.timelineId, one)
      if (one.manifest.state === 'deleted') this.#deleted.add(one)
    }
    return found.filter(({ manifest }) => manifest.state === 'active')
  }

  /** Null unless it is archived. */
  archived(timelineId: TimelineId): Manifest | null {
    return this.#archived.get(timelineId)?.manifest ?? null
  }

  /** What it is when it is there without being open; no timeline is made under such an id. */
  pastOf(timelineId: TimelineId): 'archived' | 'deleted' | null {
    if (this.#deleted.has(timelineId)) return 'deleted'
    return this.#archived.has(timelineId) || this.#leaving.has(timelineId) ? 'archived' : null
  }

  /** Throws `conflict` for a timeline that is archived. */
  checkOpen(timelineId: TimelineId): void {
    if (this.pastOf(timelineId) !== 'archived') return
    throw new ZenithError('conflict', `timeline ${timelineId} is archived`, {
      hint: 'Bring it back first: zenith branch unarchive <branch>.',
    })
  }

  /** Timelines that branch from it, archived ones included, and where. */
  childrenOf(timelineId: TimelineId): Child[] {
    const children: Child[] = []
    const look = (id: TimelineId, { ancestorTimelineId, ancestorLsn }: TimelineFacts) => {
      if (ancestorTimelineId !== timelineId || ancestorLsn === null) return
      children.push({ timelineId: id, lsn: ancestorLsn })
    }
    for (const [id, timeline] of this.#options.timelines) look(id, timeline.facts)
    for (const [id, timeline] of this.#leaving) look(id, timeline.facts)
    for (const [id, found] of this.#archived) look(id, found.manifest.facts)
    return children
  }

  /** Where children leave the timeline, and where children of theirs reach down into it. */
  branchPointsOf(timelineId: TimelineId): Lsn[] {
    return this.childrenOf(timelineId).flatMap((child) => [
      child.lsn,
      ...this.branchPointsOf(child.timelineId).filter((lsn) => lsn < child.lsn),
    ])
  }

  /**
   * Objects of other shards that timelines refer to, or are about to: taken over at a split, they
   * only ever become fewer. Throws `unavailable` while nobody knows what a timeline refers to.
   */
  borrowed(): string[] {
    const { tenantId, timelines, broken } = this.#options
    const [unknown] = broken.keys()
    if (unknown !== undefined) {
      throw new ZenithError('unavailable', `timeline ${unknown} cannot be opened`)
    }
    const names = new Set(this.#adopting)
    for (const timeline of [...timelines.values(), ...this.#leaving.values()]) {
      for (const layer of [...timeline.layers.borrowed(), ...timeline.retiring]) {
        if (layer.splitFrom !== undefined) names.add(layer.objectName)
      }
    }
    for (const found of this.#archived.values()) {
      for (const name of layerObjects(tenantId, found)) names.add(name)
    }
    const own = `${timelinesFolder(tenantId)}/`
    return [...names].filter((name) => !name.startsWith(own))
  }

  /**
   * Those of the objects that no timeline refers to, nor is about to. Objects of other shards, which
   * were taken over at a split, are never among them: another child of theirs may need them.
   */
  unused(all: readonly string[]): string[] {
    const { tenantId, timelines, broken } = this.#options
    const names = all.filter((name) => name.startsWith(`${timelinesFolder(tenantId)}/`))
    // What a timeline refers to that cannot be opened is not known.
    if (names.length === 0 || broken.size > 0) return []
    const used = new Set(this.#adopting)
    const open = [...timelines.values(), ...this.#leaving.values()]
    for (const name of names) {
      const object = parseLayerObject(name)
      if (object === null) continue
      const { id, timelineId: owner } = object
      const isHeld = open.some(
        ({ timelineId, layers }) =>
          layers.has({ id, origin: owner }) ||
          (timelineId === owner && layers.has({ id, origin: null })),
      )
      if (isHeld) used.add(name)
    }
    for (const found of this.#archived.values()) {
      for (const name of layerObjects(tenantId, found)) used.add(name)
    }
    return names.filter((name) => !used.has(name))
  }

  /**
   * Puts a timeline away: flushed, its local files gone, its memory freed; nobody reads it until it
   * is brought back. No WAL may come in meanwhile. Throws `conflict` while it has children that are
   * not archived. One that is archived is fine.
   */
  async archive(timelineId: TimelineId): Promise<void> {
    if (this.#archived.has(timelineId)) return
    if (!this.#leaving.has(timelineId)) {
      await this.#open(timelineId).flush()
      await this.#options.lock.run(async () => {
        const timeline = this.#open(timelineId)
        const child = this.childrenOf(timelineId).find((one) => !this.#archived.has(one.timelineId))
        if (child) {
          throw new ZenithError(
            'conflict',
            `timeline ${timelineId} has a child that is not archived: ${child.timelineId}`,
            { hint: 'Archive its children first, or detach them.' },
          )
        }
        this.#leave(timeline)
      })
    }
    const leaving = this.#leaving.get(timelineId)
    await leaving?.close({ flush: true })
    // A manifest of its own store may have been the last; now there are none but ours.
    const found = await this.#options.load(timelineId)
    if (!found) throw this.#unreadable(timelineId)
    // Nothing is removed while it is away. When it comes back, its leases get their whole time anew:
    // their holders could not renew them.
    const leasedLsns = leaving?.retention.heldLeases() ?? found.manifest.leasedLsns
    await this.#write(found, { ...found.manifest, state: 'archived', leasedLsns })
    this.#step('archive-written')
    this.#archived.set(timelineId, found)
    this.#leaving.delete(timelineId)
    await this.#removeLocalFiles(timelineId)
  }

  /** Opens an archived timeline as it was. One that is open is fine. */
  async unarchive(timelineId: TimelineId): Promise<Timeline> {
    // One whose archiving was cut short is brought to an end first.
    if (this.#leaving.has(timelineId)) await this.archive(timelineId)
    return await this.#options.lock.run(async () => {
      const found = this.#archived.get(timelineId)
      if (!found) return this.#open(timelineId)
      const { ancestorTimelineId } = found.manifest.facts
      if (ancestorTimelineId !== null) this.#open(ancestorTimelineId)
      await this.#write(found, { ...found.manifest, state: 'active' })
      this.#step('unarchive-written')
      const timeline = await this.#options.open(found)
      this.#options.timelines.set(timelineId, timeline)
      this.#archived.delete(timelineId)
      return timeline
    })
  }

  /**
   * Deletes a timeline for good. When it resolves, that is durable and nobody sees the timeline any
   * more; its objects go in their own time, those that other timelines refer to when these let go.
   * Throws `conflict` while it has children. One that is not there is fine.
   */
  async delete(timelineId: TimelineId): Promise<void> {
    const { lock, creating, timelines, broken } = this.#options
    await creating.get(timelineId)?.catch(() => undefined)
    if (!this.#deleted.isDurable(timelineId)) {
      await lock.run(async () => {
        this.#checkNoChildren(timelineId)
        // From here on it is not there for anybody, nor made again under the same id.
        this.#deleted.begin(timelineId)
        const timeline = timelines.get(timelineId)
        if (timeline) this.#leave(timeline)
      })
      await this.#leaving.get(timelineId)?.close({ flush: false })
      this.#step('delete-closed')
      await this.#deleted.mark(timelineId)
      this.#step('delete-written')
      this.#leaving.delete(timelineId)
      this.#archived.delete(timelineId)
      broken.delete(timelineId)
      await this.#removeLocalFiles(timelineId)
      this.#step('delete-local-gone')
    }
    await this.#deleted.sweep(timelineId)
  }

  /**
   * Of the timelines of a tenant that is to be deleted, the one to delete next: those that cannot be
   * opened first, as they may be children of any other, then children before their parents. Null
   * when none is left.
   */
  nextToDelete(): TimelineId | null {
    const { broken, timelines } = this.#options
    const [unreadable] = broken.keys()
    if (unreadable !== undefined) return unreadable
    const all = [...timelines.keys(), ...this.#leaving.keys(), ...this.#archived.keys()]
    return all.find((timelineId) => this.childrenOf(timelineId).length === 0) ?? null
  }

  /**
   * Gives what the tenant still has in storage to the queue, after its last timeline was deleted, and
   * tells how many objects that is; 0 = nothing is left.
   */
  async emptyStorage(): Promise<number> {
    await this.#deleted.sweepAll()
    return await this.#deleted.releaseRest()
  }

  /**
   * Makes a timeline independent of its ancestors; see detach.ts. Reads and writes go on. Again after
   * a crash it goes on where it was; when all is done it does nothing. Throws `conflict` when the
   * timeline branches from somewhere else.
   */
  async detach(timelineId: TimelineId, from: BranchPlace): Promise<Timeline> {
    const { tenantId, lock } = this.#options
    return await detachHistory(from, {
      tenantId,
      lock,
      find: () => this.#open(timelineId),
      siblings: () =>
        this.childrenOf(from.ancestorTimelineId).filter((one) => one.timelineId !== timelineId),
      moveTo: (sibling) => this.#giveParent(sibling, timelineId),
      adopting: (names) => {
        this.#adopting = names
      },
      onStep: (step) => this.#step(step),
    })
  }

  /** Goes on with what deleted timelines still have in storage; a timer does it too. */
  async sweepDeleted(): Promise<void> {
    await this.#deleted.sweepAll()
  }

  tick(nowMs: number): void {
    this.#deleted.tick(nowMs)
  }

  async stop(): Promise<void> {
    await this.#deleted.stop()
  }

  #open(timelineId: TimelineId): Timeline {
    this.checkOpen(timelineId)
    const { timelines, broken, tenantId } = this.#options
    const timeline = timelines.get(timelineId)
    if (timeline) return timeline
    throw (
      broken.get(timelineId) ??
      new ZenithError('not_found', `tenant ${tenantId} has no timeline ${timelineId}`)
    )
  }

  #leave(timeline: Timeline): void {
    const { timelineId } = timeline
    this.#leaving.set(timelineId, timeline)
    this.#options.timelines.delete(timelineId)
  }

  async #giveParent(timelineId: TimelineId, ancestorTimelineId: TimelineId): Promise<void> {
    const open = this.#options.timelines.get(timelineId)
    if (open) {
      await open.change({ facts: { ...open.facts, ancestorTimelineId } })
      return
    }
    const found = this.#archived.get(timelineId)
    if (!found) {
      throw new ZenithError('unavailable', `timeline ${timelineId} is just being put away`, {
        hint: 'Try again in a moment.',
      })
    }
    const facts = { ...found.manifest.facts, ancestorTimelineId }
    await this.#write(found, { ...found.manifest, facts })
  }

  async #write(found: FoundTimeline, manifest: Manifest): Promise<void> {
    this.#options.attachment.checkMayWrite()
    await found.manifests.write(manifest)
    found.manifest = manifest
  }

  #unreadable(timelineId: TimelineId): ZenithError {
    const { broken } = this.#options
    const reason = broken.get(timelineId)
    assert(reason !== undefined, 'a timeline that was open has a manifest')
    // It is named as archived, until a restart looks again.
    broken.delete(timelineId)
    return reason
  }

  #checkNoChildren(timelineId: TimelineId): void {
    const hint = 'Delete its children first, or detach them: zenith branch detach <child>.'
    const [child] = this.childrenOf(timelineId)
    if (child) {
      const message = `timeline ${timelineId} has a child: ${child.timelineId}`
      throw new ZenithError('conflict', message, { hint })
    }
    for (const broken of this.#options.broken.keys()) {
      if (broken === timelineId) continue
      throw new ZenithError(
        'conflict',
        `timeline ${timelineId} cannot be deleted while ${broken} cannot be opened: it may be a child`,
        { hint: 'Mend that timeline, or delete it first.' },
      )
    }
  }

  #removeLocalFiles(timelineId: TimelineId): Promise<void> {
    const { context, tenantId } = this.#options
    context.accesses?.forgetAll(`${tenantId}/${timelineId}`)
    const folder = localFolder(context.folder, tenantId, timelineId)
    return rm(folder, { recursive: true, force: true })
  }

  #step(step: StorageStep): void {
    this.#options.context.onStep?.(step)
  }
}
