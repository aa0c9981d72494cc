/**
 * Changes of members over a store and small stand-ins for the services, which keep what they are told
 * as real ones do. The real path is tested in test_runner/regress/membership.pg.test.ts.
 */
import { createServer, type Server } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterEach, describe, expect, it } from 'vitest'
import type { MembersBody } from '#libs/api/safekeeper.ts'
import { ZenithError } from '#libs/errors.ts'
import { registerNode } from '../nodes.ts'
import { recordKey, type TenantRecord, type TimelineRecord } from '../records.ts'
import { Registry } from '../registry.ts'
import { listSafekeepers, nextSafekeeperId, setSafekeeperState } from '../safekeepers.ts'
import { MemoryStore } from '../store/memory-store.ts'
import { Tokens } from '../tokens.ts'
import { Migrations } from './migrations.ts'

const TENANT = 'a'.repeat(32)
const TIMELINE = 'b'.repeat(32)
const LOG = pino({ level: 'silent' })
const TOKENS = new Tokens({ auth: null, caFile: null, log: LOG })

const open: (Server | Migrations)[] = []
afterEach(() => {
  for (const one of open.splice(0)) {
    if (one instanceof Migrations) one.stop()
    else one.close()
  }
})

/** A safekeeper that has the log or not. */
class Keeper {
  generation: number | null
  term = 3
  down = false
  readonly requests: string[] = []
  readonly tombstones: number[] = []

  constructor(generation: number | null) {
    this.generation = generation
  }

