/**
 * Catalogs and files belong together: rewrites of mapped and shared catalogs, and a storm of CREATE,
 * ALTER, TRUNCATE and DROP by several clients that kill -9 cuts off. Afterwards every relation of
 * the catalog can be read, every index agrees with its table, and what was acknowledged is there.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { eventually } from '../fixtures/eventually.ts'
import { Twins } from '../fixtures/twins.ts'

const CLIENTS = 3
const ROUNDS = 3

let twins: Twins

beforeAll(async () => {
  twins = await Twins.start()
  await twins.same('CREATE EXTENSION amcheck')
  await twins.same(`CREATE FUNCTION read_all() RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE name regclass; n bigint; total bigint := 0; BEGIN
      FOR name IN SELECT oid FROM pg_class WHERE relkind IN ('r', 't', 'm') AND relpersistence <> 't'
      LOOP EXECUTE format('SELECT count(*) FROM %s', name) INTO n; total := total + n; END LOOP;
      RETURN total; END $$`)
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

async function expectSound(compute: Compute): Promise<void> {
  await compute.query('SELECT clear_buffer_cache()')
  expect(Number(await compute.value('SELECT read_all()'))).toBeGreaterThan(1000)
  expect(
    await compute.query(`SELECT c.oid::regclass, v.* FROM pg_class c, verify_heapam(c.oid) v
    WHERE relkind IN ('r', 't', 'm') AND relpersistence = 'p'`),
  ).toEqual([])
  await compute.query(`SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = relam
    JOIN pg_index ON indexrelid = c.oid
    WHERE amname = 'btree' AND relkind = 'i' AND relpersistence = 'p' AND indisvalid`)
}

test('mapped and shared catalogs are rewritten, rolled back, and found by a crash, a restart, a branch', async () => {
  const look = `SELECT count(*) FROM pg_class WHERE relname LIKE 'seen_%'; SELECT datname FROM pg_database
    ORDER BY 1; SELECT rolname FROM pg_roles WHERE rolname LIKE 'made%' ORDER BY 1`
  await twins.same('CREATE ROLE made_first; CREATE TABLE seen_one (n int)')
  for (const catalog of [
    'pg_class',
    'pg_attribute',
    'pg_proc',
    'pg_type',
    'pg_database',
    'pg_authid',
  ]) {
    await twins.sameEach(`VACUUM FULL ${catalog}`)
  }
  await twins.same('CREATE ROLE made_second; CREATE TABLE seen_two (n int)')
  await twins.crash()
  await twins.same(look)
  await expectSound(twins.compute)
  await twins.same(`BEGIN; REINDEX TABLE pg_class; REINDEX TABLE pg_authid; CREATE TABLE seen_never (n int);
    CREATE ROLE made_never; ROLLBACK`)
  await twins.same(look)
  await twins.same(`BEGIN; REINDEX TABLE pg_attribute; REINDEX TABLE pg_type;
    REINDEX TABLE pg_class; CREATE TABLE seen_three (n int); COMMIT`)
  await using branch = await twins.branch('catalogs')
  await branch.sameEach('VACUUM FULL pg_class', 'DROP TABLE seen_one', 'VACUUM FULL pg_authid')
  await twins.sameEach('VACUUM FULL pg_class', 'CREATE TABLE seen_four (n int)')
  for (const on of [branch, twins]) {
    await on.same(look)
    await on.restart()
    await on.same(look)
    expect(Number(await on.compute.value('SELECT read_all()'))).toBeGreaterThan(1000)
  }
})

/** What a client has been told about the table that it made last. */
interface Work {
  exists: Map<string, number>
  unsure: string | null
}

async function storm(client: pg.Client, id: number, work: Work): Promise<never> {
  for (let turn = 0; ; turn++) {
    const name = `storm_${id}_${turn % 7}`
    const rows = 10 + ((turn * 31) % 500)
    work.unsure = name
    if (work.exists.has(name)) {
      const changes = [
        [`DROP TABLE ${name}`, null],
        [`BEGIN; TRUNCATE ${name}; INSERT INTO ${name} ${rowsOf(rows)}; COMMIT`, rows],
        [`ALTER TABLE ${name} ALTER n TYPE bigint; ALTER TABLE ${name} ALTER n TYPE int`, 'same'],
        [`BEGIN; DROP TABLE ${name}; CREATE TABLE ${name} AS ${rowsOf(5)}; ROLLBACK`, 'same'],
        [`VACUUM FULL ${name}`, 'same'],
      ] as const
      const [sql, after] = changes[turn % changes.length] as (typeof changes)[number]
      await client.query(sql)
      if (after === null) work.exists.delete(name)
      else if (after !== 'same') work.exists.set(name, after)
    } else {
      await client.query(`BEGIN; CREATE TABLE ${name} AS ${rowsOf(rows)};
        CREATE INDEX ON ${name} (n); CREATE UNLOGGED TABLE ${name}_u (n int PRIMARY KEY);
        DROP TABLE ${name}_u; COMMIT`)
      work.exists.set(name, rows)
    }
    work.unsure = null
    await client.query(`CREATE TEMP TABLE IF NOT EXISTS mine_${turn % 3} AS ${rowsOf(20)}`)
  }
}

function rowsOf(count: number): string {
  return `SELECT g AS n, repeat('c', 100) AS pad FROM generate_series(1, ${count}) g`
}

test(`${ROUNDS} rounds of kill -9 in a storm of CREATE and DROP`, async () => {
  const works: Work[] = Array.from({ length: CLIENTS }, () => ({ exists: new Map(), unsure: null }))
  let made = 0
  for (let round = 0; round < ROUNDS; round++) {
    const { compute, zenith } = twins
    const storms = works.map(async (work, id) => storm(await compute.connect(), id, work))
    const ended = Promise.allSettled(storms)
    await sleep(300 + Math.random() * 700)
    await eventually(() => works.every(({ exists }) => exists.size > 1), 'tables of each client')
    const service = [zenith.pageserver, zenith.safekeepers[0]][round % 2]
    await Promise.all([compute.kill(), service?.stop('SIGKILL')])
    await ended
    await zenith.start()
    await twins.crash()
    for (const work of works) {
      made += work.exists.size
      for (const [name, rows] of work.exists) {
        if (name === work.unsure) continue
        expect(await twins.compute.value(`SELECT count(*)::int FROM ${name}`), name).toBe(rows)
      }
      // The one in flight may have been committed or not.
      if (work.unsure !== null) {
        await twins.compute.query(`DROP TABLE IF EXISTS ${work.unsure}`)
        work.exists.delete(work.unsure)
      }
      work.unsure = null
    }
    expect(Number(await twins.compute.value('SELECT read_all()'))).toBeGreaterThan(1000)
  }
  await expectSound(twins.compute)
  expect(made).toBeGreaterThan(CLIENTS * ROUNDS)
})
