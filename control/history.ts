/** How much history tenants keep, what branches have of it, and what was when. */
import type { BranchHistory, LsnAtTime, TenantHistory, TimeAtLsn } from '#libs/api/history.ts'
import type { HistorySettings } from '#libs/api/pageserver-retention.ts'
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { formatTimestamp, parseTimestamp } from '#libs/pg/timestamp.ts'
import { pageserverHistory } from './pageserver-history.ts'
import { firstPlaceOf } from './places.ts'
import type { BranchRecord, TenantRecord, TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import type { TimeSearch } from './time-search.ts'

/** A week, however much WAL that is. */
const DEFAULT_HISTORY: HistorySettings = { pitrIntervalMs: 7 * 86_400_000, pitrBytes: null }

export function historyOf({ history }: TenantRecord): HistorySettings {
  return history ?? DEFAULT_HISTORY
}

export class History {
  readonly #registry: Registry
  readonly #times: TimeSearch
  readonly #onSet: () => void

  constructor(options: { registry: Registry; times: TimeSearch; onSet: () => void }) {
    this.#registry = options.registry
    this.#times = options.times
    this.#onSet = options.onSet
  }

  async get(tenantId: string): Promise<TenantHistory> {
    const tenant = await this.#registry.tenant(tenantId)
    const branches = await this.#registry.branches(tenantId)
    return {
      tenantId,
      settings: historyOf(tenant),
      branches: await Promise.all(branches.map((branch) => this.#branch(tenantId, branch))),
    }
  }

  /** Durable when this resolves; `onSet` then has pageservers told. */
  async set(
    tenantId: string,
    change: { pitrIntervalMs?: number | undefined; pitrBytes?: number | null | undefined },
  ): Promise<HistorySettings> {
    await this.#registry.tenant(tenantId)
    const tenant = await this.#registry.changeTenant(tenantId, (current) => {
      const before = historyOf(current)
      const history = {
        pitrIntervalMs: change.pitrIntervalMs ?? before.pitrIntervalMs,
        pitrBytes: change.pitrBytes === undefined ? before.pitrBytes : change.pitrBytes,
      }
      return { ...current, history }
    })
    this.#onSet()
    return historyOf(tenant)
  }

  async lsnAt(tenantId: string, name: string, text: string): Promise<LsnAtTime> {
    const timeline = await this.#timeline(tenantId, name)
    const found = await this.#times.search(timeline, parseTimestamp(text))
    const none = { oldestLsn: null, oldestTime: null }
    switch (found.kind) {
      case 'before': {
        const oldestTime = formatTimestamp(found.oldestTimeUs)
        const oldestLsn = formatLsn(found.oldestLsn)
        return { answer: 'past', lsn: oldestLsn, oldestLsn, oldestTime }
      }
      case 'at':
        return { answer: 'present', lsn: formatLsn(found.lsn), ...none }
      case 'after': {
        const { place, params } = await this.#place(timeline)
        const lsn = formatLsn(found.lsn)
        const { timeUs } = await pageserverHistory.commitTime(place, params, lsn)
        return { answer: timeUs === null ? 'nodata' : 'future', lsn, ...none }
      }
    }
  }

  async timeAt(tenantId: string, name: string, text: string): Promise<TimeAtLsn> {
    const timeline = await this.#timeline(tenantId, name)
    const { place, params } = await this.#place(timeline)
    const retained = await pageserverHistory.retained(place, params)
    const oldestLsn = retained.cutoffLsn ?? retained.startLsn
    const lastLsn = retained.lastRecordLsn
    const lsn = parseLsn(text)
    const isPast = lsn < parseLsn(oldestLsn)
    const isFuture = lsn > parseLsn(lastLsn)
    const asked = isPast ? oldestLsn : isFuture ? lastLsn : text
    const { timeUs } = await pageserverHistory.commitTime(place, params, asked)
    const answer = isPast ? 'past' : isFuture ? 'future' : 'present'
    return {
      answer: timeUs === null ? 'nodata' : answer,
      time: timeUs === null ? null : formatTimestamp(timeUs),
      oldestLsn,
      lastLsn,
    }
  }

  async #branch(tenantId: string, branch: BranchRecord): Promise<BranchHistory> {
    const { name, timelineId } = branch
    try {
      const place = await firstPlaceOf(this.#registry, tenantId)
      const retained = await pageserverHistory.retained(place, { tenantId, timelineId })
      const { cutoffLsn, startLsn, points, oldestTimeUs } = retained
      return {
        name,
        timelineId,
        oldestLsn: cutoffLsn ?? startLsn,
        oldestTime: oldestTimeUs === null ? null : formatTimestamp(oldestTimeUs),
        lastRecordLsn: retained.lastRecordLsn,
        historyBytes: retained.historyBytes,
        keptLsns: points.slice(0, -1),
        layerBytes: retained.layerBytes,
      }
    } catch {
      const unknown = { oldestLsn: null, oldestTime: null, lastRecordLsn: null }
      return { name, timelineId, ...unknown, historyBytes: null, keptLsns: null, layerBytes: null }
    }
  }

  async #timeline(tenantId: string, name: string): Promise<TimelineRecord> {
    const branch = await this.#registry.branch(tenantId, name)
    const timeline = await this.#registry.timeline(tenantId, branch.timelineId)
    if (timeline.state === 'active') return timeline
    throw new ZenithError('conflict', `Branch "${name}" is still being created.`, {
      hint: 'Try again in a moment.',
    })
  }

  async #place({ tenantId, timelineId }: TimelineRecord) {
    const place = await firstPlaceOf(this.#registry, tenantId)
    return { place, params: { tenantId, timelineId } }
  }
}

/**
 * Throws `out_of_range`, naming the oldest LSN and its time, for an LSN whose state is gone. When the
 * pageserver does not answer it lets pass: the pageserver decides in the end.
 */
export async function checkKept(
  registry: Registry,
  timeline: TimelineRecord,
  lsn: Lsn,
): Promise<void> {
  const { tenantId, timelineId, branch } = timeline
  const place = await firstPlaceOf(registry, tenantId)
  const retained = await pageserverHistory
    .retained(place, { tenantId, timelineId })
    .catch(() => null)
  if (retained === null || retained.cutoffLsn === null) return
  const { cutoffLsn, oldestTimeUs, leasedLsns } = retained
  if (lsn >= parseLsn(cutoffLsn) || leasedLsns.includes(formatLsn(lsn))) return
  const time = oldestTimeUs === null ? '' : `, of ${formatTimestamp(oldestTimeUs)}`
  throw new ZenithError(
    'out_of_range',
    `The history of branch "${branch}" at ${formatLsn(lsn)} is gone: the oldest LSN that is kept is ${cutoffLsn}${time}.`,
    { hint: 'zenith tenant show tells how much is kept; zenith tenant set --history changes it.' },
  )
}