  answer(method: string, path: string, body: unknown): [number, unknown] {
    const route = path.split('?')[0]?.split('/').at(-1) ?? ''
    this.requests.push(`${method} ${route === TIMELINE ? 'timeline' : route}`)
    if (this.down) return [503, { code: 'unavailable', detail: 'it is down' }]
    if (method === 'DELETE') {
      this.tombstones.push(Number(new URLSearchParams(path.split('?')[1]).get('generation')))
      this.generation = null
      return [200, { deleted: true }]
    }
    if (route === 'pull') {
      const { configuration } = body as { configuration: MembersBody }
      this.generation = configuration.generation
      return [200, { done: this.#state(), copiedBytes: 0, totalBytes: 0 }]
    }
    if (this.generation === null) return [404, { code: 'not_found', detail: 'no such timeline' }]
    if (method === 'PUT') this.generation = (body as MembersBody).generation
    if (route === 'term') this.term = (body as { term: number }).term
    return [200, this.#state()]
  }

  #state() {
    return { generation: this.generation, term: this.term, lastLogTerm: 3, flushLsn: '0/2000000' }
  }
}

async function serve(answer: Keeper['answer']): Promise<number> {
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    request.on('end', () => {
      const body: unknown = text ? JSON.parse(text) : {}
      const [status, result] = answer(request.method ?? '', request.url ?? '', body)
      response.statusCode = status
      response.end(JSON.stringify(result))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  open.push(server)
  return (server.address() as { port: number }).port
}

async function world(members: number[], spares: number[]) {
  const registry = new Registry(new MemoryStore())
  const keepers = new Map<number, Keeper>()
  for (const id of [...members, ...spares]) {
    const keeper = new Keeper(members.includes(id) ? 1 : null)
    keepers.set(id, keeper)
    const httpPort = await serve((...request) => keeper.answer(...request))
    await registerNode(registry, 'safekeeper', { id, host: '127.0.0.1', pgPort: 1, httpPort })
  }
  const told: unknown[] = []
  const pageserver = await serve((_method, _path, body) => {
    told.push(body)
    return [200, {}]
  })
  await registerNode(registry, 'pageserver', {
    id: 1,
    host: '127.0.0.1',
    pgPort: 1,
    httpPort: pageserver,
  })
  const createdAt = new Date(0).toISOString()
  const tenant: TenantRecord = {
    tenantId: TENANT,
    state: 'active',
    shardCount: 0,
    stripeBlocks: 2048,
    placements: [{ shard: 0, pageserverId: 1, generation: 1, secondary: null }],
    mainTimelineId: TIMELINE,
    createdAt,
  }
  const timeline: TimelineRecord = {
    tenantId: TENANT,
    timelineId: TIMELINE,
    branch: 'main',
    state: 'active',
    ancestorTimelineId: null,
    ancestorLsn: null,
    startLsn: '0/1500000',
    systemId: '7',
    pgVersion: 170011,
    safekeepers: members,
    pendingSafekeepers: [],
    membershipGeneration: 1,
    createdAt,
  }
  await registry.swap([
    { key: recordKey.tenant(TENANT), expectedVersion: 0, value: tenant },
    { key: recordKey.timeline(TENANT, TIMELINE), expectedVersion: 0, value: timeline },
  ])
  const life = () => {
    const migrations = new Migrations({ registry, tokens: TOKENS, log: LOG })
    open.push(migrations)
    return migrations
  }
  const keeper = (id: number) => keepers.get(id) as Keeper
  const record = () => registry.timeline(TENANT, TIMELINE)
  const settled = async () => {
    const isBusy = ({ newSafekeepers, unannounced, deletions }: TimelineRecord) =>
      newSafekeepers !== undefined || unannounced === true || deletions !== undefined
    for (let tries = 0; isBusy(await record()); tries++) {
      if (tries > 2000) throw new Error(`not settled: ${JSON.stringify(await record())}`)
      await sleep(25)
    }
    return record()
  }
  return { registry, keeper, told, life, record, settled }
}

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'done',
    (error: unknown) => (error instanceof ZenithError ? error.code : String(error)),
  )

describe('a change of members', () => {
  it('ends with the new ones alone, the page server told, and the old copy deleted', async () => {
    const { life, settled, keeper, told } = await world([1, 2, 3], [4])
    const migrations = life()
    const info = await migrations.begin(TENANT, TIMELINE, { safekeepers: [1, 2, 4] })
    expect(info).toMatchObject({ generation: 2, safekeepers: [1, 2, 3], newSafekeepers: [1, 2, 4] })
    // The same again is the same; another one has to wait.
    await migrations.begin(TENANT, TIMELINE, { safekeepers: [4, 2, 1] })
    expect(await codeOf(migrations.begin(TENANT, TIMELINE, { safekeepers: [1, 4] }))).toBe(
      'conflict',
    )
    const record = await settled()
    expect(record).toMatchObject({ safekeepers: [1, 2, 4], membershipGeneration: 3 })
    expect(Object.keys(record)).not.toContain('deletions')
    expect([1, 2, 4].map((id) => keeper(id).generation)).toEqual([3, 3, 3])
    expect(keeper(3).tombstones).toEqual([3])
    expect(told).toMatchObject([{ safekeepers: [{ id: 1 }, { id: 2 }, { id: 4 }] }])
    expect(await codeOf(migrations.abort(TENANT, TIMELINE))).toBe('conflict')
  })

  it('goes on in another life, whatever was answered to the one before', async () => {
    const { life, settled, keeper } = await world([1], [2, 3])
    for (let lives = 0; lives < 5; lives++) {
      const migrations = life()
      if (lives === 0) await migrations.begin(TENANT, TIMELINE, { safekeepers: [1, 2, 3] })
      else await migrations.resume()
      await sleep(15)
      migrations.stop()
    }
    await life().resume()
    expect(await settled()).toMatchObject({ safekeepers: [1, 2, 3], membershipGeneration: 3 })
    expect([1, 2, 3].map((id) => keeper(id).generation)).toEqual([3, 3, 3])
  })

  it('leaves the members alone while a newcomer is down, and can be undone', async () => {
    const { life, settled, keeper } = await world([1, 2, 3], [4])
    keeper(4).down = true
    const migrations = life()
    await migrations.begin(TENANT, TIMELINE, { safekeepers: [1, 2, 4] })
    await sleep(700)
    expect((await migrations.get(TENANT, TIMELINE)).phase).toBe('copy')
    expect([1, 2, 3].flatMap((id) => keeper(id).requests)).not.toContain('PUT configuration')
    await migrations.abort(TENANT, TIMELINE)
    keeper(4).down = false
    expect(await settled()).toMatchObject({ safekeepers: [1, 2, 3], membershipGeneration: 3 })
    expect(keeper(4).tombstones).toEqual([3])
  })

  it('deletes from one that is down as soon as it is back', async () => {
    const { life, settled, keeper, record } = await world([1, 2, 3], [4])
    keeper(3).down = true
    await life().begin(TENANT, TIMELINE, { safekeepers: [1, 2, 4] })
    while ((await record()).safekeepers.includes(3)) await sleep(25)
    await sleep(500)
    expect((await record()).deletions).toEqual([{ node: 3, generation: 3 }])
    keeper(3).down = false
    await settled()
    expect(keeper(3).tombstones).toEqual([3])
  })
})

describe('safekeepers', () => {
  it('are emptied before they are removed, and an id is never used again', async () => {
    const { registry, life, settled } = await world([1, 2, 3], [4])
    const removal = () => setSafekeeperState(registry, 3, 'removed', false)
    await setSafekeeperState(registry, 3, 'draining', false)
    expect(await codeOf(removal())).toBe('precondition_failed')
    const migrations = life()
    await migrations.begin(TENANT, TIMELINE, { safekeepers: [1, 2, 4] })
    await settled()
    expect(await codeOf(migrations.begin(TENANT, TIMELINE, { safekeepers: [1, 2, 3] }))).toBe(
      'invalid_argument',
    )
    expect(await removal()).toMatchObject({ id: 3, state: 'removed', timelines: 0 })
    expect((await listSafekeepers(registry)).map(({ id }) => id)).toEqual([1, 2, 4])
    expect(await codeOf(migrations.begin(TENANT, TIMELINE, { safekeepers: [1, 2, 3] }))).toBe(
      'not_found',
    )
    await setSafekeeperState(registry, 4, 'draining', false)
    expect(await nextSafekeeperId(registry)).toBe(5)
    const again = { id: 3, host: '127.0.0.1', pgPort: 9, httpPort: 9 }
    expect(await codeOf(registerNode(registry, 'safekeeper', again))).toBe('conflict')
  })
})
