/**
 * The control plane's operations over a store and small stand-ins for the services, which answer
 * as the real ones do and can fail at any step. The real path is tested in test_runner/regress.
 */
import { createServer, type Server } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import { pino } from 'pino'
import { afterEach, describe, expect, it } from 'vitest'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { ZenithError } from '#libs/errors.ts'
import { Branches } from './branches.ts'
import { Endpoints } from './endpoints.ts'
import { registerNode } from './nodes.ts'
import { Imports } from './imports.ts'
import { Registry } from './registry.ts'
import { MemoryStore } from './store/memory-store.ts'
import { Tenants } from './tenants.ts'
import { Timelines } from './timelines.ts'
import { TipFinder } from './tip.ts'
import { Tokens } from './tokens.ts'

const START = '0/1500000'
const open: Server[] = []
afterEach(() => {
  for (const server of open.splice(0)) server.close()
})

interface StandIn {
  node: NodeInfo
  requests: { method: string; path: string; body: Record<string, unknown> }[]
  /** Answers these many requests, then 503 until set again. */
  answers: number
  refuse: { status: number; code: string } | null
}

async function standIn(id: number, answer: (path: string) => unknown): Promise<StandIn> {
  const requests: StandIn['requests'] = []
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    request.on('end', () => {
      const [method, path] = [request.method ?? '', request.url ?? '']
      const fail = (status: number, code: string) => {
        response.statusCode = status
        response.end(JSON.stringify({ status, code, detail: `${code} at ${path}` }))
      }
      if (self.answers <= 0) return fail(503, 'unavailable')
      if (self.refuse && method === 'PUT') return fail(self.refuse.status, self.refuse.code)
      self.answers--
      requests.push({ method, path, body: text ? JSON.parse(text) : {} })
      response.end(JSON.stringify(answer(path)))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  open.push(server)
  const httpPort = (server.address() as { port: number }).port
  const node = { id, host: '127.0.0.1', pgPort: 1, httpPort }
  const self: StandIn = { node, requests, answers: Number.POSITIVE_INFINITY, refuse: null }
  return self
}

async function world(options: { safekeepers?: number; store?: MemoryStore } = {}) {
  const store = options.store ?? new MemoryStore()
  const pageserver = await standIn(1, (path) => ({
    timelineId: path.split('/').at(-1),
    startLsn: START,
    lastRecordLsn: START,
    diskConsistentLsn: START,
    remoteConsistentLsn: START,
    systemId: '7400000000000000001',
    pgVersion: 170011,
  }))
  const commit = { flushLsn: START, commitLsn: START, term: 1 }
  const safekeepers: StandIn[] = []
  for (let id = 1; id <= (options.safekeepers ?? 1); id++) {
    safekeepers.push(await standIn(id, () => ({ ...commit, startLsn: START })))
  }
  const registry = new Registry(store)
  const log = pino({ level: 'silent' })
  await registerNode(registry, 'pageserver', pageserver.node)
  for (const { node } of safekeepers) await registerNode(registry, 'safekeeper', node)
  const timelines = new Timelines(registry, log)
  const tokens = new Tokens({ auth: null, caFile: null, log })
  const tips = new TipFinder({ registry, tokens, log })
  return {
    store,
    commit,
    pageserver,
    safekeepers,
    registry,
    timelines,
    tenants: new Tenants(registry, timelines, log),
    branches: new Branches({
      registry,
      timelines,
      tips,
      imports: new Imports({ registry, timelines, log }),
      log,
    }),
    endpoints: new Endpoints({
      registry,
      tips,
      tokens,
      log,
      controlPlaneUrl: () => 'http://127.0.0.1:9090',
      firstPort: 56_000 + Math.floor(Math.random() * 4_000),
    }),
  }
}

const codeOf = (error: unknown) => (error instanceof ZenithError ? error.code : String(error))
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => 'done',
    (error: unknown) => codeOf(error),
  )

describe('tenants', () => {
  it('are created on both sides, with the start the pageserver chose', async () => {
    const { tenants, pageserver, safekeepers, registry } = await world()
    const tenant = await tenants.create('a'.repeat(32))
    expect(tenant).toMatchObject({ tenantId: 'a'.repeat(32), state: 'active', generation: 1 })
    expect(pageserver.requests.map(({ method }) => method)).toEqual(['PUT', 'PUT', 'PUT'])
    expect(safekeepers[0]?.requests[0]?.body).toMatchObject({
      startLsn: START,
      systemId: '7400000000000000001',
      generation: 1,
    })
    const [branch] = await registry.branches(tenant.tenantId)
    expect(branch).toMatchObject({ name: 'main', parent: null, timelineId: tenant.mainTimelineId })
    expect(await tenants.create('a'.repeat(32))).toEqual(tenant)
  })

  it('are completed after a failure at any step', async () => {
    for (let steps = 0; steps < 3; steps++) {
      const { tenants, pageserver, safekeepers } = await world()
      pageserver.answers = steps
      expect(await failure(tenants.create('b'.repeat(32)))).toBe('unavailable')
      expect(await tenants.get('b'.repeat(32))).toMatchObject({ state: 'creating' })
      pageserver.answers = Number.POSITIVE_INFINITY
      const keeper = safekeepers[0] as StandIn
      keeper.answers = 0
      expect(await failure(tenants.create('b'.repeat(32)))).toBe('unavailable')
      keeper.answers = Number.POSITIVE_INFINITY
      await tenants.resume()
      expect(await tenants.get('b'.repeat(32))).toMatchObject({ state: 'active' })
    }
  })

  it('are created once when asked twice at the same time', async () => {
    const { tenants, pageserver } = await world()
    const id = 'c'.repeat(32)
    const [one, two] = await Promise.all([tenants.create(id), tenants.create(id)])
    expect(one).toEqual(two)
    expect(pageserver.requests).toHaveLength(3)
  })

  it('get a higher generation at each re-attachment', async () => {
    const { tenants, store } = await world()
    const tenant = await tenants.create()
    const first = await tenants.reAttach(1)
    const second = await new Tenants(new Registry(store), null as never, null as never).reAttach(1)
    expect(first.tenants[0]).toMatchObject({ tenantId: tenant.tenantId, generation: 2 })
    expect(second.tenants[0]).toMatchObject({ generation: 3 })
    expect(second.tenants[0]?.timelines[0]?.safekeepers).toHaveLength(1)
    expect(await tenants.reAttach(2)).toEqual({ tenants: [], secondaries: [] })
  })
})

describe('branches', () => {
  it('start at the end of their parent, also when one safekeeper is down', async () => {
    const { tenants, branches, safekeepers, timelines } = await world({ safekeepers: 3 })
    const { tenantId } = await tenants.create()
    const down = safekeepers[2] as StandIn
    down.answers = 0
    const branch = await branches.create(tenantId, { name: 'dev' })
    expect(branch).toMatchObject({ parent: 'main', branchLsn: START, state: 'active' })
    down.answers = Number.POSITIVE_INFINITY
    await timelines.fillPending()
    expect(down.requests.at(-1)?.path).toContain(branch.timelineId)
    expect((await branches.list(tenantId)).map(({ name }) => name)).toEqual(['main', 'dev'])
  })

  it('are refused with a sentence, and nothing is left behind', async () => {
    const { tenants, branches, pageserver } = await world()
    const { tenantId } = await tenants.create()
    await branches.create(tenantId, { name: 'dev' })
    expect(await failure(branches.create(tenantId, { name: 'dev' }))).toBe('already_exists')
    expect(await failure(branches.create(tenantId, { name: 'x', from: 'mian' }))).toBe('not_found')
    expect(await failure(branches.create(tenantId, { name: 'Not Good' }))).toBe('invalid_argument')
    for (const lsn of ['0/14FFFF8', '0/1500028', 'F/0']) {
      expect(await failure(branches.create(tenantId, { name: 'x', lsn }))).toBe('out_of_range')
    }
    pageserver.refuse = { status: 400, code: 'out_of_range' }
    expect(await failure(branches.create(tenantId, { name: 'x' }))).toBe('out_of_range')
    pageserver.refuse = null
    expect((await branches.list(tenantId)).map(({ name }) => name)).toEqual(['main', 'dev'])
    expect((await branches.create(tenantId, { name: 'x' })).state).toBe('active')
  })

  it('are completed when a service was away in the middle', async () => {
    const { tenants, branches, pageserver } = await world()
    const { tenantId } = await tenants.create()
    pageserver.answers = 0
    expect(await failure(branches.create(tenantId, { name: 'dev' }))).toBe('unavailable')
    pageserver.answers = Number.POSITIVE_INFINITY
    await branches.resume()
    expect((await branches.list(tenantId)).at(-1)).toMatchObject({ name: 'dev', state: 'active' })
  })
})

describe('endpoints', () => {
  it('give one writer per branch, and say who it is', async () => {
    const { tenants, endpoints } = await world()
    const { tenantId } = await tenants.create()
    await endpoints.create(tenantId, { branch: 'main' })
    await endpoints.create(tenantId, { branch: 'main', name: 'second' })
    const starts = await Promise.allSettled([
      endpoints.start(tenantId, 'main'),
      endpoints.start(tenantId, 'second'),
    ])
    expect(starts.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    const refused = starts[1] as PromiseRejectedResult
    expect(String(refused.reason)).toContain('endpoint "main" is starting')
    expect(await failure(endpoints.start(tenantId, 'main'))).toBe('conflict')
    expect(await failure(endpoints.delete(tenantId, 'main'))).toBe('conflict')
  })

  it('give free ports, and refuse one that is taken', async () => {
    const { tenants, branches, endpoints } = await world()
    const { tenantId } = await tenants.create()
    const taken = createTcpServer()
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
    const { port } = taken.address() as { port: number }
    expect(await failure(endpoints.create(tenantId, { branch: 'main', port }))).toBe('conflict')
    taken.close()
    await branches.create(tenantId, { name: 'dev' })
    await endpoints.create(tenantId, { branch: 'main' })
    await endpoints.create(tenantId, { branch: 'dev' })
    const main = await endpoints.start(tenantId, 'main')
    const dev = await endpoints.start(tenantId, 'dev')
    expect(dev.port).toBeGreaterThan(main.port)
    expect(main).toMatchObject({ attempt: 1, systemId: '7400000000000000001', pgVersion: 170011 })
    expect(await failure(endpoints.start(tenantId, 'mian'))).toBe('not_found')
  })

  it('take a compute that has gone for crashed, and start again', async () => {
    const { tenants, endpoints } = await world()
    const { tenantId } = await tenants.create()
    await endpoints.create(tenantId, { branch: 'main' })
    const { attempt } = await endpoints.start(tenantId, 'main')
    const report = { attempt, status: 'running' as const, httpPort: 1, lsn: START }
    await endpoints.report(tenantId, 'main', report)
    expect(await endpoints.get(tenantId, 'main')).toMatchObject({ status: 'crashed', lsn: START })
    expect((await endpoints.start(tenantId, 'main')).attempt).toBe(attempt + 1)
  })

  it('keep the port of a compute that was killed, although its Postgres takes a moment to end', async () => {
    const { tenants, endpoints } = await world()
    const { tenantId } = await tenants.create()
    await endpoints.create(tenantId, { branch: 'main' })
    const { attempt, port } = await endpoints.start(tenantId, 'main')
    const ending = createTcpServer()
    await new Promise<void>((resolve) => ending.listen(port, '127.0.0.1', resolve))
    await endpoints.report(tenantId, 'main', {
      attempt,
      status: 'running',
      httpPort: 1,
      lsn: START,
    })
    setTimeout(() => ending.close(), 100)
    expect((await endpoints.start(tenantId, 'main')).port).toBe(port)
  })

  it('have the subscriptions of a branch dropped until a start has reported that they are', async () => {
    const { tenants, branches, endpoints } = await world()
    const { tenantId } = await tenants.create()
    await branches.create(tenantId, { name: 'dev', dropSubscriptions: true })
    await branches.create(tenantId, { name: 'of-dev', from: 'dev' })
    for (const branch of ['main', 'dev', 'of-dev']) await endpoints.create(tenantId, { branch })
    await endpoints.create(tenantId, { branch: 'dev', name: 'reader', mode: 'replica' })
    const asked = async (name: string) => {
      const { attempt, dropSubscriptions } = await endpoints.start(tenantId, name)
      await endpoints.report(tenantId, name, { attempt, status: 'stopped' })
      return dropSubscriptions
    }
    expect(await asked('main')).toBeUndefined()
    expect(await asked('reader')).toBeUndefined()
    expect(await asked('of-dev')).toBe(true)
    expect(await asked('dev')).toBe(true)
    const { attempt, dropSubscriptions } = await endpoints.start(tenantId, 'dev')
    expect(dropSubscriptions).toBe(true)
    const done = { status: 'starting' as const, subscriptionsDropped: true }
    await endpoints.report(tenantId, 'dev', { ...done, attempt: attempt - 1 })
    await endpoints.report(tenantId, 'dev', { attempt, status: 'stopped' })
    const again = await endpoints.start(tenantId, 'dev')
    expect(again.dropSubscriptions).toBe(true)
    await endpoints.report(tenantId, 'dev', { ...done, attempt: again.attempt })
    await endpoints.report(tenantId, 'dev', { attempt: again.attempt, status: 'stopped' })
    expect(await asked('dev')).toBeUndefined()
    expect(await asked('of-dev')).toBe(true)
  })
})
