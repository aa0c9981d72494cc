/**
 * Tenants on two pageservers: moved under load, taken over when one is lost, and what the one that
 * was lost may still do.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { TenantMoveInfo } from '#libs/api/fleet.ts'
import { callControl } from '#libs/api/control-client.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import { requestText } from '#libs/http/client.ts'
import { parseLsn } from '#libs/lsn.ts'
import type { Compute } from '../fixtures/compute.ts'
import { filesBelow, Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'

const PATIENCE_MS = 120_000
const SETTINGS = { shared_buffers: '1MB' }

class Fleet {
  readonly zenith: Installation

  constructor(zenith: Installation) {
    this.zenith = zenith
  }

  url(id: number): string {
    const node = this.zenith.pageserverNodes.find((one) => one.id === id)
    return `http://${node?.host}:${node?.httpPort}`
  }

  async placement(shard = 0): Promise<TenantMoveInfo> {
    const { tenantId } = this.zenith
    const all = await callControl(this.zenith.controlUrl, 'listPlacements')
    return all.find((one) => one.tenantId === tenantId && one.shard === shard) as TenantMoveInfo
  }

  async move(to: number, shard = 0): Promise<void> {
    const params = { tenantId: this.zenith.tenantId }
    await callControl(this.zenith.controlUrl, 'moveTenant', { params, body: { to, shard } })
  }

  /** Waits until the tenant is there and nothing is left to do. */
  async settled(at: number, shard = 0): Promise<TenantMoveInfo> {
    const deadline = Date.now() + PATIENCE_MS
    for (;;) {
      const info = await this.placement(shard).catch(() => null)
      if (info && info.pageserverId === at && info.move === null) return info
      if (Date.now() > deadline) {
        throw new Error(`not at ${at}: ${JSON.stringify(info)}\n${this.zenith.logs(40)}`)
      }
      await sleep(50)
    }
  }

  location(id: number) {
    const params = { tenantId: this.zenith.tenantId }
    return callPageserver(this.url(id), 'getLocation', { params })
  }

  timeline(id: number, compute: Compute) {
    const { tenantId, timelineId } = compute.spec
    return callPageserver(this.url(id), 'getTimeline', { params: { tenantId, timelineId } })
  }

  /** Nothing of the tenant is left: no file, no series. */
  async expectGone(id: number): Promise<void> {
    const { dir, tenantId } = this.zenith
    expect(await this.location(id)).toMatchObject({ mode: 'detached', timelines: [] })
    const folder = id === 1 ? 'pageserver' : `pageserver${id}`
    expect(existsSync(join(dir, folder, 'tenants', tenantId))).toBe(false)
    const { text } = await requestText('GET', `${this.url(id)}/metrics`)
    expect(text).not.toContain(tenantId)
    expect(await callPageserver(this.url(id), 'listTenants')).toEqual([])
  }

  objects(): string[] {
    return filesBelow(join(this.zenith.dir, 'object-store')).sort()
  }
}

/** Reads all of a table again and again, each time in one query; throws what goes wrong at the end. */
class Reader {
  #running = true
  readonly #done: Promise<number>

  constructor(compute: Compute, query: string, expected: string) {
    this.#done = this.#read(compute, query, expected)
    this.#done.catch(() => undefined)
  }

  stop(): Promise<number> {
    this.#running = false
    return this.#done
  }

  async #read(compute: Compute, query: string, expected: string): Promise<number> {
    const client = await compute.connect()
    let count = 0
    try {
      while (this.#running) {
        const { rows } = await client.query({ text: query, rowMode: 'array' })
        if (String(rows[0]?.[0]) !== expected) throw new Error(`read ${String(rows[0]?.[0])}`)
        count += 1
      }
    } finally {
      await client.end()
    }
    return count
  }
}

test('a tenant moves under load: no query fails, and nothing is left behind', async () => {
  await using zenith = await Installation.create({
    pageservers: 2,
    control: { pageserver_lost_after: 0 },
  })
  const fleet = new Fleet(zenith)
  expect((await fleet.settled(1)).generation).toBe(1)
  const compute = await zenith.startCompute('main', { settings: SETTINGS })
  await compute.pgbench(['-i', '-s', '1', '-q'])
  const replica = await zenith.startCompute('main', { name: 'reports', mode: 'replica' })
  const ledger = new Ledger(() => compute.connect(), 2)
  await ledger.createTables()
  ledger.start()
  const query = 'SELECT count(*) FROM pgbench_accounts'
  const reader = new Reader(compute, query, '100000')
  const onReplica = new Reader(replica, query, '100000')
  // One query that goes on over the move: it cannot read its settings anew.
  const long = compute.value(
    `SELECT count(*) FROM (SELECT pg_sleep(0.002), (SELECT count(*) FROM pgbench_accounts
       WHERE aid = (g * 797) % 100000 + 1) AS found FROM generate_series(1, 2000) g) x
     WHERE found = 1`,
  )
  const pgbench = compute.pgbench(['-c', '3', '-T', '8', '-n'])

  await fleet.move(2)
  const there = await fleet.settled(2)
  expect(there.generation).toBe(2)
  await fleet.expectGone(1)
  expect(await fleet.location(2)).toMatchObject({ mode: 'attached', generation: 2 })
  await ledger.progress(20, PATIENCE_MS)

  // A branch made now is the new one's; it goes back with the rest, the control plane killed twice.
  await zenith.createBranch('side')
  await fleet.move(1)
  for (let kills = 0; kills < 2; kills++) {
    await sleep(150)
    await zenith.control.stop('SIGKILL')
    await zenith.control.start()
  }
  await fleet.settled(1)
  await fleet.expectGone(2)

  const { stdout } = await pgbench
  expect(stdout).toContain('number of failed transactions: 0 (0.000%)')
  expect(await long).toBe('2000')
  expect(await reader.stop()).toBeGreaterThan(0)
  expect(await onReplica.stop()).toBeGreaterThan(0)
  await ledger.progress(20, PATIENCE_MS)
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  const side = await zenith.startCompute('side', { settings: SETTINGS })
  expect(await side.value(query)).toBe('100000')
})

