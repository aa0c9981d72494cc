/**
 * Splits by size and spreading over a store, with pageservers that only tell how large tenants are;
 * with real ones in test_runner/regress/split.pg.test.ts.
 */
import { createServer, type Server } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterEach, describe, expect, it } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { registerNode } from '../nodes.ts'
import { recordKey, type TenantRecord } from '../records.ts'
import { Registry } from '../registry.ts'
import { MemoryStore } from '../store/memory-store.ts'
import { withPlacement } from '../tenant-record.ts'
import { Autosplit } from './autosplit.ts'
import { beginMove, finishMove, handOver } from './placement-changes.ts'
import {
  beginSplit,
  finishSplit,
  handOverSplit,
  type SplitRequest,
  withSplitState,
} from './split-changes.ts'
import { splitStateOf } from './split.ts'
import { Spreads } from './spreads.ts'

const log = pino({ level: 'silent' })
const GB = 1024 ** 3
const SMALL = 'a'.repeat(32)
const LARGE = 'b'.repeat(32)
const NOW = Date.parse('2026-01-01T00:00:00Z')

const servers: Server[] = []
const running: { stop: () => unknown }[] = []
afterEach(async () => {
  for (const one of running.splice(0)) await one.stop()
  for (const server of servers.splice(0)) server.close()
})

class World {
  readonly registry = new Registry(new MemoryStore())
  /** Bytes of the largest branch, by tenant. */
  readonly sizes = new Map([
    [SMALL, GB],
    [LARGE, 100 * GB],
  ])
  readonly silent = new Set<number>()
  readonly asked: number[] = []
  readonly begun: [string, SplitRequest][] = []
  readonly moved: [number, number][] = []
  refusal: ZenithError | null = null
  /** A move ends by itself. */
  movesEnd = true

  readonly health = { answers: (id: number) => !this.silent.has(id) }

  static async with(pageservers: number): Promise<World> {
    const world = new World()
    for (let id = 1; id <= pageservers; id++) {
      const httpPort = await world.#serve(id)
      await registerNode(world.registry, 'pageserver', {
        id,
        host: '127.0.0.1',
        pgPort: 1,
        httpPort,
      })
    }
    for (const tenantId of [SMALL, LARGE]) {
      const tenant: TenantRecord = {
        tenantId,
        state: 'active',
        shardCount: 0,
        stripeBlocks: 2048,
        placements: [{ shard: 0, pageserverId: 1, generation: 1, secondary: null }],
        mainTimelineId: 'c'.repeat(32),
        createdAt: new Date(NOW).toISOString(),
      }
      const key = recordKey.tenant(tenantId)
      await world.registry.swap([{ key, expectedVersion: 0, value: tenant }])
    }
    return world
  }

  /** A control plane that comes after another one. */
  controlPlane(shardBytes: number | null = 64 * GB) {
    const { registry, health } = this
    const splits = {
      begin: (tenantId: string, request: SplitRequest) => this.#begin(tenantId, request),
    }
    const moves = {
      begin: (tenantId: string, shard: number, to: number) => this.#move(tenantId, shard, to),
    }
    const autosplit = new Autosplit({
      registry,
      health,
      log,
      shardBytes,
      pauseMs: 1,
      splits: splits as never,
    })
    const spreads = new Spreads({ registry, health, log, moves: moves as never })
    running.push(autosplit, spreads)
    return { autosplit, spreads }
  }

  tenant(tenantId = LARGE): Promise<TenantRecord> {
    return this.registry.tenant(tenantId)
  }

  async placement(): Promise<number[]> {
    return (await this.tenant()).placements.map(({ pageserverId }) => pageserverId)
  }

  /** As the machine of a split ends it. */
  async endSplit(): Promise<void> {
    await this.registry.changeTenant(LARGE, (tenant) =>
      withSplitState(tenant, finishSplit(handOverSplit(splitStateOf(tenant), []))),
    )
  }

