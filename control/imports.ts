/**
 * Imports: a cluster of stock Postgres becomes a new root branch of a tenant.
 *
 *   record 'creating' with its source → pageserver takes the cluster in → and then
 *     from files:    safekeepers make the timeline at its end → 'active'
 *     from a server: the pageserver follows it → 'active' with `follows`, without safekeepers
 *
 * The pageserver's work is asked after now and then; if it forgets (it was restarted) it is told again
 * and begins anew. A failure takes the name back. A branch that follows becomes an ordinary one when
 * that ends: safekeepers make its timeline where it stands.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { FollowInfo, ImportInfo, ImportJob, ImportSource } from '#libs/api/transfer.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { newTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { parseLsn } from '#libs/lsn.ts'
import { checkName } from './names.ts'
import { chooseSafekeepers } from './placement.ts'
import { firstPlaceOf, type Place } from './places.ts'
import { type BranchRecord, recordKey, type TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { importApi, pageserverApi } from './remote.ts'
import type { Timelines } from './timelines.ts'
import { followedSource } from './wal-sources.ts'

const POLL_MS = 300
const MAX_REMEMBERED = 100

const NOTHING_DONE = { phase: 'waiting', doneBytes: 0, totalBytes: null } as const

export class Imports {
  readonly #registry: Registry
  readonly #timelines: Timelines
  readonly #log: Logger
  /** What the pageserver last told, by timeline. */
  readonly #jobs = new Map<string, ImportJob>()
  readonly #running = new Map<string, Promise<void>>()
  /** Imports that failed or were given up, by tenant and name, for those who ask after them. */
  readonly #ended = new Map<string, ImportInfo>()

  constructor(options: { registry: Registry; timelines: Timelines; log: Logger }) {
    this.#registry = options.registry
    this.#timelines = options.timelines
    this.#log = options.log
  }

  /** Throws `already_exists` for a name in use; what is wrong with the source is told by `get`. */
  async start(
    tenantId: string,
    { name, source }: { name: string; source: ImportSource },
  ): Promise<ImportInfo> {
    checkName('branch', name)
    const place = await firstPlaceOf(this.#registry, tenantId)
    if (place.shardCount > 1) {
      throw new ZenithError('unsupported', `Tenant ${tenantId} is spread over pageservers.`, {
        hint: 'Import into a tenant of its own: zenith tenant create.',
      })
    }
    const tenant = await this.#registry.tenant(tenantId)
    if (tenant.state === 'deleting') {
      throw new ZenithError('conflict', `Tenant ${tenantId} is being deleted.`)
    }
    const createdAt = new Date().toISOString()
    const timelineId = newTimelineId()
    const timeline: TimelineRecord = {
      tenantId,
      timelineId,
      branch: name,
      state: 'creating',
      ancestorTimelineId: null,
      ancestorLsn: null,
      startLsn: null,
      systemId: null,
      pgVersion: null,
      safekeepers: chooseSafekeepers(tenantId, await this.#registry.nodes('safekeeper')),
      pendingSafekeepers: [],
      membershipGeneration: 1,
      importing: source,
      createdAt,
    }
    const branch: BranchRecord = { name, timelineId, parent: null, branchLsn: null, createdAt }
    const stored = await this.#registry.swap([
      { key: recordKey.branch(tenantId, name), expectedVersion: 0, value: branch },
      { key: recordKey.timeline(tenantId, timelineId), expectedVersion: 0, value: timeline },
    ])
    if (!stored) {
      throw new ZenithError('already_exists', `There is a branch named "${name}" already.`, {
        hint: 'Choose another name; zenith branch shows the names in use.',
      })
    }
    this.#ended.delete(`${tenantId}/${name}`)
    this.#drive(timeline)
    return this.#infoOf(timeline, null)
  }

  async get(tenantId: string, name: string): Promise<ImportInfo> {
    const found = await this.#registry.findBranch(tenantId, name)
    const ended = this.#ended.get(`${tenantId}/${name}`)
    if (found === null && ended !== undefined) return ended
    const branch = found?.value ?? (await this.#registry.branch(tenantId, name))
    const timeline = await this.#registry.timeline(tenantId, branch.timelineId)
    return this.#infoOf(timeline, await this.following(timeline))
  }

  /** How a branch that follows a server stands; null for the others. */
  async following(timeline: TimelineRecord): Promise<FollowInfo | null> {
    const { tenantId, timelineId, follows } = timeline
    if (follows === undefined) return null
    const { server, slot } = follows
    const source = `${server.host}:${server.pgPort}`
    try {
      const place = await firstPlaceOf(this.#registry, tenantId)
      const info = await pageserverApi.timeline(place, { tenantId, timelineId })
      return { source, slot, ...followStateOf(info) }
    } catch (error) {
      const lastError = errorMessage(error)
      return { source, slot, state: 'unknown', sourceLsn: null, lagBytes: null, lastError }
    }
  }

  /** Gives an import up, or ends the following of a server and drops its slot. */
  async stop(tenantId: string, name: string, force: boolean): Promise<ImportInfo> {
    const { timelineId } = await this.#registry.branch(tenantId, name)
    const timeline = await this.#registry.timeline(tenantId, timelineId)
    const place = await firstPlaceOf(this.#registry, tenantId)
    if (timeline.state === 'creating' && timeline.importing !== undefined) {
      await importApi.abort(place, { tenantId, timelineId })
      await this.#forget(timeline, { state: 'stopped', error: null })
      return this.#ended.get(`${tenantId}/${name}`) as ImportInfo
    }
    if (timeline.follows === undefined) {
      throw new ZenithError('precondition_failed', `Branch "${name}" follows no server.`, {
        hint: 'zenith timeline list shows which branches do.',
      })
    }
    const ended = await this.#endFollowing(timeline, place, force)
    return this.#infoOf(ended, null)
  }

  /** Goes on with imports after a restart. */
  async resume(): Promise<void> {
    for (const timeline of await this.#registry.timelines()) {
      if (timeline.importing === undefined) continue
      if (timeline.state === 'creating') this.#drive(timeline)
      else if (!this.#running.has(timeline.timelineId)) await this.#forgetSource(timeline)
    }
  }

  #drive(timeline: TimelineRecord): void {
    const { tenantId, timelineId, branch } = timeline
    if (this.#running.has(timelineId)) return
    const running = this.#run(timeline)
      .catch((error: unknown) => {
        const reason = errorMessage(error)
        this.#log.warn({ tenantId, timelineId, branch, reason }, 'an import must wait')
      })
      .finally(() => {
        this.#running.delete(timelineId)
        this.#jobs.delete(timelineId)
      })
    this.#running.set(timelineId, running)
  }

  async #run(timeline: TimelineRecord): Promise<void> {
    const { tenantId, timelineId, importing: source } = timeline
    if (source === undefined) return
    const place = await firstPlaceOf(this.#registry, tenantId)
    const ids = { tenantId, timelineId }
    let job = await importApi.start(place, ids, { source, slot: slotOf(timelineId) })
    while (job.state === 'running') {
      this.#jobs.set(timelineId, job)
      await sleep(POLL_MS)
      job = await importApi.get(place, ids)
    }
    const current = await this.#registry.timeline(tenantId, timelineId).catch(() => null)
    // It may have been given up meanwhile.
    if (current?.state !== 'creating') return
    if (job.state === 'failed') await this.#forget(current, { state: 'failed', error: job.error })
    else await this.#finish(current, source, job, place)
  }

  async #finish(
    timeline: TimelineRecord,
    source: ImportSource,
    job: ImportJob,
    place: Place,
  ): Promise<void> {
    const { tenantId, timelineId, branch } = timeline
    const key = recordKey.timeline(tenantId, timelineId)
    const { systemId, pgVersion } = job
    if (source.kind === 'postgres' && source.follow) {
      const follows = { server: source.server, slot: slotOf(timelineId) }
      await pageserverApi.setSources(place, { tenantId, timelineId }, [followedSource(follows)])
      await this.#registry.change<TimelineRecord>(key, (current) => ({
        ...withoutSource(current),
        state: 'active',
        startLsn: job.startLsn,
        systemId,
        pgVersion,
        safekeepers: [],
        follows,
      }))
    } else {
      const made = await this.#registry.change<TimelineRecord>(key, (current) => ({
        ...current,
        ...placesOfWal(job.startLsn as string, job.endLsn as string),
        systemId,
        pgVersion,
      }))
      await this.#forgetSource(await this.#timelines.completeMade(made))
    }
    this.#log.info({ tenantId, timelineId, branch, kind: source.kind }, 'imported a cluster')
  }

  /**
   * The branch becomes an ordinary one: its WAL in safekeepers begins where it stands. The slot goes
   * first of what cannot be undone, so that a server that does not answer leaves all as it was.
   */
  async #endFollowing(
    timeline: TimelineRecord,
    place: Place,
    force: boolean,
  ): Promise<TimelineRecord> {
    const { tenantId, timelineId, follows, branch } = timeline
    if (follows === undefined) return timeline
    const ids = { tenantId, timelineId }
    await pageserverApi.setSources(place, ids, [])
    try {
      await importApi.dropSlot(place, ids, follows)
    } catch (error) {
      if (!force) {
        await pageserverApi.setSources(place, ids, [followedSource(follows)])
        throw new ZenithError(
          'unavailable',
          `The slot ${follows.slot} could not be dropped: ${errorMessage(error)}`,
          {
            hint: `The branch still follows. "zenith import stop ${branch} --force" ends that; drop the slot yourself if the server comes back.`,
          },
        )
      }
    }
    const { endLsn } = await importApi.finish(place, ids)
    const safekeepers = chooseSafekeepers(tenantId, await this.#registry.nodes('safekeeper'))
    const key = recordKey.timeline(tenantId, timelineId)
    const made = await this.#registry.change<TimelineRecord>(key, (current) => ({
      ...withoutFollows(current),
      ...placesOfWal(current.historyStartLsn ?? (current.startLsn as string), endLsn),
      safekeepers,
      pendingSafekeepers: safekeepers,
    }))
    this.#log.info({ tenantId, timelineId, branch }, 'a branch follows its server no more')
    return await this.#timelines.completeMade(made)
  }

  /** Takes the name back and remembers how it ended. */
  async #forget(
    timeline: TimelineRecord,
    end: { state: 'failed' | 'stopped'; error: ImportInfo['error'] },
  ): Promise<void> {
    const { tenantId, timelineId, branch } = timeline
    const info: ImportInfo = { ...this.#infoOf(timeline, null), ...end }
    this.#ended.set(`${tenantId}/${branch}`, info)
    const oldest = this.#ended.keys().next().value
    if (this.#ended.size > MAX_REMEMBERED && oldest !== undefined) this.#ended.delete(oldest)
    await this.#registry.update(recordKey.branch(tenantId, branch), () => null)
    await this.#registry.update(recordKey.timeline(tenantId, timelineId), () => null)
  }

  async #forgetSource({ tenantId, timelineId }: TimelineRecord): Promise<void> {
    const key = recordKey.timeline(tenantId, timelineId)
    await this.#registry.change<TimelineRecord>(key, withoutSource)
  }

  #infoOf(timeline: TimelineRecord, following: FollowInfo | null): ImportInfo {
    const { timelineId, branch: name, state, follows, startLsn, historyStartLsn } = timeline
    const { phase, doneBytes, totalBytes } = this.#jobs.get(timelineId) ?? NOTHING_DONE
    return {
      name,
      timelineId,
      state: state === 'creating' ? 'running' : follows === undefined ? 'done' : 'following',
      phase,
      doneBytes,
      totalBytes,
      error: null,
      startLsn: historyStartLsn ?? startLsn,
      endLsn: historyStartLsn === undefined ? null : startLsn,
      following,
    }
  }
}

/** WAL of the branch's own, in safekeepers, begins at its end; it can be read from `first` on. */
function placesOfWal(first: string, end: string): { startLsn: string; historyStartLsn?: string } {
  return first === end ? { startLsn: end } : { startLsn: end, historyStartLsn: first }
}

function withoutSource(record: TimelineRecord): TimelineRecord {
  const { importing: _, ...rest } = record
  return rest
}

function withoutFollows(record: TimelineRecord): TimelineRecord {
  const { follows: _, ...rest } = record
  return rest
}

/** A name that no other import has; slots have lower-case letters, digits and underscores. */
function slotOf(timelineId: string): string {
  return `zenith_${timelineId.slice(0, 16)}`
}

function followStateOf(info: Awaited<ReturnType<typeof pageserverApi.timeline>>) {
  const { walReceiver, lastRecordLsn } = info
  const sourceLsn = walReceiver?.commitLsn ?? null
  return {
    state: walReceiver?.state ?? 'stopped',
    sourceLsn,
    lagBytes:
      sourceLsn === null ? null : Math.max(0, parseLsn(sourceLsn) - parseLsn(lastRecordLsn)),
    lastError: walReceiver?.lastError ?? null,
  }
}
