/** Performs what `move.ts` decides for one placement, until there is nothing left to do. */
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import type { ComputePageservers } from '#libs/api/compute.ts'
import type { LocationInfo, LocationRequest } from '#libs/api/pageserver-location.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { TenantId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { parseLsn } from '#libs/lsn.ts'
import { tenantShardId, wholeTenant } from '#libs/sharding.ts'
import { isActive, startIsOverdue } from '../endpoint-state.ts'
import { servingPlacesIn } from '../places.ts'
import type { EndpointRecord, PlacementRecord } from '../records.ts'
import { addressOf, type Registry } from '../registry.ts'
import { walSourcesOf } from '../wal-sources.ts'
import { computeApi, pageserverApi } from '../remote.ts'
import { withPlacement } from '../tenant-record.ts'
import { Move, type MoveAnswer, type MoveEffect, type Positions } from './move.ts'
import { parentOf } from './split-changes.ts'

/** Between two questions of the same kind. */
const POLL_MS = 100
const RETRY_MS = 500

type SwapEffect = Extract<MoveEffect, { kind: 'swap' }>

export class MoveRun {
  readonly tenantId: string
  readonly shard: number
  readonly #registry: Registry
  readonly #log: Logger
  readonly #stopping = new AbortController()
  #machine: Move | null = null

  constructor(options: { tenantId: string; shard: number; registry: Registry; log: Logger }) {
    this.tenantId = options.tenantId
    this.shard = options.shard
    this.#registry = options.registry
    this.#log = options.log.child({ tenantId: this.tenantId, shard: this.shard })
  }

  /** What keeps it from going on, while something does. */
  get problem(): string | null {
    return this.#machine?.problem ?? null
  }

  /** Layer bytes that the warm-up has still to copy; null before it is known. */
  get missingBytes(): number | null {
    return this.#machine?.missingBytes ?? null
  }

  /** The process ends: the move goes on after the next start. */
  stop(): void {
    this.#stopping.abort()
  }

  /** Resolves when the placement is not being moved any more, or after `stop`. */
  async run(): Promise<void> {
    let known: PlacementRecord | null = null
    let lastProblem: string | null = null
    let machine: Move | null = null
    while (!this.#stopping.signal.aborted) {
      // Somebody else may have changed it: a pageserver that restarted, or was lost.
      const placement = await this.#read()
      if (placement === null) return
      if (machine === null || !isDeepStrictEqual(placement, known)) {
        machine = new Move(placement, Date.now())
        this.#machine = machine
        known = placement
        this.#log.info({ placement }, `move: ${placement.move?.phase ?? 'done'}`)
      }
      const effect = machine.next(Date.now())
      if (effect === null) return
      const answer = await this.#answer(effect)
      machine.answered(effect, answer, Date.now())
      if (machine.problem !== null && machine.problem !== lastProblem) {
        this.#log.warn({ effect: effect.kind, reason: machine.problem }, 'a move must wait')
      }
      lastProblem = machine.problem
      const pauseMs = effect.kind === 'swap' ? 0 : answer.kind === 'failed' ? RETRY_MS : POLL_MS
      await sleep(pauseMs, undefined, { signal: this.#stopping.signal }).catch(() => undefined)
    }
  }

  async #read(): Promise<PlacementRecord | null> {
    const tenant = await this.#registry.findTenant(this.tenantId)
    return tenant?.value.placements.find(({ shard }) => shard === this.shard) ?? null
  }

  async #answer(effect: MoveEffect): Promise<MoveAnswer> {
    try {
      return await this.#perform(effect)
    } catch (error) {
      return { kind: 'failed', reason: errorMessage(error) }
    }
  }

