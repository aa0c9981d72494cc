/**
 * Making timelines: tenants with their first one, and branches. Each is a row of idempotent steps
 * behind a durable intent, so that a crash anywhere is answered by running the row again:
 *
 *   record 'creating' → pageserver makes it → record its start → safekeepers make it → 'active'
 *
 * Safekeepers that are down at that time are remembered and given the timeline later; a majority
 * must have it before it is active.
 */
import type { NodeInfo } from '#libs/api/node-info.ts'
import type { PageserverTimeline, TimelineMode } from '#libs/api/pageserver.ts'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { onEach, type Place, placesOf } from './places.ts'
import { recordKey, type TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { pageserverApi, safekeeperApi } from './remote.ts'
import type { Change } from './store/store.ts'

const MAX_ATTEMPTS = 20

export class Timelines {
  readonly #registry: Registry
  readonly #log: Logger
  /** Rows under way: whoever asks for the same timeline joins instead of running beside. */
  readonly #running = new Map<string, Promise<TimelineRecord>>()

  constructor(registry: Registry, log: Logger) {
    this.#registry = registry
    this.#log = log
  }

  /** True while a request is at it, so that nobody else needs to. */
  isRunning(timelineId: string): boolean {
    return this.#running.has(timelineId)
  }

  /** Resolves when no request is at it any more. */
  async settled(timelineId: string): Promise<void> {
    await this.#running.get(timelineId)?.catch(() => undefined)
  }

  /** Completes a timeline whose record exists. Idempotent; returns the active record. */
  complete(tenantId: string, timelineId: string): Promise<TimelineRecord> {
    const running = this.#running.get(timelineId)
    if (running) return running
    const promise = this.#complete(tenantId, timelineId).finally(() =>
      this.#running.delete(timelineId),
    )
    this.#running.set(timelineId, promise)
    return promise
  }

  async #complete(tenantId: string, timelineId: string): Promise<TimelineRecord> {
    const key = recordKey.timeline(tenantId, timelineId)
    let timeline = await this.#registry.timeline(tenantId, timelineId)
    if (timeline.state !== 'creating') return timeline
    const members = await this.#registry.members(timeline)

    // Read late: a pageserver that restarted in between has raised the generation.
    const places = await placesOf(this.#registry, tenantId)
    if (timeline.ancestorTimelineId !== null) {
      // A branch's start is known beforehand, so both sides make it at the same time; the pageserver
      // is told of the safekeepers at once, and asks them a moment later.
      const [failed] = await Promise.all([
        this.#makeOnSafekeepers(timeline, members),
        this.#makeOnPageservers(timeline, places, members),
      ])
      return this.#activate(key, failed)
    }
    const made = await this.#makeOnPageservers(timeline, places, [])
    timeline = await this.#registry.change<TimelineRecord>(key, (current) => ({
      ...current,
      startLsn: made.startLsn,
      systemId: made.systemId,
      pgVersion: made.pgVersion,
    }))
    const pending = await this.#makeOnSafekeepers(timeline, members)
    // Only now can the pageserver find the timeline on safekeepers, so only now is it told of them.
    await onEach(places, (place) =>
      pageserverApi.setSafekeepers(place, { tenantId, timelineId }, members),
    )
    return this.#activate(key, pending)
  }

  /** The rest of the row for a timeline that the pageserver has already, up to its `startLsn`. */
  async completeMade(timeline: TimelineRecord): Promise<TimelineRecord> {
    const { tenantId, timelineId } = timeline
    const members = await this.#registry.members(timeline)
    const pending = await this.#makeOnSafekeepers(timeline, members)
    await onEach(await placesOf(this.#registry, tenantId), (place) =>
      pageserverApi.setSafekeepers(place, { tenantId, timelineId }, members),
    )
    return this.#activate(recordKey.timeline(tenantId, timelineId), pending)
  }

  /** Returns what the first of them tells of the timeline: the one that has its system id. */
  async #makeOnPageservers(
    timeline: TimelineRecord,
    places: readonly Place[],
    safekeepers: NodeInfo[],
  ): Promise<PageserverTimeline> {
    const [first, ...others] = places
    assert(first !== undefined, 'a tenant has a placement')
    // A new cluster is made by shard 0, and the others begin with the same.
    const made = await this.#makeOnPageserver(timeline, first, safekeepers)
    await onEach(others, (place) => this.#makeOnPageserver(timeline, place, safekeepers))
    return made
  }

  async #makeOnPageserver(
    timeline: TimelineRecord,
    place: Place,
    safekeepers: NodeInfo[],
  ): Promise<PageserverTimeline> {
    const { tenantId, timelineId, ancestorTimelineId, ancestorLsn } = timeline
    const branch = ancestorTimelineId !== null && ancestorLsn !== null
    if (!branch) {
      await pageserverApi.attach(place, tenantId)
    }
    const mode: TimelineMode = branch
      ? { kind: 'branch', ancestorTimelineId, ancestorLsn }
      : { kind: 'bootstrap' }
    const body = { mode, safekeepers }
    return pageserverApi.createTimeline(place, { tenantId, timelineId }, body)
  }

  /** Returns the ids of members that did not get it. Throws `unavailable` without a majority. */
  async #makeOnSafekeepers(timeline: TimelineRecord, members: NodeInfo[]): Promise<number[]> {
    const { tenantId, timelineId, startLsn, systemId, pgVersion } = timeline
    if (startLsn === null || systemId === null || pgVersion === null) {
      throw new ZenithError('internal', `timeline ${timelineId} has no start yet`)
    }
    const generation = timeline.membershipGeneration
    const body = { startLsn, systemId, pgVersion, generation, members }
    const results = await Promise.allSettled(
      members.map((node) => safekeeperApi.createTimeline(node, { tenantId, timelineId }, body)),
    )
    const failed = results.flatMap((result, index) =>
      result.status === 'rejected'
        ? [{ id: (members[index] as NodeInfo).id, reason: errorMessage(result.reason) }]
        : [],
    )
    for (const failure of failed) {
      this.#log.warn({ timelineId, ...failure }, 'a safekeeper did not make the timeline')
    }
    if (members.length - failed.length <= members.length / 2) {
      throw new ZenithError(
        'unavailable',
        `Only ${members.length - failed.length} of ${members.length} safekeepers could make the timeline: ${failed[0]?.reason}`,
        { hint: 'zenith status shows which service is down; zenith start starts it again.' },
      )
    }
    return failed.map(({ id }) => id)
  }

  #activate(key: string, pendingSafekeepers: number[]): Promise<TimelineRecord> {
    return this.#registry.change<TimelineRecord>(key, (current) => ({
      ...current,
      state: current.state === 'creating' ? 'active' : current.state,
      pendingSafekeepers,
    }))
  }

  /**
   * Takes a creation back that was refused. One write takes the name and says what becomes of the
   * timeline; what services have made of it then goes as with any deletion (lifecycle/deleting.ts).
   * One that is complete, or has been taken back before, is left alone.
   */
  async abandon(tenantId: string, timelineId: string): Promise<void> {
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const timeline = await this.#registry.read<TimelineRecord>(
        recordKey.timeline(tenantId, timelineId),
      )
      if (timeline?.value.state !== 'creating') return
      const { key, version, value } = timeline
      // It replaces nothing any more, so that what it was to replace can be changed again at once.
      const { replaces: _, ...rest } = value
      const named = (await this.#registry.branches(tenantId)).find(
        (branch) => branch.timelineId === timelineId,
      )
      const branch = named ? await this.#registry.findBranch(tenantId, named.name) : null
      const changes: Change[] = [
        { key, expectedVersion: version, value: { ...rest, state: 'deleting' } },
      ]
      if (branch?.value.timelineId === timelineId) {
        changes.push({ key: branch.key, expectedVersion: branch.version, value: null })
      }
      if (await this.#registry.swap(changes)) return
    }
    throw new ZenithError('conflict', `The records of timeline ${timelineId} keep changing.`)
  }

  /** Gives active timelines to members that were down when they were made. */
  async fillPending(): Promise<void> {
    for (const timeline of await this.#registry.timelines()) {
      if (timeline.state !== 'active' || timeline.pendingSafekeepers.length === 0) continue
      // Later on its log may begin anywhere, and a copy is made instead (membership/migrations.ts).
      if (timeline.membershipGeneration > 1) continue
      const members = await this.#registry.members(timeline)
      const pending = await this.#makeOnSafekeepers(timeline, members).catch(() => null)
      if (pending === null || pending.length === timeline.pendingSafekeepers.length) continue
      await this.#activate(recordKey.timeline(timeline.tenantId, timeline.timelineId), pending)
    }
  }
}
