/**
 * Branches that follow a stock server: how they stand, and how that ends. Each shard of the tenant
 * follows by itself, with a slot of its own. In the end all must stand at one LSN:
 *
 *   streams end → shards that are behind take in the rest → all flush → slots go → WAL is the branch's
 *   own, and safekeepers make the timeline there
 *
 * Slots go first of what cannot be undone, so that a server that does not answer leaves all as it was.
 * Without them nobody can have gone on meanwhile, as a pageserver does that is just started again.
 */
import type { PageserverTimeline } from '#libs/api/pageserver.ts'
import type { FollowInfo } from '#libs/api/transfer.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { chooseSafekeepers } from './placement.ts'
import { onEach, type Place, placesOf, servingPlacesIn, shardAt } from './places.ts'
import { recordKey, type TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { importApi, pageserverApi } from './remote.ts'
import type { Timelines } from './timelines.ts'
import { followedSource, slotOf } from './wal-sources.ts'

type Follows = NonNullable<TimelineRecord['follows']>

export class Following {
  readonly #registry: Registry
  readonly #timelines: Timelines
  readonly #log: Logger

  constructor(options: { registry: Registry; timelines: Timelines; log: Logger }) {
    this.#registry = options.registry
    this.#timelines = options.timelines
    this.#log = options.log
  }

  /** How a branch stands; null for one that follows nobody. Of shards the one that is furthest behind. */
  async info(timeline: TimelineRecord): Promise<FollowInfo | null> {
    const { tenantId, timelineId, follows } = timeline
    if (follows === undefined) return null
    const { server, slot } = follows
    const source = `${server.host}:${server.pgPort}`
    try {
      const places = await servingPlacesIn(this.#registry, await this.#registry.tenant(tenantId))
      const slots = places.map((place) => slotOf(slot, shardAt(tenantId, place))).join(', ')
      const infos = await onEach(places, (place) =>
        pageserverApi.timeline(place, { tenantId, timelineId }),
      )
      return { source, slot: slots, ...followStateOf(infos) }
    } catch (error) {
      const lastError = errorMessage(error)
      return { source, slot, state: 'unknown', sourceLsn: null, lagBytes: null, lastError }
    }
  }

  /** The branch becomes an ordinary one: its WAL in safekeepers begins where it stands. */
  async end(timeline: TimelineRecord, force: boolean): Promise<TimelineRecord> {
    const { tenantId, timelineId, follows, branch } = timeline
    if (follows === undefined) return timeline
    const ids = { tenantId, timelineId }
    const places = await placesOf(this.#registry, tenantId)
    let endLsn: Lsn
    try {
      endLsn = await this.#level(timeline, follows, places)
      await onEach(places, (place) => importApi.finish(place, ids))
      await this.#dropSlots(timeline, follows, places, force)
      await onEach(places, async (place) => {
        const { lastRecordLsn } = await pageserverApi.timeline(place, ids)
        if (parseLsn(lastRecordLsn) === endLsn) return
        throw new ZenithError(
          'unavailable',
          `A pageserver of "${branch}" was restarted just now.`,
          {
            hint: `Try again: zenith import stop ${branch}`,
          },
        )
      })
    } catch (error) {
      if (force && error instanceof NotLevel) await this.#lose(timeline, follows, places)
      else await this.#goOn(timeline, follows, places)
      throw error
    }
    const safekeepers = chooseSafekeepers(tenantId, await this.#registry.nodes('safekeeper'))
    const key = recordKey.timeline(tenantId, timelineId)
    const made = await this.#registry.change<TimelineRecord>(key, (current) => ({
      ...withoutFollows(current),
      ...placesOfWal(current.historyStartLsn ?? (current.startLsn as string), formatLsn(endLsn)),
      safekeepers,
      pendingSafekeepers: safekeepers,
    }))
    this.#log.info({ tenantId, timelineId, branch }, 'a branch follows its server no more')
    return await this.#timelines.completeMade(made)
  }

  /** The streams begin again. */
  async #goOn(
    { tenantId, timelineId }: TimelineRecord,
    follows: Follows,
    places: readonly Place[],
  ): Promise<void> {
    await onEach(places, (place) => {
      const source = followedSource(follows, shardAt(tenantId, place))
      return pageserverApi.setSources(place, { tenantId, timelineId }, [source])
    })
  }

  /** Nothing more comes: the branch stays as it is, to be branched from and deleted. */
  async #lose(timeline: TimelineRecord, follows: Follows, places: readonly Place[]): Promise<void> {
    const { tenantId, timelineId } = timeline
    await this.#registry.change<TimelineRecord>(
      recordKey.timeline(tenantId, timelineId),
      (current) => ({ ...current, follows: { ...follows, lost: true } }),
    )
    await this.#dropSlots(timeline, follows, places, true)
  }

  /** Ends the streams, and brings all shards to where the furthest is; returns that LSN. */
  async #level(
    { tenantId, timelineId, branch }: TimelineRecord,
    { server }: Follows,
    places: readonly Place[],
  ): Promise<Lsn> {
    const ids = { tenantId, timelineId }
    const stopped = await onEach(places, (place) => importApi.catchUp(place, ids, { server }))
    const lsns = stopped.map(({ endLsn }) => parseLsn(endLsn))
    const endLsn = Math.max(...lsns)
    const behind = places.filter((_, index) => (lsns[index] as Lsn) < endLsn)
    try {
      await onEach(behind, (place) =>
        importApi.catchUp(place, ids, { server, endLsn: formatLsn(endLsn) }),
      )
    } catch (error) {
      throw new NotLevel(branch, Math.min(...lsns), error)
    }
    return endLsn
  }

  async #dropSlots(
    { tenantId, timelineId, branch }: TimelineRecord,
    { server, slot }: Follows,
    places: readonly Place[],
    force: boolean,
  ): Promise<void> {
    for (const place of places) {
      const name = slotOf(slot, shardAt(tenantId, place))
      try {
        await importApi.dropSlot(place, { tenantId, timelineId }, { server, slot: name })
      } catch (error) {
        if (force) continue
        throw new ZenithError(
          'unavailable',
          `The slot ${name} could not be dropped: ${errorMessage(error)}`,
          {
            hint: `The branch still follows. "zenith import stop ${branch} --force" ends that; drop the slot yourself if the server comes back.`,
          },
        )
      }
    }
  }
}

