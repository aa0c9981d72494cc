/**
 * A control plane over a store, and small stand-ins for the services, which keep what they are told;
 * with the real ones the same is tested in branches.pg.test.ts.
 */
import { createServer, type Server } from 'node:http'
import { pino } from 'pino'
import { ERROR_HTTP_STATUS, ZenithError } from '#libs/errors.ts'
import { Branches } from '../../branches.ts'
import { Endpoints } from '../../endpoints.ts'
import { FormerShards } from '../../moves/former-shards.ts'
import { Imports } from '../../imports.ts'
import { registerNode } from '../../nodes.ts'
import { Registry } from '../../registry.ts'
import type { Store } from '../../store/store.ts'
import { Tenants } from '../../tenants.ts'
import { Timelines } from '../../timelines.ts'
import { TipFinder } from '../../tip.ts'
import { Tokens } from '../../tokens.ts'
import { Lifecycle } from '../lifecycle.ts'
import { TenantDeletion } from '../tenant-deletion.ts'

export const START = '0/1500000'
const servers: Server[] = []

/** After each test. */
export function closeServices(): void {
  for (const server of servers.splice(0)) server.close()
}

async function serve(answer: (method: string, path: string, body: string) => unknown) {
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    request.on('end', () => {
      const told = answer(request.method ?? '', request.url ?? '', text)
      if (told instanceof ZenithError) response.statusCode = ERROR_HTTP_STATUS[told.code]
      response.end(JSON.stringify(told instanceof ZenithError ? bodyOf(told) : told))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  servers.push(server)
  return (server.address() as { port: number }).port
}

function bodyOf({ code, message: detail }: ZenithError) {
  return { status: ERROR_HTTP_STATUS[code], code, detail }
}

/** Timelines that the services have, each with what was done to it last. */
export interface Services {
  pageserver: Map<string, string>
  safekeeper: Set<string>
  /** The same by shards, as `<tenant or shard>/<timeline>`. */
  shards: Set<string>
  /** What it answers whoever attaches a tenant or shard, or makes a branch, once it has made that. */
  refusals: Map<string, ZenithError>
  /** Tenants that the pageserver holds. */
  tenants: Set<string>
  /** Of deleted tenants: in how many more answers the pageserver still counts objects. */
  objectsLeave: number
  /** The same of what former shards have left. */
  formerLeave: number
}

export async function services(store: Store): Promise<Services> {
  const state: Services = {
    pageserver: new Map(),
    safekeeper: new Set(),
    shards: new Set(),
    refusals: new Map(),
    tenants: new Set(),
    objectsLeave: 0,
    formerLeave: 0,
  }
  const idIn = (path: string) => /timeline\/([0-9a-f]{32})/.exec(path)?.[1] ?? ''
  const pageserver = await serve((method, path, body) => {
    const id = idIn(path)
    const what = path.split('/').at(-1)
    const tenantId = path.split('/')[3] as string
    const refusal = state.refusals.get(tenantId)
    if (what === 'tenant')
      return [...state.tenants].map((one) => ({ tenantId: one, generation: 1 }))
    if (what === 'borrowed') return { generation: 1, objects: [] }
    if (what === 'sweep-former') return { left: state.formerLeave-- > 0 ? 1 : 0 }
    if (what === 'location') {
      state.tenants.delete(tenantId)
      return { tenantId, mode: 'detached', generation: null, timelines: [], secondary: null }
    }
    if (id === '' && method === 'DELETE') {
      state.pageserver.clear()
      return { objects: state.objectsLeave-- > 0 ? 1 : 0 }
    }
    if (id === '') {
      if (refusal) return refusal
      state.tenants.add(tenantId)
      return { tenantId, generation: 1 }
    }
    const name = `${tenantId}/${id}`
    if (method === 'DELETE') state.shards.delete(name)
    if (method === 'PUT' && what === id) state.shards.add(name)
    const isBranch = body.includes('"ancestorTimelineId"')
    if (method === 'DELETE') state.pageserver.delete(id)
    else if (what === 'archive') state.pageserver.set(id, 'archived')
    else if (what === 'unarchive') state.pageserver.set(id, 'active')
    else if (what === 'detach') return { startLsn: START, children: [] }
    else if (method === 'PUT' && what === id) {
      state.pageserver.set(id, 'active')
      if (refusal && isBranch) return refusal
    }
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

export function controlPlane(store: Store) {
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
  const formerShards = new FormerShards({ registry, log })
  return {
    registry,
    branches,
    imports,
    timelines,
    tenants: new Tenants(registry, timelines, log),
    endpoints,
    tenantDeletion: new TenantDeletion({ registry, timelines, endpoints, formerShards, log }),
    lifecycle: new Lifecycle({ registry, timelines, branches, endpoints, tips, log }),
  }
}

export type Plane = ReturnType<typeof controlPlane>
