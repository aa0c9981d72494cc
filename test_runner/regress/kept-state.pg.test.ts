/**
 * What an administrator makes of a server beside its tables: roles, passwords, settings of roles and
 * databases, installed extensions. All of it survives stops, crashes and branching, as dumps of the
 * whole server before and after show. pg_stat_statements keeps its counters over clean stops.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import pg from 'pg'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'

const SERVER = [
  "CREATE ROLE app LOGIN PASSWORD 'first secret' CONNECTION LIMIT 7 VALID UNTIL '2099-01-01'",
  'CREATE ROLE readers NOLOGIN',
  'GRANT readers TO app WITH ADMIN OPTION',
  "ALTER ROLE app SET work_mem = '3MB'",
  "ALTER ROLE ALL SET idle_in_transaction_session_timeout = '1h'",
  'CREATE DATABASE shop OWNER app',
  'ALTER DATABASE shop SET search_path = stock, public',
  "ALTER ROLE app IN DATABASE shop SET statement_timeout = '17s'",
  "COMMENT ON DATABASE shop IS 'things to sell'",
  'GRANT pg_monitor TO readers',
]
const SHOP = [
  'CREATE SCHEMA stock',
  'CREATE EXTENSION hstore',
  'CREATE EXTENSION pg_trgm SCHEMA stock',
  "CREATE TABLE stock.things (id int PRIMARY KEY, more hstore DEFAULT 'a=>1', name text)",
  'CREATE INDEX by_name ON stock.things USING gin (name gin_trgm_ops)',
  "INSERT INTO stock.things VALUES (1, 'a=>1', 'a bicycle'), (2, 'b=>2', 'a tricycle')",
  'ALTER DEFAULT PRIVILEGES IN SCHEMA stock GRANT SELECT ON TABLES TO readers',
  'GRANT SELECT (id) ON stock.things TO readers',
  'CREATE PUBLICATION all_things FOR ALL TABLES',
]

async function dumpOf(compute: Compute): Promise<string> {
  const { stdout } = await compute.tool('pg_dumpall', ['--restrict-key=x'])
  return stdout
}

/** What a session of the application sees; its settings are made at login. */
async function seenByApp(compute: Compute): Promise<unknown[]> {
  const { host, port } = compute.address()
  const client = new pg.Client({ host, port, user: 'app', database: 'shop' })
  await client.connect()
  try {
    const sql = `SELECT current_setting('work_mem') AS memory,
        current_setting('statement_timeout') AS timeout,
        current_setting('search_path') AS path,
        current_setting('idle_in_transaction_session_timeout') AS idle`
    return (await client.query(sql)).rows
  } finally {
    await client.end()
  }
}

let zenith: Installation
beforeAll(async () => {
  zenith = await Installation.create()
})
afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
})

test('roles, passwords, settings and extensions, over a stop, a crash and on a branch', async () => {
  const first = await zenith.startCompute()
  for (const statement of SERVER) await first.query(statement)
  for (const statement of SHOP) await first.query(statement, 'shop')
  const dump = await dumpOf(first)
  const seen = await seenByApp(first)
  expect(dump).toContain('SCRAM-SHA-256$')
  expect(seen).toEqual([{ memory: '3MB', timeout: '17s', path: 'stock, public', idle: '1h' }])
  expect(await first.stop()).toBe(0)

  const second = await zenith.startCompute()
  expect(await dumpOf(second)).toBe(dump)
  expect(await seenByApp(second)).toEqual(seen)
  await second.query("ALTER ROLE app PASSWORD 'second secret'")
  const changed = await dumpOf(second)
  expect(changed).not.toBe(dump)
  await second.kill()
  second.deleteData()

  await zenith.createBranch('copy')
  for (const branch of ['main', 'copy']) {
    const compute = await zenith.startCompute(branch)
    expect(await dumpOf(compute)).toBe(changed)
    expect(await seenByApp(compute)).toEqual(seen)
    expect(
      await compute.value("SELECT name FROM stock.things WHERE name % 'tricicle'", 'shop'),
    ).toBe('a tricycle')
    expect(await compute.stop()).toBe(0)
  }
})

test('pg_stat_statements counts on after a clean stop, and begins anew after a crash', async () => {
  const settings = { shared_preload_libraries: 'pg_stat_statements' }
  const COUNTED = `SELECT calls, rows, query FROM pg_stat_statements
    WHERE query LIKE 'SELECT count(*) FROM generate_series(%' ORDER BY query`
  const counts = async (compute: Compute) => await compute.query(COUNTED)
  const work = async (compute: Compute) => {
    for (let times = 0; times < 5; times++) {
      await compute.query(`SELECT count(*) FROM generate_series(1, ${times})`)
    }
  }
  const first = await zenith.startCompute('main', { settings })
  await first.query('CREATE EXTENSION pg_stat_statements')
  await work(first)
  const query = 'SELECT count(*) FROM generate_series($1, $2)'
  expect(await counts(first)).toEqual([{ calls: '5', rows: '5', query }])
  // Texts of a size that does not stay in memory, as ORMs make them.
  const long = `SELECT ${Array.from({ length: 4000 }, (_, n) => `'${n}'::text AS c${n % 1000}`).join(', ')}`
  await first.query(long.slice(0, long.lastIndexOf(',', 30_000)))
  const total = await first.value('SELECT sum(length(query)) FROM pg_stat_statements')
  expect(await first.stop()).toBe(0)
  first.deleteData()

  const second = await zenith.startCompute('main', { settings })
  expect(
    Number(await second.value('SELECT sum(length(query)) FROM pg_stat_statements')),
  ).toBeGreaterThanOrEqual(Number(total))
  await work(second)
  expect(await counts(second)).toEqual([{ calls: '10', rows: '10', query }])
  await second.query('SELECT pg_stat_statements_reset()')
  expect(await counts(second)).toEqual([])
  await work(second)
  expect(await second.stop()).toBe(0)

  // What was counted after the reset is kept, and in a crash it is lost.
  const third = await zenith.startCompute('main', { settings })
  expect(await counts(third)).toEqual([{ calls: '5', rows: '5', query }])
  await third.kill()
  const fourth = await zenith.startCompute('main', { settings })
  expect(await counts(fourth)).toEqual([])
  expect(await fourth.stop()).toBe(0)
})

test('ALTER SYSTEM on a read-only compute belongs to its own endpoint', async () => {
  const primary = await zenith.startCompute()
  const lsn = String(await primary.value('SELECT pg_current_wal_insert_lsn()'))
  await primary.query("SELECT pg_logical_emit_message(true, 'test', '')")
  const view = { name: 'view', mode: 'static', lsn } as const
  const first = await zenith.startCompute('main', view)
  await first.query("ALTER SYSTEM SET work_mem = '33MB'")
  await first.kill()
  const second = await zenith.startCompute('main', view)
  expect(await second.value('SHOW work_mem')).toBe('33MB')
  expect(await primary.value('SHOW work_mem')).toBe('4MB')
  expect(await second.stop()).toBe(0)
  expect(await primary.stop()).toBe(0)
})
