/**
 * Imports: a cluster of stock Postgres becomes a new root branch of a tenant.
 *
 *   record 'creating' with its source → pageserver takes the cluster in → and then
 *     from files:    safekeepers make the timeline at its end → 'active'
 *     from a server: the pageserver follows it → 'active' with `follows`, without safekeepers
 *
 * The pageserver's work is asked after now and then; if it forgets (it was restarted) it is told again
 * and begins anew. Of a sharded tenant each shard takes its part in (import-jobs.ts). A failure takes
 * the name back, after what other shards have of it is gone. A branch that follows a server becomes an
 * ordinary one when that ends (following.ts).
 */
import type { FollowInfo, ImportInfo, ImportJob, ImportSource } from '#libs/api/transfer.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { newTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { checkName } from './names.ts'
import { chooseSafekeepers } from './placement.ts'
import { Following, placesOfWal } from './following.ts'
import { runImportJobs } from './import-jobs.ts'
import { onEach, type Place, placesOf, shardAt } from './places.ts'
import { type BranchRecord, recordKey, type TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { importApi, pageserverApi } from './remote.ts'
import type { Timelines } from './timelines.ts'
import { followedSource, slotOf } from './wal-sources.ts'

const MAX_REMEMBERED = 100

type ImportEnd = { state: 'failed' | 'stopped'; error: ImportInfo['error'] }

const NOTHING_DONE = { phase: 'waiting', doneBytes: 0, totalBytes: null } as const

export class Imports {
  readonly #registry: Registry
  readonly #timelines: Timelines
  readonly #following: Following
  readonly #log: Logger
  /** What the pageserver last told, by timeline. */
  readonly #jobs = new Map<string, ImportJob>()
  readonly #running = new Map<string, Promise<void>>()
  /** Those that somebody is giving up at this moment. */
  readonly #givenUp = new Set<string>()
  /** Imports that failed or were given up, by tenant and name, for those who ask after them. */
  readonly #ended = new Map<string, ImportInfo>()

  constructor(options: { registry: Registry; timelines: Timelines; log: Logger }) {
    this.#registry = options.registry
    this.#timelines = options.timelines
    this.#following = new Following(options)
    this.#log = options.log
  }

  /** Throws `already_exists` for a name in use; what is wrong with the source is told by `get`. */
  async start(
    tenantId: string,
    { name, source }: { name: string; source: ImportSource },
  ): Promise<ImportInfo> {
    checkName('branch', name)
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
  following(timeline: TimelineRecord): Promise<FollowInfo | null> {
    return this.#following.info(timeline)
  }

  /** Gives an import up, or ends the following of a server and drops its slots. */
  async stop(tenantId: string, name: string, force: boolean): Promise<ImportInfo> {
    const { timelineId } = await this.#registry.branch(tenantId, name)
    const timeline = await this.#registry.timeline(tenantId, timelineId)
    if (timeline.state === 'creating' && timeline.importing !== undefined) {
      const end: ImportEnd = { state: 'stopped', error: null }
      const marked = await this.#markEnded(timeline, end)
      // Nothing of it is begun any more after this.
      await this.#running.get(timelineId)?.catch(() => undefined)
      await this.#clear(marked, end)
      return this.#ended.get(`${tenantId}/${name}`) as ImportInfo
    }
    if (timeline.follows === undefined) {
      throw new ZenithError('precondition_failed', `Branch "${name}" follows no server.`, {
        hint: 'zenith timeline list shows which branches do.',
      })
    }
    return this.#infoOf(await this.#following.end(timeline, force), null)
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
    const { tenantId, timelineId, importing: source, importState } = timeline
    if (source === undefined) return
    if (importState?.ended !== undefined) return await this.#clear(timeline, importState.ended)
    const key = recordKey.timeline(tenantId, timelineId)
    // Read late: a pageserver that restarted in between has raised the generation.
    const places = await placesOf(this.#registry, tenantId)
    const job = await runImportJobs({
      places,
      ids: { tenantId, timelineId },
      source,
      slot: slotNameOf(timelineId),
      endLsn: importState?.endLsn ?? null,
      agree: async (endLsn) => {
        await this.#registry.change<TimelineRecord>(key, (current) => ({
          ...notEnded(current),
          importState: { ...current.importState, endLsn },
        }))
      },
      onProgress: (progress) => this.#jobs.set(timelineId, progress),
      isOver: () => this.#givenUp.has(timelineId),
    })
    const current = await this.#registry.timeline(tenantId, timelineId).catch(() => null)
    // It may have been given up meanwhile.
    if (current?.state !== 'creating' || current.importState?.ended !== undefined) return
    if (job.state === 'failed') {
      const end: ImportEnd = { state: 'failed', error: job.error }
      await this.#clear(await this.#markEnded(current, end), end)
    } else if (job.state === 'done') await this.#finish(current, source, job, places)
  }

  async #finish(
    timeline: TimelineRecord,
    source: ImportSource,
    job: ImportJob,
    places: readonly Place[],
  ): Promise<void> {
    const { tenantId, timelineId, branch } = timeline
    const key = recordKey.timeline(tenantId, timelineId)
    const { systemId, pgVersion } = job
    if (source.kind === 'postgres' && source.follow) {
      const follows = { server: source.server, slot: slotNameOf(timelineId) }
      await onEach(places, (place) => {
        const wal = followedSource(follows, shardAt(tenantId, place))
        return pageserverApi.setSources(place, { tenantId, timelineId }, [wal])
      })
      await this.#registry.change<TimelineRecord>(key, (current) => ({
        ...withoutSource(notEnded(current)),
        state: 'active',
        startLsn: job.startLsn,
        systemId,
        pgVersion,
        safekeepers: [],
        follows,
      }))
    } else {
      const made = await this.#registry.change<TimelineRecord>(key, (current) => ({
        ...notEnded(current),
        ...placesOfWal(job.startLsn as string, job.endLsn as string),
        systemId,
        pgVersion,
      }))
      await this.#forgetSource(await this.#timelines.completeMade(made))
    }
    this.#log.info({ tenantId, timelineId, branch, kind: source.kind }, 'imported a cluster')
  }

  /** Records that an import ends, so that nobody completes it or begins more of it. */
  async #markEnded(timeline: TimelineRecord, end: ImportEnd): Promise<TimelineRecord> {
    const { tenantId, timelineId, branch } = timeline
    const key = recordKey.timeline(tenantId, timelineId)
    const marked = await this.#registry.change<TimelineRecord>(key, (current) => {
      if (current.state === 'creating' && current.startLsn === null) {
        return { ...current, importState: { ended: end, ...current.importState } }
      }
      throw new ZenithError('conflict', `The import of "${branch}" is just being completed.`, {
        hint: `Delete the branch when it is there: zenith branch delete ${branch}.`,
      })
    })
    this.#givenUp.add(timelineId)
    return marked
  }

  /** Removes what pageservers have of it, takes the name back and remembers how it ended. */
  async #clear(timeline: TimelineRecord, end: ImportEnd): Promise<void> {
    const { tenantId, timelineId, branch } = timeline
    const places = await placesOf(this.#registry, tenantId)
    await onEach(places, (place) => importApi.abort(place, { tenantId, timelineId }))
    // A job that failed has dropped its own.
    if (places.length > 1 || end.state === 'stopped') await this.#dropSlots(timeline, places)
    const info: ImportInfo = { ...this.#infoOf(timeline, null), ...end }
    this.#ended.set(`${tenantId}/${branch}`, info)
    const oldest = this.#ended.keys().next().value
    if (this.#ended.size > MAX_REMEMBERED && oldest !== undefined) this.#ended.delete(oldest)
    await this.#registry.update(recordKey.branch(tenantId, branch), () => null)
    await this.#registry.update(recordKey.timeline(tenantId, timelineId), () => null)
    this.#givenUp.delete(timelineId)
  }

  /** Shards that were done have left theirs for the stream that was to come. */
  async #dropSlots(timeline: TimelineRecord, places: readonly Place[]): Promise<void> {
    const { tenantId, timelineId, importing } = timeline
    if (importing?.kind !== 'postgres') return
    const { server } = importing
    await onEach(places, async (place) => {
      const slot = slotOf(slotNameOf(timelineId), shardAt(tenantId, place))
      await importApi
        .dropSlot(place, { tenantId, timelineId }, { server, slot })
        .catch((error: unknown) => {
          const reason = errorMessage(error)
          this.#log.warn({ tenantId, timelineId, slot, reason }, 'a slot could not be dropped')
        })
    })
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
      error: timeline.importState?.ended?.error ?? null,
      startLsn: historyStartLsn ?? startLsn,
      endLsn: historyStartLsn === undefined ? null : startLsn,
      following,
    }
  }
}

function withoutSource(record: TimelineRecord): TimelineRecord {
  const { importing: _, importState: __, ...rest } = record
  return rest
}

/** Throws `conflict` for an import that has been given up. */
function notEnded(record: TimelineRecord): TimelineRecord {
  if (record.importState?.ended === undefined) return record
  throw new ZenithError('conflict', `The import of "${record.branch}" was given up.`)
}

/** A name that no other import has; slots have lower-case letters, digits and underscores. */
function slotNameOf(timelineId: string): string {
  return `zenith_${timelineId.slice(0, 16)}`
}