  async #perform(effect: MoveEffect): Promise<MoveAnswer> {
    const { tenantId } = this
    const held = await this.#held()
    switch (effect.kind) {
      case 'swap':
        return this.#swap(effect)
      case 'tell':
        await tellComputes(this.#registry, tenantId)
        return { kind: 'done' }
      case 'warm': {
        const { secondary } = await this.#keepWarm(effect.node, effect.primary)
        const missingBytes = secondary?.lastError === null ? secondary.missingBytes : null
        return { kind: 'warmth', missingBytes }
      }
      case 'hold': {
        const node = await this.#node(effect.node)
        await pageserverApi.flushTenant(node, held.id)
        const { generation } = effect
        await pageserverApi.setLocation(node, held.id, {
          mode: 'stale',
          generation,
          ...held.stripes,
        })
        return { kind: 'done' }
      }
      case 'attach': {
        const { mode, generation } = effect
        const timelines = await sourcesOf(this.#registry, held.id)
        const { stripes, splitFrom } = held
        const request = { mode, generation, timelines, ...stripes, ...splitFrom }
        const node = await this.#node(effect.node)
        return positionsAnswer(await pageserverApi.setLocation(node, held.id, request))
      }
      case 'measure':
        return positionsAnswer(
          await pageserverApi.getLocation(await this.#node(effect.node), held.id),
        )
      case 'release':
        if (effect.primary !== null) await this.#keepWarm(effect.node, effect.primary)
        else {
          const node = await this.#node(effect.node)
          await pageserverApi.setLocation(node, held.id, { mode: 'detached' })
        }
        return { kind: 'done' }
    }
  }

  async #swap({ expected, next }: SwapEffect): Promise<MoveAnswer> {
    const stored = await this.#registry.changeTenant(this.tenantId, (tenant) =>
      withPlacement(tenant, this.shard, (current) =>
        isDeepStrictEqual(current, expected) ? next : current,
      ),
    )
    const placement = stored.placements.find(({ shard }) => shard === this.shard) ?? null
    return { kind: 'record', placement }
  }

  async #keepWarm(node: number, primaryId: number): Promise<LocationInfo> {
    const { host, pgPort, httpPort } = await this.#node(primaryId)
    const { id } = await this.#held()
    return pageserverApi.setLocation(await this.#node(node), id, {
      mode: 'secondary',
      primary: { host, pgPort, httpPort },
    })
  }

  /** What a pageserver calls that which moves: the tenant, or one shard of it. */
  async #held(): Promise<{
    id: TenantId
    stripes: { stripeBlocks?: number }
    /** Of a shard that takes over from its parent just now. */
    splitFrom: Pick<LocationRequest, 'splitFrom'>
  }> {
    const tenant = await this.#registry.tenant(this.tenantId)
    const { shardCount, stripeBlocks } = tenant
    const parent = parentOf(tenant, this.shard)
    return {
      id: tenantShardId(this.tenantId, this.shard, shardCount),
      stripes: shardCount === 0 ? {} : { stripeBlocks },
      splitFrom: parent === null ? {} : { splitFrom: parent },
    }
  }

  async #node(id: number) {
    return addressOf(await this.#registry.node('pageserver', id))
  }
}

/** Where computes of the tenant read. */
export async function servingMapOf(
  registry: Registry,
  tenantId: string,
): Promise<ComputePageservers> {
  const places = await servingPlacesIn(registry, await registry.tenant(tenantId))
  const [first] = places
  const stripeBlocks = first === undefined || first.shardCount === 0 ? null : first.stripeBlocks
  return { pageservers: places.map(addressOf), stripeBlocks }
}

/** Tells computes where the tenant is. Throws while one may be there and has not been told. */
export async function tellComputes(registry: Registry, tenantId: string): Promise<void> {
  const map = await servingMapOf(registry, tenantId)
  for (const endpoint of await registry.endpoints(tenantId)) {
    if (!isActive(endpoint.status)) continue
    const { name, host, httpPort } = endpoint
    if (httpPort === null) {
      if (startIsOverdue(endpoint, new Date())) continue
      throw new ZenithError('unavailable', `endpoint "${name}" is just being started`)
    }
    if (await hasEnded(endpoint, host, httpPort)) continue
    await computeApi.setPageservers(host, httpPort, map)
  }
}

async function hasEnded(
  endpoint: EndpointRecord,
  host: string,
  httpPort: number,
): Promise<boolean> {
  try {
    const status = await computeApi.status(host, httpPort)
    return status.endpoint !== endpoint.name || !isActive(status.state)
  } catch (error) {
    if (error instanceof ZenithError && error.code === 'unavailable') return true
    throw error
  }
}

/** From where a tenant, or a shard of one, gets the WAL of each timeline. */
export async function sourcesOf(registry: Registry, id: TenantId) {
  const timelines = await registry.timelines(wholeTenant(id))
  return Promise.all(
    timelines
      // One that is to be archived takes in the rest of its WAL first.
      .filter(({ state }) => state === 'active' || state === 'archiving')
      .map(async (timeline) => ({
        timelineId: timeline.timelineId,
        safekeepers: await walSourcesOf(registry, timeline, id),
      })),
  )
}

/** How far each timeline is. */
export function positionsIn({ timelines }: LocationInfo): Positions {
  return new Map(
    timelines.map(({ timelineId, lastRecordLsn }) => [timelineId, parseLsn(lastRecordLsn)]),
  )
}

function positionsAnswer(info: LocationInfo): MoveAnswer {
  return { kind: 'positions', positions: positionsIn(info) }
}
