/**
 * The pageserver and object storage, with real processes: objects are deleted only with the word of
 * the control plane, a list of them survives kill -9, a lost disk loses nothing, and reads go on
 * while files are evicted under them.
 */
import { globSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { callPageserver } from '#libs/api/pageserver.ts'
import { requestText } from '#libs/http/client.ts'
import { parseLsn } from '#libs/lsn.ts'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'

const ROWS = 2000
const PATIENCE = { timeout: 60_000, interval: 100 }
let zenith: Installation
let compute: Compute
let timelineId = ''

beforeAll(async () => {
  zenith = await Installation.create({
    // Small enough for what follows to outgrow it, so that files are evicted all the time.
    pageserver: { disk: { max_bytes: 8_000_000, tenant_floor_bytes: 0 } },
  })
  compute = await zenith.startCompute('main', { settings: { shared_buffers: '1MB' } })
  timelineId = compute.spec.timelineId
})
afterAll(async () => {
  await zenith?.[Symbol.asyncDispose]()
})

const params = () => ({ tenantId: zenith.tenantId, timelineId })
const checkpoint = () => callPageserver(zenith.pageserverUrl, 'checkpoint', { params: params() })
const compact = () => callPageserver(zenith.pageserverUrl, 'compact', { params: params() })

async function metric(name: string): Promise<number> {
  const { text } = await requestText('GET', `${zenith.pageserverUrl}/metrics`)
  const found = new RegExp(`^zenith_pageserver_${name}(?:{[^}]*})? (\\S+)$`, 'm').exec(text)
  if (!found) throw new Error(`there is no metric ${name}`)
  return Number(found[1])
}

async function query<T>(server: Compute, sql: string): Promise<T> {
  const client = await server.connect()
  try {
    return (await client.query(sql)).rows[0] as T
  } finally {
    await client.end()
  }
}

/** Each row gets a new value, which `sumOf` tells; returns the LSN where that is so. */
async function write(round: number): Promise<string> {
  const client = await compute.connect()
  if (round === 0) {
    await client.query('CREATE TABLE kept (id int PRIMARY KEY, round int, filler text)')
    const filler = "(SELECT string_agg(md5(n || '-' || m), '') FROM generate_series(1, 12) m)"
    await client.query(`INSERT INTO kept SELECT n, 0, ${filler} FROM generate_series(1, ${ROWS}) n`)
  }
  await client.query('UPDATE kept SET round = $1', [round])
  const { rows } = await client.query('SELECT pg_current_wal_insert_lsn()::text AS lsn')
  await client.end()
  const { lsn } = rows[0] as { lsn: string }
  await callPageserver(zenith.pageserverUrl, 'waitLsn', {
    params: params(),
    body: { lsn, timeoutMs: 60_000 },
  })
  await checkpoint()
  return lsn
}

async function checkRound(server: Compute, round: number): Promise<void> {
  const sql = 'SELECT count(*)::int AS rows, sum(round)::int AS sum FROM kept'
  expect(await query(server, sql)).toEqual({ rows: ROWS, sum: ROWS * round })
}

const layerObjects = () => globSync('object-store/**/layers/*', { cwd: zenith.dir }).length

test('without the control plane WAL is kept and nothing is deleted; a killed pageserver goes on with its list', async () => {
  for (let round = 0; round <= 2; round++) await write(round)
  const before = await callPageserver(zenith.pageserverUrl, 'getTimeline', { params: params() })
  expect(before.remoteConsistentLsn).toBe(before.diskConsistentLsn)
  // What earlier merges made useless is not to be taken for deletions without the control plane.
  await expect.poll(() => metric('deletion_queue'), PATIENCE).toBe(0)
  const deleted = await metric('deletions_total')

  await zenith.control.stop('SIGKILL')
  await write(3)
  await compact()
  // What the merges made useless waits, and so does the WAL that was flushed meanwhile.
  const queued = await metric('deletion_queue')
  expect(queued).toBeGreaterThan(0)
  expect(await metric('deletions_total')).toBe(deleted)
  const during = await callPageserver(zenith.pageserverUrl, 'getTimeline', { params: params() })
  expect(parseLsn(during.diskConsistentLsn)).toBeGreaterThan(parseLsn(before.diskConsistentLsn))
  expect(during.remoteConsistentLsn).toBe(before.remoteConsistentLsn)
  await checkRound(compute, 3)

  const objects = layerObjects()
  await zenith.pageserver.stop('SIGKILL')
  await zenith.start()
  await expect.poll(() => metric('deletion_queue'), PATIENCE).toBe(0)
  expect(await metric('deletions_total')).toBeGreaterThanOrEqual(queued)
  expect(await metric('deletions_dropped_total')).toBe(0)
  expect(layerObjects()).toBeLessThan(objects)
  await expect
    .poll(async () => {
      const now = await callPageserver(zenith.pageserverUrl, 'getTimeline', { params: params() })
      return parseLsn(now.remoteConsistentLsn) - parseLsn(during.diskConsistentLsn)
    }, PATIENCE)
    .toBeGreaterThanOrEqual(0)
  await checkRound(compute, 3)
})

test('a lost disk loses nothing, the past included', async () => {
  const past = await write(4)
  await write(5)
  await compact()
  await zenith.pageserver.stop('SIGKILL')
  for (const name of ['tenants', 'local-state.mdb', 'local-state.mdb-lock']) {
    rmSync(join(zenith.dir, 'pageserver', name), { recursive: true, force: true })
  }
  await zenith.pageserver.start()
  await checkRound(compute, 5)
  const then = await zenith.startCompute('main', { name: 'then', mode: 'static', lsn: past })
  await checkRound(then, 4)
  await then.stop()
  expect(await metric('resident_bytes')).toBeGreaterThanOrEqual(0)
})

test('reads go on while the files of layers are evicted and come back', async () => {
  const evicted = await metric('evictions_total')
  let round = 5
  const until = Date.now() + 120_000
  // The disk is looked at every ten seconds.
  while ((await metric('evictions_total')) === evicted && Date.now() < until) {
    await write(++round)
    await checkRound(compute, round)
    await sleep(100)
  }
  expect(await metric('evictions_total')).toBeGreaterThan(evicted)
  await checkRound(compute, round)
  await expect.poll(() => metric('resident_bytes'), PATIENCE).toBeLessThan(16_000_000)
})
