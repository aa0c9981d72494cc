/**
 * Splits of tenants: begun by requests, driven in the background, taken up again from the records
 * after a restart. One run per tenant.
 */
import type { SplitInfo } from '#libs/api/split.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { onEach, placesOf } from '../places.ts'
import type { TenantRecord } from '../records.ts'
import type { Registry } from '../registry.ts'
import { pageserverApi } from '../remote.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { beginSplit, type SplitRequest } from './split-changes.ts'
import { SplitRun } from './split-run.ts'
import type { Spreads } from './spreads.ts'

export class Splits {
  readonly #registry: Registry
  readonly #spreads: Pick<Spreads, 'resume' | 'problem'>
  readonly #log: Logger
  readonly #runs = new Map<string, SplitRun>()
  #stopped = false

  constructor(options: {
    registry: Registry
    spreads: Pick<Spreads, 'resume' | 'problem'>
    log: Logger
  }) {
    this.#registry = options.registry
    this.#spreads = options.spreads
    this.#log = options.log
  }

  async get(tenantId: string): Promise<SplitInfo> {
    return this.#info(await this.#registry.tenant(tenantId))
  }

  /**
   * Begins a split and answers at once; one into as many shards that is under way is joined. Throws
   * `conflict` while a timeline is being made, and what `beginSplit` throws.
   */
  async begin(tenantId: string, request: SplitRequest): Promise<SplitInfo> {
    const before = await this.#registry.tenant(tenantId)
    // Refused before anything is asked.
    if (beginSplit(before, request, new Date()) !== before && before.split === undefined) {
      await this.#checkTimelines(tenantId)
      await this.#checkHealth(tenantId)
    }
    const tenant = await this.#registry.changeTenant(tenantId, (current) =>
      beginSplit(current, request, new Date()),
    )
    if (tenant.split !== undefined) this.#drive(tenantId)
    else if (tenant.spread !== undefined) await this.#spreads.resume()
    return this.#info(tenant)
  }

  /** Takes up what an earlier life left. */
  async resume(): Promise<void> {
    for (const { tenantId, split } of await this.#registry.tenants()) {
      if (split !== undefined) this.#drive(tenantId)
    }
  }

  stop(): void {
    this.#stopped = true
    for (const run of this.#runs.values()) run.stop()
  }

  #drive(tenantId: string): void {
    if (this.#runs.has(tenantId) || this.#stopped) return
    const run = new SplitRun({ tenantId, registry: this.#registry, log: this.#log })
    this.#runs.set(tenantId, run)
    run
      .run()
      .catch((error: unknown) =>
        this.#log.error({ err: error, tenantId }, 'a split broke off; it is taken up again'),
      )
      .finally(() => this.#runs.delete(tenantId))
      // One that fails is taken up by the next look at what is unfinished.
      .then(() => this.#spreads.resume())
      .catch(() => undefined)
  }

  /** One that is half made, or whose WAL comes from elsewhere, is not handed over. */
  async #checkTimelines(tenantId: string): Promise<void> {
    for (const timeline of await this.#registry.timelines(tenantId)) {
      const { branch, state, importing, follows } = timeline
      if (follows !== undefined) {
        // Each shard has a slot of its own there, which a child could not take over.
        throw new ZenithError('conflict', `Branch "${branch}" follows a stock server.`, {
          hint: `Split the tenant when it follows no more: zenith import stop ${branch}.`,
        })
      }
      if (state !== 'creating' && importing === undefined) continue
      throw new ZenithError('conflict', `Branch "${branch}" is still being made or imported.`, {
        hint: 'Split the tenant when that has ended.',
      })
    }
  }

  /** What a timeline has whose manifest cannot be read nobody could hand over. */
  async #checkHealth(tenantId: string): Promise<void> {
    const places = await placesOf(this.#registry, tenantId)
    const infos = await onEach(places, (place) =>
      pageserverApi.getLocation(place, tenantShardId(tenantId, place.shard, place.shardCount)),
    )
    const [broken] = infos.flatMap((info) => info.broken)
    if (broken === undefined) return
    throw new ZenithError('conflict', `Timeline ${broken} cannot be opened.`, {
      hint: 'The log of its pageserver says why. Mend it or delete its branch first.',
    })
  }

  #info(tenant: TenantRecord): SplitInfo {
    const { tenantId, shardCount, stripeBlocks, split, spread, formerCounts = [] } = tenant
    return {
      tenantId,
      shardCount,
      stripeBlocks,
      split:
        split === undefined
          ? null
          : {
              phase: split.phase,
              shards: split.shardCount,
              lost: split.lost,
              problem: this.#runs.get(tenantId)?.problem ?? null,
            },
      spread: spread === undefined ? null : { problem: this.#spreads.problem(tenantId) },
      formerCounts,
    }
  }
}
