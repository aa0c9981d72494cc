/**
 * A tenant is split by its size and by request while it is written, read, branched and looked at in
 * the past, and while the processes that do it are killed; at last it is deleted.
 */
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import type { SplitInfo } from '#libs/api/split.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { eventually } from '../fixtures/eventually.ts'
import { filesBelow, Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'

const PATIENCE_MS = 120_000
const MB = 1024 * 1024
const SETTINGS = { shared_buffers: '1MB' }
const COUNT = 'SELECT count(*) FROM pgbench_accounts'
const SUM = 'SELECT sum(abalance), count(*) FROM pgbench_accounts'

/** Waits until it has so many shards, spread, and with `isAlone` until nothing is left of former ones. */
async function settled(zenith: Installation, shards: number, isAlone = false): Promise<SplitInfo> {
  const params = { tenantId: zenith.tenantId }
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    const info = await callControl(zenith.controlUrl, 'getSplit', { params }).catch(() => null)
    const isDone = info?.split === null && info.spread === null && info.shardCount === shards
    if (isDone && (!isAlone || info.formerCounts.length === 0)) return info
    if (Date.now() > deadline) {
      throw new Error(`not ${shards} shards: ${JSON.stringify(info)}\n${zenith.logs(60)}`)
    }
    await sleep(50)
  }
}