  async endMoves(): Promise<void> {
    for (const { shard } of (await this.tenant()).placements) {
      await this.registry.changeTenant(LARGE, (tenant) =>
        withPlacement(tenant, shard, (one) =>
          one.move === undefined ? one : finishMove(handOver(one, false)),
        ),
      )
    }
  }

  async #begin(tenantId: string, request: SplitRequest): Promise<void> {
    if (this.refusal !== null) throw this.refusal
    await this.registry.changeTenant(tenantId, (one) => beginSplit(one, request, new Date(NOW)))
    this.begun.push([tenantId, request])
  }

  async #move(tenantId: string, shard: number, to: number): Promise<void> {
    await this.registry.changeTenant(tenantId, (tenant) =>
      withPlacement(tenant, shard, (one) => beginMove(one, to, new Date(NOW))),
    )
    this.moved.push([shard, to])
    if (this.movesEnd) await this.endMoves()
  }

  async #serve(id: number): Promise<number> {
    const server = createServer((_, response) => {
      this.asked.push(id)
      void this.registry.tenants().then((tenants) => {
        const held = tenants.flatMap(({ tenantId, shardCount, placements }) =>
          placements
            .filter(({ pageserverId }) => pageserverId === id)
            .map(({ shard, generation }) => ({
              tenantId: tenantShardId(tenantId, shard, shardCount),
              generation,
              largestBytes: this.sizes.get(tenantId) ?? null,
            })),
        )
        response.end(JSON.stringify(held))
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    servers.push(server)
    return (server.address() as { port: number }).port
  }
}

describe('a tenant that is large', () => {
  it('is split, and again when it has grown, but not right after', async () => {
    const world = await World.with(4)
    const { autosplit } = world.controlPlane()
    await autosplit.round(NOW)
    expect(world.asked.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4])
    expect(world.begun).toEqual([[LARGE, { shards: 2, bySize: true }]])
    expect((await world.tenant()).split).toMatchObject({
      phase: 'hold',
      bySize: true,
      spread: true,
    })
    await autosplit.round(NOW)
    expect(world.begun).toHaveLength(1)
    await world.endSplit()
    world.sizes.set(LARGE, 150 * GB)
    await autosplit.round(NOW + 1_000)
    expect(world.begun).toHaveLength(1)
    await autosplit.round(NOW + 600_000)
    expect(world.begun.at(-1)).toEqual([LARGE, { shards: 4, bySize: true }])
    expect(autosplit.begun).toBe(2)
    expect(await autosplit.largestShardBytes()).toBe(75 * GB)
  })

  it('is not split where there is nobody to share with, nor when it is told not to be', async () => {
    const world = await World.with(2)
    const { autosplit } = world.controlPlane()
    world.silent.add(2)
    await autosplit.round(NOW)
    expect(world.begun).toEqual([])
    world.silent.clear()
    expect(await autosplit.set(LARGE, { shardBytes: null })).toMatchObject({
      shardBytes: null,
      maxShards: null,
      largestBytes: 100 * GB,
      wantedShards: 1,
    })
    await autosplit.round(NOW)
    expect(world.begun).toEqual([])
    expect(await autosplit.set(LARGE, { shardBytes: 20 * GB, maxShards: 8 })).toMatchObject({
      shards: 1,
      mostShards: 8,
      wantedShards: 8,
    })
    await autosplit.round(NOW)
    expect(world.begun).toEqual([[LARGE, { shards: 8, bySize: true }]])
    await world.endSplit()
    expect(await autosplit.get(LARGE)).toMatchObject({
      shards: 8,
      lastSplit: { from: 1, to: 8, bySize: true },
    })
  })

  it('is asked for again by and by when its split was refused, and holds up nobody', async () => {
    const world = await World.with(2)
    world.sizes.set(SMALL, 90 * GB)
    const { autosplit } = world.controlPlane()
    world.refusal = new ZenithError('conflict', 'Branch "x" is still being made or imported.')
    await autosplit.round(NOW)
    world.refusal = null
    await autosplit.round(NOW + 1_000)
    expect(world.begun).toEqual([[SMALL, { shards: 2, bySize: true }]])
    await world.registry.changeTenant(SMALL, (tenant) => {
      const { split, ...rest } = tenant
      expect(split?.bySize).toBe(true)
      return rest
    })
    world.sizes.set(SMALL, GB)
    await autosplit.round(NOW + 2_000)
    expect(world.begun).toHaveLength(1)
    await autosplit.round(NOW + 60_000)
    expect(world.begun.at(-1)).toEqual([LARGE, { shards: 2, bySize: true }])
  })

  it('is found by the loop', async () => {
    const world = await World.with(2)
    world.controlPlane().autosplit.start()
    await expect.poll(() => world.begun.length).toBe(1)
  })

  it('is left alone where nothing is set and nothing is the default', async () => {
    const world = await World.with(2)
    await world.controlPlane(null).autosplit.round(NOW)
    expect(world.begun).toEqual([])
  })
})

describe('shards after a split', () => {
  async function split(pageservers: number, request: SplitRequest): Promise<World> {
    const world = await World.with(pageservers)
    await world.registry.changeTenant(LARGE, (one) => beginSplit(one, request, new Date(NOW)))
    await world.endSplit()
    return world
  }
  const isSpread = async (world: World) => (await world.tenant()).spread === undefined

  it('are spread one by one, and stay where they are without being asked for', async () => {
    const world = await split(4, { shards: 4 })
    const { spreads } = world.controlPlane()
    await spreads.resume()
    await expect.poll(() => isSpread(world)).toBe(true)
    expect(world.moved).toEqual([
      [3, 2],
      [2, 3],
      [1, 4],
    ])
    expect(await world.placement()).toEqual([1, 4, 3, 2])
    expect(await isSpread(await split(2, { shards: 2, spread: false }))).toBe(true)
  })

  it('are spread by the next control plane when this one dies on the way', async () => {
    const world = await split(2, { shards: 4 })
    world.movesEnd = false
    const first = world.controlPlane()
    await first.spreads.resume()
    await expect.poll(() => world.moved.length).toBe(1)
    first.spreads.stop()
    await world.endMoves()
    expect(await isSpread(world)).toBe(false)
    world.movesEnd = true
    await world.controlPlane().spreads.resume()
    await expect.poll(() => isSpread(world)).toBe(true)
    expect((await world.placement()).toSorted((a, b) => a - b)).toEqual([1, 1, 2, 2])
    expect(world.moved).toHaveLength(2)
  })

  it('wait for a pageserver that does not answer, and say so', async () => {
    const world = await split(2, { shards: 2 })
    world.silent.add(2)
    const first = world.controlPlane()
    await first.spreads.resume()
    await expect.poll(() => first.spreads.problem(LARGE)).toBe('pageserver 2 does not answer')
    expect(await isSpread(world)).toBe(false)
    // The next control plane knows of nobody yet when it begins.
    world.silent.add(1)
    const { spreads } = world.controlPlane()
    await spreads.resume()
    await expect.poll(() => spreads.problem(LARGE)).toBe('pageserver 1, 2 does not answer')
    expect(await isSpread(world)).toBe(false)
  })

  it('stay where somebody wants them', async () => {
    const world = await split(2, { shards: 4 })
    world.movesEnd = false
    const { spreads } = world.controlPlane()
    await spreads.resume()
    await expect.poll(() => world.moved.length).toBe(1)
    await spreads.giveUp(LARGE)
    await world.endMoves()
    await sleep(300)
    expect(world.moved).toHaveLength(1)
    expect(await isSpread(world)).toBe(true)
    // It can be asked for again.
    await world.registry.changeTenant(LARGE, (one) =>
      beginSplit(one, { shards: 4, spread: true }, new Date(NOW)),
    )
    await spreads.resume()
    await expect.poll(() => world.moved.length).toBe(2)
  })
})
