/** Scenario 45: writers wait for a page server that is too slow, but not for ever for one that is dead. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { until } from '../fixtures/replica.ts'

const MEGABYTE = 1024 * 1024
const LIMIT_MB = 4
/** About 150 kB of WAL each. */
const INSERT = `INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 130) AS n`
/** What several writers may still log after the limit is exceeded: a statement each, and buffers. */
const SLACK_BYTES = 3 * MEGABYTE

let zenith: Installation
let compute: Compute
let watcher: pg.Client

beforeAll(async () => {
  zenith = await Installation.create({ safekeepers: 1 })
  compute = await zenith.startCompute('main', {
    settings: {
      'zenith.max_replication_write_lag': `${LIMIT_MB}MB`,
      'zenith.max_backpressure_delay': '20s',
      shared_buffers: '128MB',
      autovacuum: 'off',
    },
  })
  await compute.query('CREATE EXTENSION zenith; CREATE TABLE t (n int, v text)')
  await compute.query(INSERT)
  watcher = await compute.connect()
  // Everything it will read is in memory then: while the page server rests, nothing else can be read.
  await lag()
  await waiting()
  await slept()
})
afterAll(async () => {
  await watcher?.end()
  await zenith[Symbol.asyncDispose]()
})

const rows = async (sql: string) => (await watcher.query(sql)).rows
const lag = async () =>
  Number(
    (await rows(`SELECT lag FROM zenith.backpressure_status WHERE "position" = 'received'`))[0].lag,
  )
const waiting = async () =>
  (await rows(`SELECT pid FROM pg_stat_activity WHERE wait_event = 'ZenithBackpressure'`)).length
const slept = async () =>
  Number(
    (await rows(`SELECT value FROM zenith.getpage_stats WHERE name = 'backpressure_us'`))[0].value,
  )
const log = () => readFileSync(join(compute.folder, 'postgres.log'), 'utf8')

async function metric(name: string): Promise<number> {
  const { host, httpPort } = await compute.info()
  const text = await (await fetch(`http://${host}:${httpPort}/metrics`)).text()
  return Number(new RegExp(`^${name}(?:\\{.*\\})? (\\S+)$`, 'm').exec(text)?.[1])
}

/** Clients that insert as fast as they may until they are told to stop. */
async function writers(
  count: number,
): Promise<{ statements: () => number; stop: () => Promise<void> }> {
  let [done, stopping] = [0, false]
  const clients = await Promise.all(Array.from({ length: count }, () => compute.connect()))
  const running = clients.map(async (client) => {
    while (!stopping) {
      await client.query(INSERT)
      done += 1
    }
    await client.end()
  })
  return {
    statements: () => done,
    stop: async () => {
      stopping = true
      await Promise.all(running)
    },
  }
}

test('a page server that rests holds writers up near the limit, and no longer than it rests', async () => {
  const load = await writers(4)
  await until('there is load', () => Promise.resolve(load.statements() > 50))
  const pageserver = zenith.pageserver.pid as number
  process.kill(pageserver, 'SIGSTOP')
  try {
    await until('all writers wait', async () => (await waiting()) === 4)
    const before = load.statements()
    let highest = 0
    for (let at = 0; at < 15; at += 1) {
      highest = Math.max(highest, await lag())
      await sleep(200)
    }
    expect(highest).toBeGreaterThan(LIMIT_MB * MEGABYTE)
    expect(highest).toBeLessThan(LIMIT_MB * MEGABYTE + SLACK_BYTES)
    expect(load.statements()).toBe(before)
    expect(await metric('zenith_compute_backpressure_active')).toBe(1)
  } finally {
    process.kill(pageserver, 'SIGCONT')
  }
  const blocked = load.statements()
  await until('writers go on', () => Promise.resolve(load.statements() > blocked + 50))
  await load.stop()
  expect(await slept()).toBeGreaterThan(4 * 2_000_000)
  expect(await metric('zenith_compute_backpressure_slept_seconds_total')).toBeGreaterThan(8)
  await until('the page server has all', async () => (await lag()) < MEGABYTE)
  await watcher.query(INSERT)
  await until('it says that nobody is held up', async () => {
    return (await metric('zenith_compute_backpressure_active')) === 0
  })
  expect(log()).toMatch(
    /writers are slowed down: the page server has 4 MB of WAL still not received/,
  )
  expect(log()).toMatch(/writers are not slowed down any more: the page server has caught up after/)
})

test('a dead page server delays each statement by so much and no more', async () => {
  await watcher.query(`ALTER SYSTEM SET zenith.max_backpressure_delay = '1500ms'`)
  await watcher.query('SELECT pg_reload_conf()')
  await until('the setting holds', async () => {
    return (
      (await rows('SHOW zenith.max_backpressure_delay'))[0]['zenith.max_backpressure_delay'] ===
      '1500ms'
    )
  })
  const writer = await compute.connect()
  const timed = async (sql: string) => {
    const start = performance.now()
    await writer.query(sql)
    return performance.now() - start
  }
  // What they read is in memory when the page server dies.
  const spared = ['INSERT INTO private VALUES (1)', 'SELECT count(*) FROM private']
  for (const sql of ['CREATE TEMPORARY TABLE private (n int)', ...spared, INSERT]) await timed(sql)
  await zenith.pageserver.stop('SIGKILL')
  let first = 0
  for (let at = 0; at < 60 && first < 1400; at += 1) first = await timed(INSERT)
  expect(first).toBeGreaterThan(1400)
  for (let at = 0; at < 3; at += 1) {
    const ms = await timed(INSERT)
    expect(ms).toBeGreaterThan(1400)
    expect(ms).toBeLessThan(10_000)
  }
  const sleptBefore = await slept()
  for (const sql of spared) await timed(sql)
  expect(await slept()).toBe(sleptBefore)
  // A waiting statement can be cancelled.
  await writer.query(`SET statement_timeout = '200ms'`)
  await expect(writer.query(INSERT)).rejects.toThrow('statement timeout')
  expect(await lag()).toBeGreaterThan(LIMIT_MB * MEGABYTE)
  await zenith.start()
  // Which drops its temporary table, for which it may have to read.
  await writer.end()
  await until('the page server has all', async () => (await lag()) < MEGABYTE)
  const sleptInAll = await slept()
  await watcher.query(INSERT)
  expect(await slept()).toBe(sleptInAll)
})
