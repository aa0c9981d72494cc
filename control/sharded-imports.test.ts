/**
 * Imports of a tenant of three shards, and the end of their following, over a store and a stand-in
 * for the pageserver that does as it is told: what is asked of whom, in which order, and what is
 * left when a part fails. The real path is in test_runner/regress/import-cluster.
 */
import { createServer, type Server } from 'node:http'
import { pino } from 'pino'
import { afterEach, describe, expect, test } from 'vitest'
import type { ImportJob, ImportSource } from '#libs/api/transfer.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { agreedEnd, mergeJobs } from './import-jobs.ts'
import { Imports } from './imports.ts'
import { registerNode } from './nodes.ts'
import type { TimelineRecord } from './records.ts'
import { Registry } from './registry.ts'
import { MemoryStore } from './store/memory-store.ts'
import { Tenants } from './tenants.ts'
import { Timelines } from './timelines.ts'
import { walSourcesOf } from './wal-sources.ts'

const TENANT = 'a'.repeat(32)
const START = '0/1500000'
const SYSTEM = '7400000000000000001'
const log = pino({ level: 'silent' })
const open: Server[] = []
afterEach(() => {
  for (const server of open.splice(0)) server.close()
})

const BACKUP: ImportSource = { kind: 'backup', path: '/srv/backup' }
const SERVER = { host: 'db', pgPort: 5432, user: 'r', sslMode: 'disable' } as const
const PRIMARY: ImportSource = { kind: 'postgres', server: SERVER, follow: true }

const RUNNING: ImportJob = {
  state: 'running',
  phase: 'copying',
  doneBytes: 10,
  totalBytes: 100,
  error: null,
  walEndLsn: null,
  startLsn: null,
  endLsn: null,
  systemId: null,
  pgVersion: null,
}
const done = (endLsn: string): ImportJob => ({
  ...RUNNING,
  state: 'done',
  startLsn: '0/2000000',
  endLsn,
  systemId: SYSTEM,
  pgVersion: 170011,
})
const FAILURE = { code: 'corrupt', message: 'it is damaged', hint: 'copy it anew' }

interface Request {
  shard: number
  what: string
  body: Record<string, unknown>
}

/** All services in one: what each shard answers is decided by the test. */
class StandIn {
  readonly requests: Request[] = []
  /** Of imports: what a shard says, given where it was told to end. */
  job: (shard: number, endLsn: string | undefined) => ImportJob = (_, endLsn) =>
    endLsn === undefined ? { ...RUNNING, walEndLsn: '0/3000000' } : done(endLsn)
  /** Of branches that follow: where each shard is. */
  lsns = ['0/5000', '0/5000', '0/5000']
  catchUpFails = false
  readonly #ends = new Map<number, string | undefined>()

