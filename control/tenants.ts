/** Tenants: create, list, and the generation that each (re-)attachment raises. */
import type { ReAttachResponse, TenantInfo } from '#libs/api/control.ts'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { choosePageserver, chooseSafekeepers } from './placement.ts'
import {
  type BranchRecord,
  type PlacementRecord,
  recordKey,
  type TenantRecord,
  type TimelineRecord,
} from './records.ts'
import type { Registry } from './registry.ts'
import { DEFAULT_STRIPE_BLOCKS, withPlacement } from './tenant-record.ts'
import type { Timelines } from './timelines.ts'

/** Name of the branch that every tenant starts with. */
export const FIRST_BRANCH = 'main'

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

  /** Creates the tenant, or completes the creation that an earlier request began. */
  async create(tenantId: string = newTenantId()): Promise<TenantInfo> {
    const tenant =
      (await this.#registry.findTenant(tenantId))?.value ?? (await this.#intend(tenantId))
    if (tenant.state === 'active') return infoOf(tenant)
    return this.#complete(tenant)
  }

  /** Completes what a crash left behind. */
  async resume(): Promise<void> {
    for (const tenant of await this.#registry.tenants()) {
      if (tenant.state === 'active') continue
      if (this.#timelines.isRunning(tenant.mainTimelineId)) continue
      this.#log.info({ tenantId: tenant.tenantId }, 'completing the creation of a tenant')
      await this.#complete(tenant)
    }
  }

  async #intend(tenantId: string): Promise<TenantRecord> {
    const pageserverId = choosePageserver(tenantId, await this.#registry.nodes('pageserver'))
    const safekeepers = chooseSafekeepers(tenantId, await this.#registry.nodes('safekeeper'))
    const createdAt = new Date().toISOString()
    const timelineId = newTimelineId()
    const tenant: TenantRecord = {
      tenantId,
      state: 'creating',
      shardCount: 0,
      stripeBlocks: DEFAULT_STRIPE_BLOCKS,
      placements: [{ shard: 0, pageserverId, generation: 1, secondary: null }],
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
      current.state === 'active' ? current : { ...current, state: 'active' },
    )
    return infoOf(active)
  }

  /**
   * A pageserver starts: raises the generation of each of its tenants, durably, before it learns
   * them. Objects that an earlier life of it still writes carry a lower generation and lose.
   */
  async reAttach(pageserverId: number): Promise<ReAttachResponse> {
    const here = (await this.#registry.tenants()).flatMap(({ tenantId, placements }) =>
      placements
        .filter((placement) => placement.pageserverId === pageserverId)
        .map(({ shard }) => ({ tenantId, shard })),
    )
    return {
      tenants: await Promise.all(
        here.map(async ({ tenantId, shard }) => {
          const { placements } = await this.#registry.changeTenant(tenantId, (current) =>
            withPlacement(current, shard, (placement) => ({
              ...placement,
              generation: placement.generation + 1,
            })),
          )
          const { generation } = placements.find((one) => one.shard === shard) as PlacementRecord
          const timelines = await Promise.all(
            (await this.#registry.timelines(tenantId)).map(async (timeline) => ({
              timelineId: timeline.timelineId,
              safekeepers: await this.#registry.members(timeline),
            })),
          )
          return { tenantId, generation, timelines }
        }),
      ),
    }
  }
}

function infoOf(record: TenantRecord): TenantInfo {
  const { tenantId, state, mainTimelineId, shardCount, placements, createdAt } = record
  const generation = Math.max(...placements.map((placement) => placement.generation))
  return { tenantId, state, generation, mainTimelineId, shardCount, placements, createdAt }
}
