/**
 * Every operation on branches, with the control plane dying at each of its writes, before the write
 * or right after it: another one goes on from the records alone, and all agree in the end. Services
 * are small stand-ins that keep what they are told; the real ones are in branches.pg.test.ts.
 */
import { createServer, type Server } from 'node:http'
import { pino } from 'pino'
import { afterEach, describe, expect, test } from 'vitest'
import { Branches } from '../branches.ts'
import { Endpoints } from '../endpoints.ts'
import { Imports } from '../imports.ts'
import { registerNode } from '../nodes.ts'
import { Registry } from '../registry.ts'
import { MemoryStore } from '../store/memory-store.ts'
import type { Change, Store } from '../store/store.ts'
import { Tenants } from '../tenants.ts'
import { Timelines } from '../timelines.ts'
import { TipFinder } from '../tip.ts'
import { Tokens } from '../tokens.ts'
import { Lifecycle } from './lifecycle.ts'
import { nextStep } from './rules.ts'

const START = '0/1500000'
const TENANT = 'a'.repeat(32)
const servers: Server[] = []
afterEach(() => {
  for (const server of servers.splice(0)) server.close()
})

/** A store that ends with its process: at a certain write, and for everything after it. */
class MortalStore implements Store {
  readonly #inner: Store
  writesLeft = Number.POSITIVE_INFINITY
  /** The last write is still stored. */
  storesLast = false
  #dead = false

  constructor(inner: Store) {
    this.#inner = inner
  }

  get<T>(key: string) {
    this.#check()
    return this.#inner.get<T>(key)
  }

  range<T>(prefix: string) {
    this.#check()
    return this.#inner.range<T>(prefix)
  }

  async compareAndSwap(changes: readonly Change[]): Promise<boolean> {
    this.#check()
    if (this.writesLeft-- > 0) return this.#inner.compareAndSwap(changes)
    this.#dead = true
    if (this.storesLast) await this.#inner.compareAndSwap(changes)
    throw new Error('the control plane has died')
  }

  async close(): Promise<void> {}

  #check(): void {
    if (this.#dead) throw new Error('the control plane has died')
  }
}

