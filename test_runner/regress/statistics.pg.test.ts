/**
 * Cumulative statistics survive a clean stop, as in stock Postgres, and are gone after a crash, as
 * there. A stock server that does the same says what the counters must be.
 */
import { globSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type pg from 'pg'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

const WORKLOAD = [
  'CREATE TABLE counted (id int PRIMARY KEY, text text) WITH (autovacuum_enabled = off)',
  "INSERT INTO counted SELECT n, 'row ' || n FROM generate_series(1, 1000) n",
  "UPDATE counted SET text = 'changed' WHERE id <= 200",
  'DELETE FROM counted WHERE id > 900',
  'SELECT count(*) FROM counted',
  'SELECT * FROM counted WHERE id = 5',
  'ANALYZE counted',
  // VACUUM sets counters to which later ones are added: those of before must not come after it.
  'SELECT pg_stat_force_next_flush()',
  'VACUUM counted',
  'CREATE SEQUENCE steps',
  "SELECT nextval('steps')",
  "CREATE FUNCTION called() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'",
  'SELECT called(), called()',
]
const TABLE = `
  SELECT seq_scan, seq_tup_read, idx_scan, idx_tup_fetch, n_tup_ins, n_tup_upd, n_tup_del,
         n_live_tup, n_dead_tup, n_mod_since_analyze, vacuum_count, analyze_count,
         last_vacuum IS NOT NULL AS vacuumed, last_analyze IS NOT NULL AS analyzed
    FROM pg_stat_user_tables WHERE relname = 'counted'`
const OTHERS = `
  SELECT (SELECT calls FROM pg_stat_user_functions) AS calls,
         (SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'counted_pkey') AS index,
         (SELECT stats_reset FROM pg_stat_database WHERE datname = 'postgres') AS reset`
/** Everything that one session counted, in shared memory at once. */
const FLUSH = 'SELECT pg_stat_force_next_flush()'

interface Server {
  connect(database?: string): Promise<pg.Client>
}

async function work(server: Server): Promise<void> {
  const client = await server.connect()
  await client.query("SET track_functions = 'all'")
  for (const statement of WORKLOAD) await client.query(statement)
  await client.query(FLUSH)
  await client.end()
}

async function one(server: Server, sql: string): Promise<Record<string, unknown>> {
  const client = await server.connect()
  try {
    return (await client.query(sql)).rows[0] as Record<string, unknown>
  } finally {
    await client.end()
  }
}

const startedAt = async (compute: Compute) => (await compute.status()).startLsn

let zenith: Installation
let expected: Record<string, unknown>
beforeAll(async () => {
  zenith = await Installation.create()
  await using vanilla = await VanillaPostgres.start()
  await work(vanilla)
  await vanilla.stop()
  await vanilla.start()
  expected = await one(vanilla, TABLE)
  expect(expected).toMatchObject({ n_tup_ins: '1000', vacuum_count: '1', vacuumed: true })
})
afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
})

test('survive a clean stop, with the same counters as in stock Postgres', async () => {
  const first = await zenith.startCompute()
  await work(first)
  const others = await one(first, OTHERS)
  expect(others).toMatchObject({ calls: '2' })
  expect(await first.stop()).toBe(0)
  const endLsn = (await first.info()).lsn
  first.deleteData()

  const second = await zenith.startCompute()
  expect(await startedAt(second)).toBe(endLsn)
  expect(await one(second, TABLE)).toEqual(expected)
  expect(await one(second, OTHERS)).toEqual(others)

  // A branch made where the parent had stopped is the same database, with the same statistics.
  expect(await second.stop()).toBe(0)
  await zenith.createBranch('same')
  const branch = await zenith.startCompute('same')
  expect(await one(branch, TABLE)).toEqual(expected)
  await branch.query('INSERT INTO counted VALUES (2000)')
  expect(await branch.stop()).toBe(0)
  const again = await zenith.startCompute('same')
  expect((await one(again, TABLE))['n_tup_ins']).toBe('1001')
  expect(await again.stop()).toBe(0)

  // What is of no use any more does not pile up: one bundle for each of the two timelines.
  await expect
    .poll(() => globSync('object-store/**/statistics/*', { cwd: zenith.dir }), { timeout: 60_000 })
    .toHaveLength(2)
})

test('are lost in a crash; those of an earlier stop do not come back, autovacuum works', async () => {
  const settings = { autovacuum_naptime: '1s', autovacuum_vacuum_threshold: '50' }
  const first = await zenith.startCompute('main', { settings })
  expect(await one(first, TABLE)).toEqual(expected)
  await first.query('CREATE TABLE busy AS SELECT generate_series(1, 1000) AS n')
  await first.kill()

  const second = await zenith.startCompute('main', { settings })
  expect(await one(second, TABLE)).toMatchObject({
    n_tup_ins: '0',
    n_live_tup: '0',
    vacuumed: false,
  })
  await second.query('DELETE FROM busy')
  const vacuumed = async () =>
    Number(
      await second.value("SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'busy'"),
    )
  await expect.poll(vacuumed, { timeout: 60_000, interval: 500 }).toBeGreaterThan(0)
  expect(await second.stop()).toBe(0)
})

test('a branch of a running parent begins to count anew', async () => {
  const parent = await zenith.startCompute()
  await parent.query('INSERT INTO counted VALUES (3000)')
  await zenith.createBranch('fresh')
  const branch = await zenith.startCompute('fresh')
  expect(await one(branch, TABLE)).toMatchObject({ n_tup_ins: '0', n_live_tup: '0' })
  expect(await branch.stop()).toBe(0)
  expect(await parent.stop()).toBe(0)
})

test('statistics that cannot be kept do not keep a compute from stopping or starting', async () => {
  const compute = await zenith.startCompute()
  await zenith.pageserver.stop('SIGKILL')
  expect(await compute.stop()).toBe(0)
  await zenith.start()
  const again = await zenith.startCompute()
  expect(await again.value('SELECT count(*) FROM counted')).toBe('901')
  expect(await again.stop()).toBe(0)
})
