/**
 * Deletion of a tenant with all that is its own. Each step can be repeated, and the intent is stored
 * before the first of them, so whoever finds it goes on:
 *
 *   tenant 'deleting' → timelines 'deleting' → computes and names → pageservers → safekeepers
 *   → records of timelines → what former shards have left → storage is empty
 *   → record becomes one of a deleted tenant → pageservers let go of local files
 *
 * The record stays until object storage is empty: pageservers delete objects only under a generation
 * that the control plane vouches for. What is kept for good says that the id was used.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { TenantDeletionInfo } from '#libs/api/lifecycle.ts'
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { parseTenantId } from '#libs/ids.ts'
import { tenantShardId } from '#libs/sharding.ts'
import type { Endpoints } from '../endpoints.ts'
import type { FormerShards } from '../moves/former-shards.ts'
import { onEach, servingPlacesIn } from '../places.ts'
import {
  type DeletedTenantRecord,
  recordKey,
  type TenantRecord,
  type TimelineRecord,
} from '../records.ts'
import { addressOf, type Registry } from '../registry.ts'
import { importApi, pageserverApi } from '../remote.ts'
import type { Timelines } from '../timelines.ts'
import { resumeEach } from '../unfinished.ts'
import { deleteFromSafekeepers, removeEndpoints, removeName } from './deleting.ts'
import { onHolders } from './on-holders.ts'
import {
  checkDeleteTenant,
  checkNotSplit,
  runningOf,
  type TenantContents,
  type TenantDeleteOptions,
} from './tenant-rules.ts'

const POLL_MS = 250
/** Objects leave by a queue that retries for itself; after so long the resumer looks again. */
const PATIENCE_MS = 60_000

export interface TenantDeletionContext {
  registry: Registry
  timelines: Timelines
  endpoints: Endpoints
  formerShards: FormerShards
  log: Logger
}

export class TenantDeletion {
  readonly #context: TenantDeletionContext
  readonly #registry: Registry
  readonly #running = new Map<string, Promise<void>>()
  readonly #stopping = new AbortController()

  constructor(context: TenantDeletionContext) {
    this.#context = context
    this.#registry = context.registry
  }

