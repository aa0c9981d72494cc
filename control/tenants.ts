/** Tenants: create, list, and the generation that each (re-)attachment raises. */
import type { TenantInfo } from '#libs/api/control.ts'
import type { ReAttachResponse } from '#libs/api/nodes.ts'
import { ZenithError } from '#libs/errors.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { DEFAULT_STRIPE_BLOCKS } from '#libs/sharding.ts'
import { holdingUnder, shardsOf } from './moves/split-changes.ts'
import { choosePageservers, loadOf } from './moves/placing.ts'
import { sourcesOf } from './moves/move-run.ts'
import { chooseSafekeepers } from './placement.ts'
import { type BranchRecord, recordKey, type TenantRecord, type TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'
import { withPlacement } from './tenant-record.ts'
import type { Timelines } from './timelines.ts'
import { resumeEach } from './unfinished.ts'

/** Name of the branch that every tenant starts with. */
export const FIRST_BRANCH = 'main'

/** How the blocks of a new tenant are spread; absent: not at all. */
export interface Sharding {
  shards?: number | undefined
  stripeBlocks?: number | undefined
}

export class Tenants {
  readonly #registry: Registry
  readonly #timelines: Timelines
  readonly #log: Logger

  constructor(registry: Registry, timelines: Timelines, log: Logger) {
    this.#registry = registry
    this.#timelines = timelines
    this.#log = log
  }

  async list(): Promise<TenantInfo[]> {
    return (await this.#registry.tenants()).map(infoOf)
  }

  async get(tenantId: string): Promise<TenantInfo> {
    return infoOf(await this.#registry.tenant(tenantId))
  }

  /**
   * Creates the tenant, or completes the creation that an earlier request began. Throws `conflict`
   * for one that is there with another number of shards.
   */
  async create(tenantId: string = newTenantId(), sharding: Sharding = {}): Promise<TenantInfo> {
    const tenant =
      (await this.#registry.findTenant(tenantId))?.value ?? (await this.#intend(tenantId, sharding))
    if (tenant.state === 'deleting') throw isGone(`Tenant ${tenantId} is being deleted.`)
    checkSharding(tenant, sharding)
    if (tenant.state === 'active') return infoOf(tenant)
    return this.#complete(tenant)
  }

  /** Completes what a crash left behind. */
  async resume(): Promise<void> {
    const unfinished = (await this.#registry.tenants()).filter(({ state }) => state === 'creating')
    const what = { log: this.#log, what: 'the creation of a tenant' }
    await resumeEach(unfinished, what, async (tenant) => {
      if (this.#timelines.isRunning(tenant.mainTimelineId)) return
      this.#log.info({ tenantId: tenant.tenantId }, 'completing the creation of a tenant')
      await this.#complete(tenant)
    })
  }

  async #intend(tenantId: string, sharding: Sharding): Promise<TenantRecord> {
    if (await this.#registry.deletedTenant(tenantId)) {
      throw isGone(`Tenant ${tenantId} was deleted.`)
    }
    const { shards = 1, stripeBlocks = DEFAULT_STRIPE_BLOCKS } = sharding
    const pageserverIds = choosePageservers(
      await this.#registry.nodes('pageserver'),
      await loadOf(this.#registry),
      shards,
    )
    const safekeepers = chooseSafekeepers(tenantId, await this.#registry.nodes('safekeeper'))
    const createdAt = new Date().toISOString()
    const timelineId = newTimelineId()
    const tenant: TenantRecord = {
      tenantId,
      state: 'creating',
      shardCount: shards > 1 ? shards : 0,
      stripeBlocks,
      placements: pageserverIds.map((pageserverId, shard) => ({
        shard,
        pageserverId,
        generation: 1,
        secondary: null,
      })),
      mainTimelineId: timelineId,
      createdAt,
    }
    const timeline: TimelineRecord = {
      tenantId,
      timelineId,
      branch: FIRST_BRANCH,
      state: 'creating',
      ancestorTimelineId: null,
      ancestorLsn: null,
      startLsn: null,
      systemId: null,
      pgVersion: null,
      safekeepers,
      pendingSafekeepers: [],
      membershipGeneration: 1,
      createdAt,
    }
    const branch: BranchRecord = {
      name: FIRST_BRANCH,
      timelineId,
      parent: null,
      branchLsn: null,
      createdAt,
    }
    const stored = await this.#registry.swap([
      { key: recordKey.tenant(tenantId), expectedVersion: 0, value: tenant },
      { key: recordKey.timeline(tenantId, timelineId), expectedVersion: 0, value: timeline },
      { key: recordKey.branch(tenantId, FIRST_BRANCH), expectedVersion: 0, value: branch },
    ])
    // Not stored: the same request came twice at once, and the other one was first.
    return stored ? tenant : this.#registry.tenant(tenantId)
  }

  async #complete(tenant: TenantRecord): Promise<TenantInfo> {
    await this.#timelines.complete(tenant.tenantId, tenant.mainTimelineId)
    const active = await this.#registry.changeTenant(tenant.tenantId, (current) =>
      current.state === 'creating' ? { ...current, state: 'active' } : current,
    )
    return infoOf(active)
  }

  /**
   * A pageserver starts: raises the generation of each of its tenants, durably, before it learns
   * them. Objects that an earlier life of it still writes carry a lower generation and lose.
   */
  async reAttach(pageserverId: number): Promise<ReAttachResponse> {
    const tenants: ReAttachResponse['tenants'] = []
    const secondaries: NonNullable<ReAttachResponse['secondaries']> = []
    for (const { tenantId, placements } of await this.#registry.tenants()) {
      for (const { shard } of placements) await this.#reHold(tenantId, shard, pageserverId)
      const tenant = await this.#registry.tenant(tenantId)
      for (const { id, stripes } of shardsOf(tenant)) {
        const holding = holdingUnder(tenant, id, pageserverId)
        if (holding?.kind === 'attach') {
          const { generation, mode } = holding
          const timelines = await sourcesOf(this.#registry, id)
          tenants.push({ tenantId: id, generation, mode, ...stripes, timelines })
        } else if (holding?.kind === 'secondary') {
          const primary = await this.#registry.node('pageserver', holding.primary)
          const { host, pgPort, httpPort } = primary
          secondaries.push({ tenantId: id, primary: { host, pgPort, httpPort } })
        }
      }
    }
    return { tenants, secondaries }
  }

  /** Raises the generation of a placement that it is the newest holder of. */
  async #reHold(tenantId: string, shard: number, pageserverId: number): Promise<void> {
    await this.#registry.changeTenant(tenantId, (tenant) =>
      withPlacement(tenant, shard, (placement) =>
        placement.pageserverId === pageserverId
          ? { ...placement, generation: placement.generation + 1 }
          : placement,
      ),
    )
  }
}

function checkSharding(tenant: TenantRecord, { shards, stripeBlocks }: Sharding): void {
  const count = Math.max(tenant.shardCount, 1)
  const sameStripes = tenant.stripeBlocks === (stripeBlocks ?? tenant.stripeBlocks)
  if ((shards ?? count) === count && (count === 1 || sameStripes)) return
  throw new ZenithError(
    'conflict',
    `Tenant ${tenant.tenantId} exists already, in ${count === 1 ? 'one piece' : `${count} shards with stripes of ${tenant.stripeBlocks} blocks`}.`,
    {
      hint: 'To have it in more shards: zenith tenant split. Leave the id out to make another tenant.',
    },
  )
}

function isGone(what: string): ZenithError {
  return new ZenithError('conflict', `${what} Its id is not used again.`, {
    hint: 'Leave the id out to make another tenant.',
  })
}

function infoOf(record: TenantRecord): TenantInfo {
  const { tenantId, state, mainTimelineId, shardCount, placements, createdAt } = record
  const generation = Math.max(...placements.map((placement) => placement.generation))
  const places = placements.map((one) => ({
    shard: one.shard,
    pageserverId: one.pageserverId,
    generation: one.generation,
    secondary: one.secondary,
  }))
  return {
    tenantId,
    state,
    generation,
    mainTimelineId,
    shardCount,
    placements: places,
    createdAt,
  }
}