test('a tenant is split from one to two to four under load, and no query fails', async () => {
  await using zenith = await Installation.create({
    pageservers: 2,
    control: { pageserver_lost_after: 0, split_check_seconds: 0.2 },
  })
  const { tenantId, controlUrl } = zenith
  const split = (shards: number) =>
    callControl(controlUrl, 'splitTenant', { params: { tenantId }, body: { shards } })
  const policy = () => callControl(controlUrl, 'getSplitPolicy', { params: { tenantId } })
  const placement = async () =>
    (await callControl(controlUrl, 'listPlacements')).map((one) => one.pageserverId)
  const locationOf = (node: number, shard: number, count: number) => {
    const { host, httpPort } = zenith.pageserverNodes[node - 1] as {
      host: string
      httpPort: number
    }
    const params = { tenantId: tenantShardId(tenantId, shard, count) }
    return callPageserver(`http://${host}:${httpPort}`, 'getLocation', { params })
  }
  const compute = await zenith.startCompute('main', { settings: SETTINGS })
  await compute.pgbench(['-i', '-s', '1', '-q'])
  await compute.pgbench(['-c', '2', '-t', '100', '-n'])
  const pastSum = await compute.value(SUM)
  const pastLsn = await compute.value('SELECT pg_current_wal_flush_lsn()')
  await zenith.createBranch('side')
  const replica = await zenith.startCompute('main', { name: 'reports', mode: 'replica' })
  const ledger = new Ledger(() => compute.connect(), 2)
  await ledger.createTables()
  ledger.start()
  // One query that goes on over both splits: it cannot read its settings anew.
  const long = compute.value(
    `SELECT count(*) FROM (SELECT pg_sleep(0.003), (SELECT count(*) FROM pgbench_accounts
       WHERE aid = (g * 797) % 100000 + 1) AS found FROM generate_series(1, 2000) g) x
     WHERE found = 1`,
  )
  const pgbench = compute.pgbench(['-c', '3', '-T', '10', '-n'])

  // It is larger than this, so it is split by itself, as there are two pageservers; and whoever
  // comes after the control plane was killed goes on, also with spreading its shards.
  const params = { tenantId }
  const body = { shardBytes: 24 * MB }
  expect(await callControl(controlUrl, 'setSplitPolicy', { params, body })).toMatchObject({
    shards: 1,
    mostShards: 2,
  })
  const isSplit = async () => {
    const { shardCount, split } = await callControl(controlUrl, 'getSplit', { params })
    return split !== null || shardCount === 2
  }
  await eventually(isSplit, 'a split by size')
  for (let kills = 0; kills < 2; kills++) {
    await sleep(50)
    await zenith.control.stop('SIGKILL')
    await zenith.control.start()
  }
  await settled(zenith, 2)
  expect(await policy()).toMatchObject({ shards: 2, lastSplit: { from: 1, to: 2, bySize: true } })
  expect(await locationOf(1, 0, 0)).toMatchObject({ mode: 'detached', timelines: [] })
  expect(await replica.value(COUNT)).toBe('100000')
  await ledger.progress(20, PATIENCE_MS)

  // A pageserver is killed on the way; the split goes on when it is back, or without it. It keeps a
  // warm copy of the first shard, and then of those that this becomes.
  expect(await placement()).toEqual([1, 2])
  const warm = { pageserverId: 2, shard: 0 }
  await callControl(controlUrl, 'setSecondary', { params, body: warm })
  await split(4)
  await sleep(100)
  await zenith.pageservers[1]?.stop('SIGKILL')
  await zenith.pageservers[1]?.start()
  await settled(zenith, 4)
  expect(await placement()).toEqual([1, 2, 1, 2])
  for (const shard of [0, 2]) {
    const isWarm = async () => (await locationOf(2, shard, 4)).mode === 'secondary'
    await eventually(isWarm, 'a warm copy of each new shard')
  }
  for (const shard of [0, 1]) {
    for (const node of [1, 2]) {
      expect(await locationOf(node, shard, 2)).toMatchObject({ mode: 'detached' })
    }
  }
  await ledger.progress(20, PATIENCE_MS)
  await zenith.createBranch('later')
  // Each shard goes its own way from here on, and stays where it was put.
  await callControl(controlUrl, 'moveTenant', { params, body: { to: 1, shard: 3 } })

  const { stdout } = await pgbench
  expect(stdout).toContain('number of failed transactions: 0 (0.000%)')
  expect(await long).toBe('2000')
  await ledger.progress(20, PATIENCE_MS)
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  expect(await replica.value(COUNT)).toBe('100000')
  const balance =
    'SELECT sum(abalance) - (SELECT sum(delta) FROM pgbench_history) FROM pgbench_accounts'
  expect(await compute.value(balance)).toBe('0')

  const past = await zenith.startCompute('main', {
    name: 'past',
    mode: 'static',
    lsn: String(pastLsn),
  })
  expect(await past.value(SUM)).toBe(pastSum)
  const side = await zenith.startCompute('side', { settings: SETTINGS })
  expect(await side.value(SUM)).toBe(pastSum)
  // Nobody refers to objects of the former shards any more, so they are gone, and no other.
  await settled(zenith, 4, true)
  const store = join(zenith.dir, 'object-store', 'tenants')
  const holds = (name: string) =>
    filesBelow(join(store, name)).some((file) => /\/(delta_|image_|m-)/.test(file))
  expect(readdirSync(store).filter(holds).sort()).toEqual(
    [0, 1, 2, 3].map((shard) => tenantShardId(tenantId, shard, 4)),
  )
  expect(await past.value(SUM)).toBe(pastSum)
  await side.query('UPDATE pgbench_accounts SET abalance = 1 WHERE aid <= 10')
  expect(await side.value('SELECT count(*) FROM pgbench_accounts WHERE abalance = 1')).not.toBe('0')
  expect(await placement()).toEqual([1, 2, 1, 1])

  // A limit of size counts what all shards have.
  const limit = { maxBytes: Math.ceil((await policy()).largestBytes ?? 0) + 2 * MB }
  const inForce = () => side.value('SHOW zenith.max_cluster_size')
  const unlimited = await inForce()
  await callControl(controlUrl, 'setSizeLimit', { params, body: limit })
  await eventually(async () => (await inForce()) !== unlimited, 'the limit at the compute')
  const fill = "CREATE TABLE more AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)"
  await expect(side.query(fill)).rejects.toMatchObject({ code: '53100' })
  await callControl(controlUrl, 'setSizeLimit', { params, body: { maxBytes: null } })
  await eventually(() => side.query(fill).then(Boolean, () => false), 'the end of the limit')

  // Nothing is left of a tenant that is deleted, whatever shards it had.
  await callControl(controlUrl, 'deleteTenant', { params, query: { force: 'true' } })
  await eventually(
    async () => (await callControl(controlUrl, 'listTenants')).length === 0,
    'the end',
  )
  const isFile = (name: string) => statSync(join(store, name)).isFile()
  expect(filesBelow(store).filter(isFile)).toEqual([])
  for (const { host, httpPort } of zenith.pageserverNodes) {
    expect(await callPageserver(`http://${host}:${httpPort}`, 'listTenants')).toEqual([])
  }
})