test('a lost pageserver is taken over; it can neither delete nor advance anything, and gets its tenant back', async () => {
  await using zenith = await Installation.create({
    pageservers: 2,
    control: { pageserver_lost_after: 4, pageserver_home_after: 1 },
  })
  const fleet = new Fleet(zenith)
  const compute = await zenith.startCompute('main', { settings: SETTINGS })
  const ledger = new Ledger(() => compute.connect(), 2)
  await ledger.createTables()
  ledger.start()
  await ledger.progress(50, PATIENCE_MS)
  const { tenantId, timelineId } = compute.spec
  const params = { tenantId, timelineId }
  const reader = new Reader(compute, 'SELECT count(*) FROM account', '200')

  // It does not die: it hangs, and comes back knowing nothing of what happened.
  const [first, second] = zenith.pageservers
  process.kill(first?.pid as number, 'SIGSTOP')
  const taken = await fleet.settled(2)
  expect(taken.generation).toBe(2)
  await ledger.progress(50, PATIENCE_MS)
  await zenith.control.stop('SIGKILL')
  process.kill(first?.pid as number, 'SIGCONT')

  const before = parseLsn((await fleet.timeline(1, compute)).remoteConsistentLsn)
  await callPageserver(fleet.url(2), 'checkpoint', { params })
  await callPageserver(fleet.url(2), 'compact', { params })
  await callPageserver(fleet.url(1), 'checkpoint', { params, timeoutMs: 5_000 }).catch(() => null)
  await callPageserver(fleet.url(1), 'compact', { params, timeoutMs: 5_000 }).catch(() => null)
  const held = fleet.objects()
  expect(parseLsn((await fleet.timeline(1, compute)).remoteConsistentLsn)).toBe(before)
  // Reads and writes go on without the control plane.
  await ledger.progress(20, PATIENCE_MS)

  await zenith.control.start()
  const home = await fleet.settled(1)
  expect(home.generation).toBeGreaterThan(taken.generation)
  await fleet.expectGone(2)
  const left = new Set(fleet.objects())
  const ofNewer = held.filter((name) => /\/manifests\/m-0000000[2-9]-/.test(name))
  expect(ofNewer.length).toBeGreaterThan(0)
  for (const name of ofNewer) expect(left.has(name), name).toBe(true)
  expect(await reader.stop()).toBeGreaterThan(0)

  // And one that is killed, with a warm copy at the other one.
  const body = { pageserverId: 2 }
  await callControl(zenith.controlUrl, 'setSecondary', { params: { tenantId }, body })
  const warm = join(zenith.dir, 'pageserver2/tenants', tenantId, 'timelines', timelineId)
  await expect
    .poll(() => (existsSync(warm) ? readdirSync(warm).length : 0), { timeout: PATIENCE_MS })
    .toBeGreaterThan(0)
  expect((await fleet.location(2)).mode).toBe('secondary')
  await first?.stop('SIGKILL')
  await fleet.settled(2)
  await ledger.progress(20, PATIENCE_MS)
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  expect(second?.running).toBe(true)
})

test('one shard of a tenant moves, and another is taken over, each by itself', async () => {
  await using zenith = await Installation.create({
    pageservers: 2,
    shards: 2,
    stripeBlocks: 8,
    control: { pageserver_lost_after: 4, pageserver_home_after: 600 },
  })
  const fleet = new Fleet(zenith)
  const compute = await zenith.startCompute('main', { settings: SETTINGS })
  await compute.query(
    "CREATE TABLE t AS SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g",
  )
  const places = [await fleet.placement(0), await fleet.placement(1)]
  expect(places.map(({ pageserverId }) => pageserverId)).toEqual([1, 2])
  const reader = new Reader(compute, 'SELECT count(*) FROM t', '20000')

  await fleet.move(1, 1)
  await fleet.settled(1, 1)
  expect((await fleet.placement(0)).generation).toBe(places[0]?.generation)
  await compute.query('UPDATE t SET g = g + 1')
  await fleet.move(2, 0)
  await fleet.settled(2, 0)
  expect(await compute.value('SELECT sum(g)::text FROM t')).toBe('200030000')

  await zenith.pageservers[0]?.stop('SIGKILL')
  await fleet.settled(2, 1)
  await compute.query('UPDATE t SET g = g + 1')
  expect(await compute.value('SELECT sum(g)::text FROM t')).toBe('200050000')
  expect(await reader.stop()).toBeGreaterThan(0)
})
