/** Finds the end of a timeline: asks its compute and its safekeepers, and syncs them when it must. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { type Lsn, parseLsn } from '#libs/lsn.ts'
import {
  alignBranchLsn,
  checkBranchLsn,
  type ComputeFact,
  decideTip,
  type SafekeeperFact,
  type TipFacts,
} from './branch-point.ts'
import { isActive, modeOf } from './endpoint-state.ts'
import { onEach, servingPlacesIn } from './places.ts'
import type { EndpointRecord, TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { computeApi, pageserverApi, safekeeperApi } from './remote.ts'
import { type SyncContext, syncSafekeepers } from './safekeeper-sync.ts'

/** How long a compute that is just starting may hold up a branch. */
const WAIT_MS = 30_000
/** How long one that follows a stock server may lag. */
const FOLLOWED_WAIT_MS = 2_000

export class TipFinder {
  readonly #registry: Registry
  readonly #log: Logger
  readonly #context: SyncContext

  constructor(context: SyncContext) {
    this.#context = context
    this.#registry = context.registry
    this.#log = context.log
  }

  /**
   * An LSN that every acknowledged commit of the timeline is below, and that is itself committed.
   * With `enough`, any committed LSN at or above it will do. Throws `unavailable` with the reason
   * when it cannot be found in 30 s.
   */
  async find(timeline: TimelineRecord, enough = Number.POSITIVE_INFINITY): Promise<Lsn> {
    if (timeline.follows !== undefined) return await this.#followedTip(timeline)
    const members = await this.#registry.members(timeline)
    const deadline = Date.now() + WAIT_MS
    for (let pauseMs = 5; ; pauseMs = Math.min(2 * pauseMs, 250)) {
      const facts = await this.#facts(timeline, members)
      const committed = Math.max(0, ...facts.safekeepers.map(({ commitLsn }) => commitLsn))
      if (committed >= enough) return committed
      const decision = decideTip(facts)
      if (decision.kind === 'at') return decision.lsn
      if (Date.now() > deadline) {
        const reason = decision.kind === 'wait' ? decision.reason : 'its safekeepers disagree'
        throw new ZenithError(
          'unavailable',
          `The end of branch "${timeline.branch}" cannot be found: ${reason}.`,
          { hint: 'zenith status shows which service is down.' },
        )
      }
      if (decision.kind === 'sync') {
        const { timelineId } = timeline
        this.#log.info({ timelineId }, 'the last compute left a tail in doubt: syncing safekeepers')
        await syncSafekeepers(this.#context, timeline)
      } else await sleep(pauseMs)
    }
  }

  /**
   * The place in the timeline's history that `asked` means: rounded down to where a record may
   * start, and committed. Throws `out_of_range`, naming the range, when the timeline has none.
   */
  async place(timeline: TimelineRecord, asked: Lsn): Promise<Lsn> {
    const startLsn = parseLsn(timeline.historyStartLsn ?? (timeline.startLsn as string))
    const lsn = asked >= startLsn ? Math.max(startLsn, alignBranchLsn(asked)) : asked
    const tipLsn = await this.find(timeline, lsn)
    checkBranchLsn({ parent: timeline.branch, lsn, startLsn, tipLsn })
    return lsn
  }

  /** What the stock server has sent so far, all of it taken in. */
  async #followedTip({ tenantId, timelineId }: TimelineRecord): Promise<Lsn> {
    const ids = { tenantId, timelineId }
    const places = await servingPlacesIn(this.#registry, await this.#registry.tenant(tenantId))
    // All shards have what the slowest has.
    const tips = await onEach(places, async (place) => {
      const { lastRecordLsn, walReceiver } = await pageserverApi.timeline(place, ids)
      const sentLsn = walReceiver?.commitLsn ?? lastRecordLsn
      if (parseLsn(sentLsn) <= parseLsn(lastRecordLsn)) return parseLsn(lastRecordLsn)
      // The newest record may not be whole; then what there is will do.
      await pageserverApi.waitLsn(place, ids, sentLsn, FOLLOWED_WAIT_MS).catch(() => undefined)
      return parseLsn((await pageserverApi.timeline(place, ids)).lastRecordLsn)
    })
    return Math.min(...tips)
  }

  async #facts(timeline: TimelineRecord, members: NodeInfo[]): Promise<TipFacts> {
    const { tenantId, timelineId } = timeline
    const writer = (await this.#registry.endpoints(tenantId)).find(
      (endpoint) =>
        endpoint.timelineId === timelineId &&
        modeOf(endpoint) === 'primary' &&
        isActive(endpoint.status),
    )
    const [compute, ...safekeepers] = await Promise.all([
      writer ? computeFact(writer) : null,
      ...members.map((node) => safekeeperFact(node, { tenantId, timelineId })),
    ])
    return {
      compute,
      safekeepers: safekeepers.filter((fact) => fact !== null),
      memberCount: members.length,
    }
  }
}

async function computeFact(endpoint: EndpointRecord): Promise<ComputeFact> {
  const nothing = { term: null, commitLsn: null }
  // Told to start, has not reported yet: it may be anywhere before its election.
  if (endpoint.httpPort === null) return { kind: 'answered', ...nothing }
  try {
    const status = await computeApi.status(endpoint.host, endpoint.httpPort)
    if (status.timelineId !== endpoint.timelineId) return { kind: 'gone', ...nothing }
    const commitLsn = status.commitLsn === null ? null : parseLsn(status.commitLsn)
    return { kind: 'answered', term: status.term, commitLsn }
  } catch (error) {
    const gone = error instanceof ZenithError && error.code === 'unavailable'
    return { kind: gone ? 'gone' : 'silent', ...nothing }
  }
}

async function safekeeperFact(
  node: NodeInfo,
  timeline: { tenantId: string; timelineId: string },
): Promise<SafekeeperFact | null> {
  try {
    const { term, flushLsn, commitLsn } = await safekeeperApi.timeline(node, timeline)
    return { id: node.id, term, flushLsn: parseLsn(flushLsn), commitLsn: parseLsn(commitLsn) }
  } catch {
    return null
  }
}