/** WAL of the branch's own, in safekeepers, begins at its end; it can be read from `first` on. */
export function placesOfWal(
  first: string,
  end: string,
): { startLsn: string; historyStartLsn?: string } {
  return first === end ? { startLsn: end } : { startLsn: end, historyStartLsn: first }
}

/** Shards stand at different LSNs, and what some lack is not to be had. */
class NotLevel extends ZenithError {
  constructor(branch: string, commonLsn: Lsn, cause: unknown) {
    const onward = `zenith branch <name> ${branch}@${formatLsn(commonLsn)}`
    super(
      'unavailable',
      `The shards of "${branch}" stand at different LSNs, and the rest of the WAL is not to be had: ${errorMessage(cause)}`,
      {
        cause,
        hint: `Try again when the server answers. If it never will: "zenith import stop ${branch} --force" waits for it no more, and what all shards have goes on as a branch: ${onward}`,
      },
    )
  }
}

function withoutFollows(record: TimelineRecord): TimelineRecord {
  const { follows: _, ...rest } = record
  return rest
}

function followStateOf(infos: readonly PageserverTimeline[]) {
  const receivers = infos.map(({ walReceiver }) => walReceiver)
  const sent = receivers.flatMap((one) => one?.commitLsn ?? [])
  const sourceLsn = sent.length === 0 ? null : Math.max(...sent.map(parseLsn))
  const lastLsn = Math.min(...infos.map(({ lastRecordLsn }) => parseLsn(lastRecordLsn)))
  const states = receivers.map((one) => one?.state ?? 'stopped')
  return {
    state: states.find((state) => state !== 'streaming') ?? 'streaming',
    sourceLsn: sourceLsn === null ? null : formatLsn(sourceLsn),
    lagBytes: sourceLsn === null ? null : Math.max(0, sourceLsn - lastLsn),
    lastError: receivers.find((one) => one?.lastError)?.lastError ?? null,
  }
}
