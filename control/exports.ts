/** Exports: which LSN of which timeline is meant, and which pageserver gives its data folder. */
import type { ExportPlace } from '#libs/api/transfer.ts'
import { assert, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { onEach, servingPlacesIn } from './places.ts'
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
   * Throws `not_found` for an unknown branch, `out_of_range` for an LSN or moment that it does
   * not have.
   */
  async place(tenantId: string, name: string, request: ExportRequest): Promise<ExportPlace> {
    const branch = await this.#registry.branch(tenantId, name)
    const timeline = await this.#registry.timeline(tenantId, branch.timelineId)
    if (timeline.state !== 'active') {
      throw new ZenithError('conflict', `Branch "${name}" is still being created.`, {
        hint: 'Try again in a moment.',
      })
    }
    const places = await servingPlacesIn(this.#registry, await this.#registry.tenant(tenantId))
    const [first] = places
    assert(first !== undefined, 'a tenant has a placement')
    const lsn = formatLsn(await this.#lsn(timeline, request))
    const { timelineId } = timeline
    const params = { tenantId, timelineId }
    // The end may have been committed and not taken in yet.
    await onEach(places, (place) => pageserverApi.waitLsn(place, params, lsn))
    const sizeBytes = await pageserverApi.logicalSize(first, params)
    const { host, pgPort, shardCount } = first
    const place = { tenantId, timelineId, branch: name, lsn, host, pgPort, sizeBytes }
    if (shardCount < 2) return place
    const shards = places.map((one) => ({ host: one.host, pgPort: one.pgPort }))
    return { ...place, shards }
  }

  #lsn(timeline: TimelineRecord, { lsn, at }: ExportRequest): Promise<Lsn> {
    if (at !== undefined) return this.#times.find(timeline, at)
    return lsn === undefined ? this.#tips.find(timeline) : this.#tips.place(timeline, parseLsn(lsn))
  }
}
