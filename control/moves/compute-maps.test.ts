/** Computes that only tell and take where they read. */
import { createServer, type Server } from 'node:http'
import { pino } from 'pino'
import { afterEach, expect, it } from 'vitest'
import type { ComputePageservers } from '#libs/api/compute.ts'
import { registerNode } from '../nodes.ts'
import { type EndpointRecord, recordKey, type TenantRecord } from '../records.ts'
import { Registry } from '../registry.ts'
import { MemoryStore } from '../store/memory-store.ts'
import { withPlacement } from '../tenant-record.ts'
import { ComputeMaps } from './compute-maps.ts'
import { servingMapOf } from './move-run.ts'

const TENANT = 'a'.repeat(32)
const servers: Server[] = []
afterEach(() => {
  for (const server of servers.splice(0)) server.close()
})

class World {
  readonly registry = new Registry(new MemoryStore())
  readonly requests: string[] = []
  map: ComputePageservers = { pageservers: [], stripeBlocks: null }
  attempt = 1
  answers = true

  static async start(): Promise<World> {
    const world = new World()
    for (const id of [1, 2]) {
      const node = { id, host: '127.0.0.1', pgPort: 6000 + id, httpPort: 7000 + id }
      await registerNode(world.registry, 'pageserver', node)
    }
    const tenant: TenantRecord = {
      tenantId: TENANT,
      state: 'active',
      shardCount: 2,
      stripeBlocks: 2048,
      placements: [0, 1].map((shard) => ({
        shard,
        pageserverId: 1,
        generation: 1,
        secondary: null,
      })),
      mainTimelineId: 'b'.repeat(32),
      createdAt: '2026-01-01T00:00:00Z',
    }
    const endpoint: EndpointRecord = {
      name: 'main',
      tenantId: TENANT,
      timelineId: 'b'.repeat(32),
      branch: 'main',
      status: 'running',
      host: '127.0.0.1',
      port: 1,
      requestedPort: null,
      httpPort: await world.#serve(),
      pid: null,
      lsn: null,
      attempt: 1,
      error: null,
      createdAt: '2026-01-01T00:00:00Z',
      startedAt: null,
    }
    await world.registry.swap([
      { key: recordKey.tenant(TENANT), expectedVersion: 0, value: tenant },
      { key: recordKey.endpoint(TENANT, 'main'), expectedVersion: 0, value: endpoint },
    ])
    world.map = await servingMapOf(world.registry, TENANT)
    return world
  }

  async moveTo(shard: number, pageserverId: number): Promise<ComputePageservers> {
    await this.registry.changeTenant(TENANT, (tenant) =>
      withPlacement(tenant, shard, (one) => ({ ...one, pageserverId })),
    )
    return servingMapOf(this.registry, TENANT)
  }

  async #serve(): Promise<number> {
    const server = createServer((request, response) => {
      let text = ''
      request.on('data', (chunk: Buffer) => {
        text += chunk.toString()
      })
      request.on('end', () => {
        this.requests.push(request.url ?? '')
        if (!this.answers) response.statusCode = 503
        else if (request.method === 'POST') this.map = JSON.parse(text) as ComputePageservers
        const { attempt, map } = this
        response.end(JSON.stringify({ endpoint: 'main', attempt, map }))
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    servers.push(server)
    return (server.address() as { port: number }).port
  }
}

const mapsOf = ({ registry }: World) =>
  new ComputeMaps({ registry, log: pino({ level: 'silent' }) })

it('a compute that missed a move is told of it, and one that is right is asked once', async () => {
  const world = await World.start()
  const maps = mapsOf(world)
  await maps.resume()
  await maps.resume()
  expect(world.requests).toEqual(['/status'])
  const moved = await world.moveTo(1, 2)
  await maps.resume()
  expect(world.map).toEqual(moved)
  expect(world.map.pageservers.map(({ id }) => id)).toEqual([1, 2])
  await maps.resume()
  expect(world.requests).toEqual(['/status', '/status', '/pageservers'])
})

it('one that does not answer, or is not the one that is meant, is asked again', async () => {
  const world = await World.start()
  const maps = mapsOf(world)
  const stale = world.map
  const moved = await world.moveTo(0, 2)
  world.answers = false
  await maps.resume()
  world.answers = true
  world.attempt = 7
  await maps.resume()
  expect(world.map).toEqual(stale)
  world.attempt = 1
  await maps.resume()
  expect(world.map).toEqual(moved)
})