  /**
   * Deletes a tenant for good. Once it is `deleting`, nothing of it can be used any more; services
   * that do not answer are waited for in the background. Throws `conflict`; see tenant-rules.ts. One
   * that was deleted before is fine.
   */
  async delete(tenantId: string, options: TenantDeleteOptions): Promise<TenantDeletionInfo> {
    const found = await this.#registry.findTenant(tenantId)
    if (found === null && (await this.#registry.deletedTenant(tenantId))) {
      return { tenantId, state: 'deleted', reason: null }
    }
    const tenant = found?.value ?? (await this.#registry.tenant(tenantId))
    if (tenant.state !== 'deleting') await this.#intend(tenantId, options)
    try {
      await this.#run(tenantId)
      return { tenantId, state: 'deleted', reason: null }
    } catch (error) {
      const reason = errorMessage(error)
      this.#context.log.warn({ tenantId, reason }, 'the deletion of a tenant goes on later')
      return { tenantId, state: 'deleting', reason }
    }
  }

  /** Goes on with whatever is not finished. */
  async resume(): Promise<void> {
    const unfinished = (await this.#registry.tenants()).filter(({ state }) => state === 'deleting')
    const what = { log: this.#context.log, what: 'the deletion of a tenant' }
    await resumeEach(unfinished, what, async ({ tenantId }) => {
      if (!this.#running.has(tenantId)) await this.#run(tenantId)
    })
    for (const deleted of await this.#registry.deletedTenants()) await this.#letGo(deleted)
    await this.#tidy()
  }

  /** The process ends: what is not finished goes on after the next start. */
  stop(): void {
    this.#stopping.abort()
  }

  async #intend(tenantId: string, options: TenantDeleteOptions): Promise<void> {
    checkNotSplit(await this.#registry.tenant(tenantId))
    const contents = await this.#contents(tenantId)
    checkDeleteTenant(contents, options)
    for (const { name } of runningOf(contents)) await this.#context.endpoints.stop(tenantId, name)
    await this.#registry.changeTenant(tenantId, (tenant) => {
      checkNotSplit(tenant)
      return { ...tenant, state: 'deleting' }
    })
    this.#context.log.info({ tenantId }, 'a tenant is being deleted')
  }

  async #contents(tenantId: string): Promise<TenantContents> {
    return {
      tenantId,
      timelines: await this.#registry.timelines(tenantId),
      branches: await this.#registry.branches(tenantId),
      // Checked with each compute, so that one that has gone does not count.
      endpoints: await this.#context.endpoints.records(tenantId),
    }
  }

  /** Whoever asks while somebody else is at it waits for the same run. */
  #run(tenantId: string): Promise<void> {
    const running =
      this.#running.get(tenantId) ??
      this.#steps(tenantId).finally(() => this.#running.delete(tenantId))
    this.#running.set(tenantId, running)
    return running
  }

  async #steps(tenantId: string): Promise<void> {
    const deadline = Date.now() + PATIENCE_MS
    for (;;) {
      const tenant = await this.#registry.findTenant(tenantId)
      if (tenant === null) return
      // A branch whose making had begun before may come late.
      const timelines = await this.#registry.timelines(tenantId)
      if (timelines.length > 0) {
        await this.#deleteTimelines(tenantId, timelines)
        continue
      }
      const left = await this.#askPageservers(tenantId)
      // What shards of before a split have left goes after all that could refer to it.
      const isRest = left === 0 && (tenant.value.formerCounts ?? []).length > 0
      if (isRest) await this.#context.formerShards.sweep(tenantId)
      else if (left === 0 && (await this.#finish(tenant.value, tenant.version))) return
      if (Date.now() > deadline) {
        const what = isRest ? 'objects of former shards' : `${left} objects`
        throw new ZenithError('unavailable', `${what} have yet to leave object storage`)
      }
      await sleep(POLL_MS, undefined, { signal: this.#stopping.signal })
    }
  }

  async #deleteTimelines(tenantId: string, found: readonly TimelineRecord[]): Promise<void> {
    const context = this.#context
    for (const timeline of found) await this.#mark(timeline)
    for (const timeline of found) {
      // What was begun before the intent has ended, and nothing of it comes after us.
      await context.timelines.settled(timeline.timelineId)
      if (timeline.importing !== undefined) {
        await onEach(
          await servingPlacesIn(this.#registry, await this.#registry.tenant(tenantId)),
          (place) => importApi.abort(place, timeline),
        )
      }
      await removeEndpoints(context, timeline)
      await removeName(context, timeline)
    }
    await this.#askPageservers(tenantId)
    for (const timeline of found) {
      await deleteFromSafekeepers(context, timeline)
      await this.#registry.update(keyOf(timeline), () => null)
    }
  }

  /** From here on no compute starts on it, and no branch is made of it. */
  async #mark(timeline: TimelineRecord): Promise<void> {
    await this.#registry.update<TimelineRecord>(keyOf(timeline), (current) =>
      current === null || current.state === 'deleting'
        ? current
        : { ...current, state: 'deleting' },
    )
  }

  /** Returns how many objects are left. */
  async #askPageservers(tenantId: string): Promise<number> {
    const answers = await onHolders(this.#registry, tenantId, async (place) => {
      // One that was never told of the tenant, since its creation was cut short.
      await pageserverApi.attach(place, tenantId)
      return pageserverApi.deleteTenant(place, tenantId)
    })
    return answers.reduce((sum, { objects }) => sum + objects, 0)
  }

  /** False when something has changed since the tenant was read. */
  async #finish(tenant: TenantRecord, version: number): Promise<boolean> {
    const { tenantId, shardCount, placements } = tenant
    if (placements.some(({ move }) => move !== undefined)) {
      throw new ZenithError('unavailable', `tenant ${tenantId} is just being moved`)
    }
    if (tenant.split !== undefined) {
      throw new ZenithError('unavailable', `tenant ${tenantId} is just being split`)
    }
    const formerCount = (tenant.formerCounts ?? []).length
    assert(formerCount === 0, `former shards of ${tenantId} are not swept`)
    const holders = placements.flatMap(({ pageserverId, secondary, home }) => [
      pageserverId,
      secondary,
      home ?? null,
    ])
    const record: DeletedTenantRecord = {
      tenantId,
      shardCount,
      deletedAt: new Date().toISOString(),
      untold: [...new Set(holders.filter((id) => id !== null))],
    }
    const stored = await this.#registry.swap([
      { key: recordKey.tenant(tenantId), expectedVersion: version, value: null },
      { key: recordKey.deletedTenant(tenantId), expectedVersion: 0, value: record },
    ])
    if (!stored) return false
    this.#context.log.info({ tenantId }, 'tenant deleted')
    await this.#letGo(record)
    return true
  }

  /** Pageservers that do not answer are told when they do; one that starts learns it anyway. */
  async #letGo({ tenantId, shardCount, untold }: DeletedTenantRecord): Promise<void> {
    const told: number[] = []
    for (const id of untold) {
      const node = await this.#registry.node('pageserver', id)
      const detach = async () => {
        for (let shard = 0; shard < Math.max(shardCount, 1); shard++) {
          const name = tenantShardId(parseTenantId(tenantId), shard, shardCount)
          await pageserverApi.setLocation(addressOf(node), name, { mode: 'detached' })
        }
      }
      const done = node.state === 'removed' || (await detach().then(isDone, isNotDone))
      if (done) told.push(id)
    }
    if (told.length === 0) return
    await this.#registry.change<DeletedTenantRecord>(
      recordKey.deletedTenant(tenantId),
      (current) => ({ ...current, untold: current.untold.filter((id) => !told.includes(id)) }),
    )
  }

  /** Records that were on their way while their tenant went, and had nothing made for them. */
  async #tidy(): Promise<void> {
    const known = new Set((await this.#registry.tenants()).map(({ tenantId }) => tenantId))
    const all = [...(await this.#registry.timelines()), ...(await this.#registry.endpoints())]
    const late = all.map(({ tenantId }) => tenantId).filter((tenantId) => !known.has(tenantId))
    for (const tenantId of new Set(late)) {
      if (!(await this.#registry.deletedTenant(tenantId))) continue
      for (const timeline of await this.#registry.timelines(tenantId)) {
        await removeName(this.#context, timeline)
        await deleteFromSafekeepers(this.#context, timeline)
        await this.#registry.update(keyOf(timeline), () => null)
      }
      for (const { name } of await this.#registry.endpoints(tenantId)) {
        await this.#registry.update(recordKey.endpoint(tenantId, name), () => null)
      }
    }
  }
}

function keyOf({ tenantId, timelineId }: TimelineRecord): string {
  return recordKey.timeline(tenantId, timelineId)
}

const isDone = () => true
const isNotDone = () => false