  answer(method: string, path: string, body: Record<string, unknown>): unknown {
    const shard = Number.parseInt(/-([0-9a-f]{2})03\b/.exec(path)?.[1] ?? '0', 16)
    const action = /\/timeline\/[0-9a-f]{32}\/(.*)$/.exec(path)?.[1]?.split('?')[0] ?? ''
    const what = `${method} ${action}`.trim()
    if (method !== 'GET') this.requests.push({ shard, what, body })
    if (what === 'POST import' || what === 'GET import') {
      if (method === 'POST') this.#ends.set(shard, body['endLsn'] as string | undefined)
      return this.job(shard, this.#ends.get(shard))
    }
    if (what === 'POST import/catch-up') {
      if (body['endLsn'] !== undefined) {
        if (this.catchUpFails) throw new Error('the server is gone')
        this.lsns[shard] = body['endLsn'] as string
      }
      return { endLsn: this.lsns[shard] }
    }
    if (what === 'POST import/finish') return { endLsn: this.lsns[shard] }
    const lsn = this.lsns[shard]
    return {
      timelineId: path.split('/').at(-1),
      state: 'active',
      brokenReason: null,
      startLsn: START,
      lastRecordLsn: lsn,
      diskConsistentLsn: lsn,
      remoteConsistentLsn: lsn,
      systemId: SYSTEM,
      pgVersion: 170011,
      walReceiver: null,
      flushLsn: START,
      commitLsn: START,
      term: 1,
    }
  }

  /** Names of requests about imports and sources, with the shard. */
  asked(what: string): Request[] {
    return this.requests.filter((request) => request.what === what)
  }
}

async function world() {
  const standIn = new StandIn()
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    request.on('end', () => {
      try {
        const body = text === '' ? {} : (JSON.parse(text) as Record<string, unknown>)
        response.end(JSON.stringify(standIn.answer(request.method ?? '', request.url ?? '', body)))
      } catch (error) {
        const code = error instanceof ZenithError ? error.code : 'unavailable'
        response.statusCode = code === 'unavailable' ? 503 : 400
        response.end(
          JSON.stringify({ status: response.statusCode, code, detail: errorMessage(error) }),
        )
      }
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  open.push(server)
  const { port } = server.address() as { port: number }
  const registry = new Registry(new MemoryStore())
  const node = { id: 1, host: '127.0.0.1', pgPort: 1, httpPort: port }
  await registerNode(registry, 'pageserver', node)
  await registerNode(registry, 'safekeeper', node)
  const timelines = new Timelines(registry, log)
  await new Tenants(registry, timelines, log).create(TENANT, { shards: 3, stripeBlocks: 8 })
  standIn.requests.length = 0
  const begin = () => new Imports({ registry, timelines, log })
  return { standIn, registry, begin, imports: begin() }
}

type World = Awaited<ReturnType<typeof world>>

const stateOf = (imports: Imports) => async () => (await imports.get(TENANT, 'prod')).state

async function recordOf({ registry }: World): Promise<TimelineRecord | undefined> {
  const branch = await registry.findBranch(TENANT, 'prod')
  return branch === null ? undefined : await registry.timeline(TENANT, branch.value.timelineId)
}

describe('an import by three shards', () => {
  test('ends where all agree, which is recorded before the first is told', async () => {
    const it = await world()
    const { standIn, imports } = it
    const ends = ['0/3000000', '0/2800000', '0/2F00000']
    let recorded: string | undefined
    standIn.job = (shard, endLsn) => {
      if (endLsn === undefined) return { ...RUNNING, walEndLsn: ends[shard] as string }
      return done(endLsn)
    }
    const answer = standIn.answer.bind(standIn)
    standIn.answer = (method, path, body) => {
      if (body['endLsn'] !== undefined) {
        void recordOf(it).then((record) => {
          recorded ??= record?.importState?.endLsn
        })
      }
      return answer(method, path, body)
    }
    await imports.start(TENANT, { name: 'prod', source: BACKUP })
    await expect.poll(stateOf(imports), { timeout: 20_000 }).toBe('done')
    expect(recorded).toBe('0/2800000')
    const starts = standIn.asked('POST import')
    expect(starts.map(({ shard, body }) => [shard, body['endLsn']])).toEqual([
      ...[0, 1, 2].map((shard) => [shard, undefined]),
      ...[0, 1, 2].map((shard) => [shard, '0/2800000']),
    ])
    expect(new Set(starts.map(({ body }) => body['slot'])).size).toBe(3)
    const record = await recordOf(it)
    expect(record).toMatchObject({
      state: 'active',
      startLsn: '0/2800000',
      historyStartLsn: '0/2000000',
    })
    expect(record).not.toHaveProperty('importing')
    expect(record).not.toHaveProperty('importState')
  })

  test('goes on after a restart with what was agreed on', async () => {
    const it = await world()
    const { standIn, imports } = it
    standIn.job = (_, endLsn) => ({ ...RUNNING, walEndLsn: endLsn ?? '0/3000000' })
    await imports.start(TENANT, { name: 'prod', source: BACKUP })
    const agreed = async () => (await recordOf(it))?.importState?.endLsn
    await expect.poll(agreed, { timeout: 20_000 }).toBe('0/3000000')
    standIn.job = (_, endLsn) => done(endLsn ?? '0/0')
    const next = it.begin()
    await next.resume()
    await expect.poll(stateOf(next), { timeout: 20_000 }).toBe('done')
    expect(await recordOf(it)).toMatchObject({ startLsn: '0/3000000' })
  })

  test('that one of them cannot do leaves nothing with any, nor on the server', async () => {
    const it = await world()
    const { standIn, imports } = it
    standIn.job = (shard) =>
      shard === 1 ? { ...RUNNING, state: 'failed', error: FAILURE } : done('0/3000000')
    await imports.start(TENANT, { name: 'prod', source: PRIMARY })
    await expect.poll(stateOf(imports), { timeout: 20_000 }).toBe('failed')
    expect((await imports.get(TENANT, 'prod')).error).toEqual({
      ...FAILURE,
      message: 'shard 1: it is damaged',
    })
    const aborts = standIn.asked('POST import/abort')
    expect(aborts.map(({ shard, body }) => `${shard} ${String(body['remove'])}`).sort()).toEqual([
      '0 true',
      '1 true',
      '2 true',
    ])
    expect(standIn.asked('POST import/drop-slot')).toHaveLength(3)
    expect(await it.registry.findBranch(TENANT, 'prod')).toBeNull()
    const again = it.begin()
    standIn.job = (_, endLsn) => (endLsn === undefined ? RUNNING : done(endLsn))
    await again.start(TENANT, { name: 'prod', source: BACKUP })
    expect((await again.stop(TENANT, 'prod', false)).state).toBe('stopped')
    expect(await it.registry.findBranch(TENANT, 'prod')).toBeNull()
    expect(standIn.asked('POST import/abort').length).toBeGreaterThanOrEqual(6)
  })

  test('that is refused for what is asked ends, and is not asked for again and again', async () => {
    const it = await world()
    const { standIn, imports } = it
    standIn.job = (shard) => {
      if (shard === 2) throw new ZenithError('invalid_argument', 'there is no such kind of source')
      return RUNNING
    }
    await imports.start(TENANT, { name: 'prod', source: BACKUP })
    await expect.poll(stateOf(imports), { timeout: 20_000 }).toBe('failed')
    expect((await imports.get(TENANT, 'prod')).error).toMatchObject({
      code: 'invalid_argument',
      message: expect.stringContaining('there is no such kind of source'),
    })
    expect(standIn.asked('POST import/abort')).toHaveLength(3)
    expect(await it.registry.findBranch(TENANT, 'prod')).toBeNull()
  })

  test('of which shards have seen different backups is refused', () => {
    const apart = [done('0/3000000'), done('0/3000008')]
    const job = mergeJobs(apart, BACKUP)
    expect([job.state, job.error?.code]).toEqual(['failed', 'corrupt'])
    // These were told to follow when something came in between.
    expect(mergeJobs(apart, PRIMARY).state).toBe('done')
    const [one, other] = apart as [ImportJob, ImportJob]
    expect(mergeJobs([one, { ...other, startLsn: '0/8' }], PRIMARY).state).toBe('failed')
    const ends = [{ walEndLsn: '0/20' }, { walEndLsn: '0/8' }, { walEndLsn: '1/0' }]
    expect(agreedEnd({ kind: 'backup' }, ends)).toBe('0/8')
    expect(agreedEnd({ kind: 'postgres' }, ends)).toBe('1/0')
    expect(agreedEnd({ kind: 'postgres' }, [...ends, { walEndLsn: null }])).toBeNull()
    const early = { ...RUNNING, phase: 'fetching' as const, doneBytes: 5, totalBytes: null }
    expect(mergeJobs([RUNNING, early, early], BACKUP)).toMatchObject({
      state: 'running',
      phase: 'fetching',
      doneBytes: 10,
      totalBytes: null,
    })
    expect(mergeJobs([RUNNING, done('0/8')], BACKUP)).toMatchObject({ state: 'running' })
  })
})

describe('the end of following by three shards', () => {
  async function following(): Promise<World> {
    const it = await world()
    await it.imports.start(TENANT, { name: 'prod', source: PRIMARY })
    await expect.poll(stateOf(it.imports), { timeout: 20_000 }).toBe('following')
    it.standIn.requests.length = 0
    return it
  }

  test('each has a slot; those behind take in what the furthest has', async () => {
    const it = await following()
    const { standIn, imports, registry } = it
    const { follows, timelineId } = (await recordOf(it)) as TimelineRecord
    expect(follows?.slot).toBe(`zenith_${timelineId.slice(0, 16)}`)
    const info = await imports.get(TENANT, 'prod')
    expect(info.following?.slot.split(', ')).toEqual(
      [0, 1, 2].map((shard) => `${follows?.slot}_${shard}`),
    )
    standIn.lsns = ['0/5000', '0/7000', '0/6000']
    const ended = await imports.stop(TENANT, 'prod', false)
    expect(ended.state).toBe('done')
    const order = standIn.requests.map(({ what }) => what)
    expect(order.indexOf('POST import/drop-slot')).toBeGreaterThan(
      order.lastIndexOf('POST import/finish'),
    )
    const caughtUp = standIn.asked('POST import/catch-up').filter(({ body }) => body['endLsn'])
    expect(caughtUp.map(({ shard, body }) => `${shard} ${String(body['endLsn'])}`).sort()).toEqual([
      '0 0/7000',
      '2 0/7000',
    ])
    const record = await registry.timeline(TENANT, timelineId)
    expect(record).toMatchObject({ state: 'active', startLsn: '0/7000' })
    expect(record).not.toHaveProperty('follows')
  })

  test('without the server it says what all have, and goes on following', async () => {
    const it = await following()
    const { standIn, imports } = it
    standIn.lsns = ['0/5000', '0/7000', '0/6000']
    standIn.catchUpFails = true
    await expect(imports.stop(TENANT, 'prod', false)).rejects.toMatchObject({
      code: 'unavailable',
      hint: expect.stringContaining('zenith branch <name> prod@0/5000'),
    })
    expect(await stateOf(imports)()).toBe('following')
    expect(standIn.asked('POST import/drop-slot')).toEqual([])
    const sources = standIn.requests.slice(-3).map(({ body }) => body['safekeepers'])
    expect(sources.flat()).toMatchObject([
      { kind: 'postgres', slot: expect.stringMatching(/_0$/) },
      { kind: 'postgres', slot: expect.stringMatching(/_1$/) },
      { kind: 'postgres', slot: expect.stringMatching(/_2$/) },
    ])
    await expect(imports.stop(TENANT, 'prod', true)).rejects.toMatchObject({ code: 'unavailable' })
    const record = (await recordOf(it)) as TimelineRecord
    expect(record.follows?.lost).toBe(true)
    expect(await walSourcesOf(it.registry, record, tenantShardId(TENANT, 1, 3))).toEqual([])
    expect(standIn.asked('POST import/drop-slot')).toHaveLength(3)
    // It came back after all.
    standIn.catchUpFails = false
    expect((await imports.stop(TENANT, 'prod', false)).state).toBe('done')
  })
})