async function serve(answer: (method: string, path: string, body: string) => unknown) {
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    request.on('end', () => {
      response.end(JSON.stringify(answer(request.method ?? '', request.url ?? '', text)))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  servers.push(server)
  return (server.address() as { port: number }).port
}

/** Timelines that the services have, each with what was done to it last. */
interface Services {
  pageserver: Map<string, string>
  safekeeper: Set<string>
}

async function services(store: Store): Promise<Services> {
  const state: Services = { pageserver: new Map(), safekeeper: new Set() }
  const idIn = (path: string) => /timeline\/([0-9a-f]{32})/.exec(path)?.[1] ?? ''
  const pageserver = await serve((method, path) => {
    const id = idIn(path)
    const what = path.split('/').at(-1)
    if (method === 'DELETE') state.pageserver.delete(id)
    else if (what === 'archive') state.pageserver.set(id, 'archived')
    else if (what === 'unarchive') state.pageserver.set(id, 'active')
    else if (what === 'detach') return { startLsn: START, children: [] }
    else if (method === 'PUT' && what === id) state.pageserver.set(id, 'active')
    const facts = { startLsn: START, lastRecordLsn: START, diskConsistentLsn: START }
    const identity = { systemId: '7400000000000000001', pgVersion: 170011 }
    return { timelineId: id, ...facts, remoteConsistentLsn: START, ...identity }
  })
  const safekeeper = await serve((method, path) => {
    if (method === 'DELETE') state.safekeeper.delete(idIn(path))
    if (method === 'PUT') state.safekeeper.add(idIn(path))
    return { flushLsn: START, commitLsn: START, term: 1, startLsn: START, deleted: true }
  })
  const registry = new Registry(store)
  const host = '127.0.0.1'
  await registerNode(registry, 'pageserver', { id: 1, host, pgPort: 1, httpPort: pageserver })
  await registerNode(registry, 'safekeeper', { id: 1, host, pgPort: 1, httpPort: safekeeper })
  return state
}

function controlPlane(store: Store) {
  const registry = new Registry(store)
  const log = pino({ level: 'silent' })
  const timelines = new Timelines(registry, log)
  const tokens = new Tokens({ auth: null, caFile: null, log })
  const tips = new TipFinder({ registry, tokens, log })
  const imports = new Imports({ registry, timelines, log })
  const branches = new Branches({ registry, timelines, tips, imports, log })
  const endpoints = new Endpoints({
    registry,
    tips,
    tokens,
    log,
    controlPlaneUrl: () => 'http://127.0.0.1:9090',
    firstPort: 56_000,
  })
  return {
    registry,
    branches,
    tenants: new Tenants(registry, timelines, log),
    endpoints,
    lifecycle: new Lifecycle({ registry, timelines, branches, endpoints, tips, log }),
  }
}

type Plane = ReturnType<typeof controlPlane>
type Operation = (plane: Plane) => Promise<unknown>

/** Whatever happened: records, names and services agree, and nothing is under way. */
async function expectSettled({ registry }: Plane, state: Services): Promise<void> {
  const timelines = await registry.timelines(TENANT)
  const branches = await registry.branches(TENANT)
  expect(timelines.map(nextStep).filter((step) => step !== null)).toEqual([])
  const ids = timelines.map(({ timelineId }) => timelineId).sort()
  expect(branches.map(({ timelineId }) => timelineId).sort()).toEqual(ids)
  expect([...state.pageserver.keys()].sort()).toEqual(ids)
  expect([...state.safekeeper].sort()).toEqual(ids)
  for (const { timelineId, state: is, ancestorTimelineId, branch } of timelines) {
    expect(state.pageserver.get(timelineId)).toBe(is)
    expect(branches.find((one) => one.timelineId === timelineId)?.name).toBe(branch)
    if (ancestorTimelineId !== null) expect(ids).toContain(ancestorTimelineId)
  }
  for (const endpoint of await registry.endpoints(TENANT)) {
    const branch = branches.find(({ name }) => name === endpoint.branch)
    expect(branch?.timelineId).toBe(endpoint.timelineId)
  }
}

const OPERATIONS: Record<string, { before?: Operation; run: Operation; after: Operation }> = {
  delete: {
    run: ({ lifecycle }) => lifecycle.delete(TENANT, 'dev', {}),
    after: async ({ registry }) => expect(await registry.findBranch(TENANT, 'dev')).toBeNull(),
  },
  archive: {
    run: ({ lifecycle }) => lifecycle.archive(TENANT, 'dev'),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).at(-1)).toMatchObject({ state: 'archived' }),
  },
  unarchive: {
    before: ({ lifecycle }) => lifecycle.archive(TENANT, 'dev'),
    run: ({ lifecycle }) => lifecycle.unarchive(TENANT, 'dev'),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).at(-1)).toMatchObject({ state: 'active' }),
  },
  detach: {
    run: ({ lifecycle }) => lifecycle.detach(TENANT, 'dev'),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).at(-1)).toMatchObject({ parent: null }),
  },
  reset: {
    run: ({ lifecycle }) => lifecycle.reset(TENANT, 'dev', { keepAs: 'kept' }),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).map(({ name }) => name).sort()).toEqual([
        'dev',
        'kept',
        'main',
      ]),
  },
  'reset and discard': {
    run: ({ lifecycle }) => lifecycle.reset(TENANT, 'dev', { discard: true }),
    after: async ({ branches }) =>
      expect((await branches.list(TENANT)).map(({ name }) => name).sort()).toEqual(['dev', 'main']),
  },
  restore: {
    run: ({ lifecycle }) => lifecycle.restore(TENANT, 'main', { lsn: START, keepAs: 'kept' }),
    after: async ({ registry }) => {
      const main = await registry.branch(TENANT, 'main')
      expect((await registry.tenant(TENANT)).mainTimelineId).toBe(main.timelineId)
      const timeline = await registry.timeline(TENANT, main.timelineId)
      expect(timeline).toMatchObject({ ancestorTimelineId: null, historyStartLsn: START })
    },
  },
}

describe('operations on branches', () => {
  for (const [name, { before, run, after }] of Object.entries(OPERATIONS)) {
    test(`${name}: goes on after the control plane died at any of its writes`, async () => {
      let done = false
      for (let writes = 0; !done; writes++) {
        for (const storesLast of [false, true]) {
          const disk = new MemoryStore()
          const state = await services(disk)
          const store = new MortalStore(disk)
          const plane = controlPlane(store)
          await plane.tenants.create(TENANT)
          await plane.branches.create(TENANT, { name: 'dev' })
          await plane.endpoints.create(TENANT, { branch: 'dev' })
          await before?.(plane)
          store.writesLeft = writes
          store.storesLast = storesLast
          done = await run(plane).then(
            () => true,
            () => false,
          )
          const next = controlPlane(disk)
          const begun = done || (await next.registry.timelines(TENANT)).some(nextStep)
          // As the resumer does, again and again: one that is replaced is deleted in the next round.
          await next.lifecycle.resume()
          await next.lifecycle.resume()
          await expectSettled(next, state)
          if (begun) await after(next)
          expect(writes).toBeLessThan(30)
        }
      }
    })
  }
})
