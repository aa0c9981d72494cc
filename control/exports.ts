/** Exports: which LSN of which timeline is meant, and which pageserver gives its data folder. */
import type { ExportPlace } from '#libs/api/transfer.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { firstPlaceOf } from './places.ts'
import type { TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { pageserverApi } from './remote.ts'
import { TimeSearch } from './time-search.ts'
import type { TipFinder } from './tip.ts'

export interface ExportRequest {
  lsn?: string | undefined
  at?: string | undefined
}

export class Exports {
  readonly #registry: Registry
  readonly #tips: TipFinder
  readonly #times: TimeSearch

  constructor(options: { registry: Registry; tips: TipFinder; log: Logger }) {
    this.#registry = options.registry
    this.#tips = options.tips
    this.#times = new TimeSearch(options)
  }

  /**
   * Throws `not_found` for an unknown branch, `out_of_range` for an LSN or moment that it does not
   * have, `unsupported` for a tenant that is spread over pageservers.
   */
  async place(tenantId: string, name: string, request: ExportRequest): Promise<ExportPlace> {
    const branch = await this.#registry.branch(tenantId, name)
    const timeline = await this.#registry.timeline(tenantId, branch.timelineId)
    if (timeline.state !== 'active') {
      throw new ZenithError('conflict', `Branch "${name}" is still being created.`, {
        hint: 'Try again in a moment.',
      })
    }
    const place = await firstPlaceOf(this.#registry, tenantId)
    if (place.shardCount > 1) {
      throw new ZenithError('unsupported', `Tenant ${tenantId} is spread over pageservers.`, {
        hint: 'Such a tenant cannot be exported yet; use pg_dump on one of its branches.',
      })
    }
    const lsn = formatLsn(await this.#lsn(timeline, request))
    const { timelineId } = timeline
    const params = { tenantId, timelineId }
    // The end may have been committed and not taken in yet.
    await pageserverApi.waitLsn(place, params, lsn)
    const sizeBytes = await pageserverApi.logicalSize(place, params)
    const { host, pgPort } = place
    return { tenantId, timelineId, branch: name, lsn, host, pgPort, sizeBytes }
  }

  #lsn(timeline: TimelineRecord, { lsn, at }: ExportRequest): Promise<Lsn> {
    if (at !== undefined) return this.#times.find(timeline, at)
    return lsn === undefined ? this.#tips.find(timeline) : this.#tips.place(timeline, parseLsn(lsn))
  }
}
