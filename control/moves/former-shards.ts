/**
 * Takes away what is left of shards that were split. Their children refer to their layers, fewer and
 * fewer with time, and never to one that they did not refer to before. So an object that no shard of
 * now refers to, by the word of the newest holder of each, is of use to nobody any more, whoever
 * holds the shards next.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from '#libs/log.ts'
import { errorMessage } from '#libs/errors.ts'
import { parseTenantId } from '#libs/ids.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { onEach, type Place, placesOf } from '../places.ts'
import type { TenantRecord } from '../records.ts'
import type { Registry } from '../registry.ts'
import { pageserverApi } from '../remote.ts'

/** Between two looks at a tenant of which something was left; longer each time. */
const FIRST_REST_MS = 5_000
const LAST_REST_MS = 600_000
const GRACE_MS = 2_000

export class FormerShards {
  readonly #registry: Registry
  readonly #log: Logger
  readonly #running = new Set<string>()
  /** By tenant: not before then, and how long the rest was. */
  readonly #rests = new Map<string, { untilMs: number; restMs: number }>()

  constructor({ registry, log }: { registry: Registry; log: Logger }) {
    this.#registry = registry
    this.#log = log
  }

  /** Looks at all tenants that have former shards, each once in a while, in the background. */
  async resume(nowMs = Date.now()): Promise<void> {
    for (const { tenantId, formerCounts, split, state } of await this.#registry.tenants()) {
      if (formerCounts === undefined || split !== undefined) {
        this.#rests.delete(tenantId)
        continue
      }
      const last = this.#rests.get(tenantId)
      // The deletion of a tenant sees to it by itself.
      if (state === 'deleting' || (last !== undefined && last.untilMs > nowMs)) continue
      const restMs = Math.min(2 * (last?.restMs ?? FIRST_REST_MS / 2), LAST_REST_MS)
      this.#rests.set(tenantId, { untilMs: nowMs + restMs, restMs })
      this.#begin(tenantId)
    }
  }

  #begin(tenantId: string): void {
    if (this.#running.has(tenantId)) return
    this.#running.add(tenantId)
    this.sweep(tenantId)
      .catch((error: unknown) => {
        const reason = errorMessage(error)
        this.#log.warn({ tenantId, reason }, 'objects of former shards must wait')
      })
      .finally(() => this.#running.delete(tenantId))
  }

  /** Returns how many of their objects are left; null when something came between. */
  async sweep(tenantId: string): Promise<number | null> {
    const places = await placesOf(this.#registry, tenantId)
    const before = await this.#registry.findTenant(tenantId)
    if (!before || before.value.split !== undefined || !isWhere(before.value, places)) return null
    const answers = await onEach(places, (place) => pageserverApi.borrowed(place, tenantId))
    const isNewest = answers.every(({ generation }, at) => generation === places[at]?.generation)
    // Each of them was the newest holder when it spoke.
    const after = await this.#registry.findTenant(tenantId)
    if (!isNewest || after?.version !== before.version) return null
    // Reads that were planned just before may be about to open what is not referred to any more.
    if (before.value.state !== 'deleting') await sleep(GRACE_MS)
    const kept = answers.flatMap(({ objects }) => objects)
    let left = 0
    const gone: number[] = []
    for (const count of before.value.formerCounts ?? []) {
      const leftOfCount = await this.#sweepCount(tenantId, count, kept, places)
      if (leftOfCount === 0) gone.push(count)
      left += leftOfCount
    }
    if (gone.length > 0) await this.#forget(tenantId, gone)
    return left
  }

  async #sweepCount(
    tenantId: string,
    count: number,
    kept: readonly string[],
    [first]: readonly Place[],
  ): Promise<number> {
    let left = 0
    for (let shard = 0; shard < Math.max(count, 1); shard++) {
      const former = tenantShardId(parseTenantId(tenantId), shard, count)
      const keep = kept.filter((name) => name.startsWith(`tenants/${former}/`))
      left += (await pageserverApi.sweepFormer(first as Place, tenantId, { former, keep })).left
    }
    return left
  }

  async #forget(tenantId: string, gone: readonly number[]): Promise<void> {
    this.#log.info({ tenantId, gone }, 'nothing is left of former shards')
    await this.#registry.changeTenant(tenantId, ({ formerCounts = [], ...tenant }) => {
      const rest = formerCounts.filter((count) => !gone.includes(count))
      return rest.length === 0 ? tenant : { ...tenant, formerCounts: rest }
    })
  }
}

function isWhere({ placements }: TenantRecord, places: readonly Place[]): boolean {
  return (
    placements.length === places.length &&
    placements.every(
      ({ pageserverId, generation, move }, at) =>
        move === undefined &&
        places[at]?.id === pageserverId &&
        places[at]?.generation === generation,
    )
  )
}
