/**
 * Pages that leave the buffer pool while a transaction that changed them still runs: what stock WAL
 * does not hold (command ids, speculative tokens) must come back with them. `clear_buffer_cache()`
 * throws out every page that is not in use at that moment.
 */
import type pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'

const ROWS = 3000

let zenith: Installation
let compute: Compute

beforeAll(async () => {
  zenith = await Installation.create()
  compute = await zenith.startCompute('main')
  await compute.query('CREATE EXTENSION zenith; CREATE EXTENSION zenith_test_utils')
})

afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
})

async function withClient<T>(run: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await compute.connect()
  try {
    return await run(client)
  } finally {
    await client.end()
  }
}

/** Rows that a cursor, opened before everything is deleted, still sees after the pages are gone. */
async function rowsOfOldCursor(client: pg.Client): Promise<number | null> {
  await client.query('BEGIN')
  await client.query('CREATE TABLE seen (id int, pad text)')
  for (let part = 0; part < 3; part++) {
    await client.query(
      `INSERT INTO seen SELECT g, repeat('p', 300) FROM generate_series(1, ${ROWS / 3}) g`,
    )
  }
  await client.query('DECLARE old_state CURSOR FOR SELECT * FROM seen')
  await client.query('SAVEPOINT before_delete')
  await client.query('DELETE FROM seen')
  await client.query('SELECT clear_buffer_cache()')
  const { rowCount } = await client.query('MOVE ALL IN old_state')
  await client.query('ROLLBACK')
  return rowCount
}

describe('pages of a running transaction leave the buffer pool', () => {
  test.each(['fragments', 'images'])('a cursor sees its own state (%s)', (how) =>
    withClient(async (client) => {
      await client.query(`SET zenith.transient_state_logging = ${how}`)
      expect(await rowsOfOldCursor(client)).toBe(ROWS)
    }),
  )

  test('the test notices when the state is not logged', () =>
    withClient(async (client) => {
      await client.query('SET zenith.transient_state_logging = off')
      expect(await rowsOfOldCursor(client)).toBeLessThan(ROWS)
    }))

  test('a rolled back deletion leaves all rows', () =>
    withClient(async (client) => {
      await client.query('BEGIN; CREATE TABLE kept (id int, pad text)')
      await client.query(
        "INSERT INTO kept SELECT g, repeat('p', 300) FROM generate_series(1, 1000) g",
      )
      await client.query('SELECT clear_buffer_cache()')
      await client.query('SAVEPOINT s; DELETE FROM kept; SELECT clear_buffer_cache()')
      await client.query('ROLLBACK TO s; SELECT clear_buffer_cache()')
      const { rows } = await client.query('SELECT count(*)::int AS n FROM kept')
      await client.query('COMMIT; SELECT clear_buffer_cache()')
      expect(rows[0].n).toBe(1000)
      expect(await compute.value('SELECT count(*)::int FROM kept')).toBe(1000)
    }))

  test('an update does not meet the rows that it wrote itself', () =>
    withClient(async (client) => {
      await client.query('CREATE TABLE halloween (id int, v int, pad text)')
      await client.query(
        "INSERT INTO halloween SELECT g, 0, repeat('x', 200) FROM generate_series(1, 500) g",
      )
      await client.query('CREATE INDEX ON halloween (v)')
      await client.query(`CREATE FUNCTION one_after_eviction(i int) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN IF i % 50 = 0 THEN PERFORM public.clear_buffer_cache(); END IF; RETURN 1; END $$`)
      await client.query('BEGIN')
      await client.query('SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off')
      await client.query('UPDATE halloween SET pad = pad')
      await client.query('UPDATE halloween SET v = v + one_after_eviction(id) WHERE v >= 0')
      const { rows } = await client.query('SELECT v, count(*)::int AS n FROM halloween GROUP BY v')
      await client.query('COMMIT')
      expect(rows).toEqual([{ v: 1, n: 500 }])
    }))

  test('an index expression throws out the page of a speculative insertion', () =>
    withClient(async (client) => {
      await client.query(`CREATE FUNCTION after_eviction(i int) RETURNS int IMMUTABLE
        LANGUAGE plpgsql AS $$ BEGIN PERFORM public.clear_buffer_cache(); RETURN i; END $$`)
      await client.query('CREATE TABLE upserted (id int PRIMARY KEY, n int)')
      await client.query('CREATE INDEX ON upserted (after_eviction(n))')
      const upsert = `INSERT INTO upserted SELECT g, 1 FROM generate_series(1, 5) g
        ON CONFLICT (id) DO UPDATE SET n = upserted.n + 1`
      for (let round = 0; round < 3; round++) await client.query(upsert)
      const { rows } = await client.query('SELECT id, n FROM upserted ORDER BY id')
      expect(rows).toEqual([1, 2, 3, 4, 5].map((id) => ({ id, n: 3 })))
    }))

  test('a sequence hands out every value, also those it had logged in advance', () =>
    withClient(async (client) => {
      await client.query('CREATE SEQUENCE counted; CREATE SEQUENCE backwards INCREMENT -3')
      const values: number[] = []
      for (let round = 0; round < 4; round++) {
        const { rows } = await client.query(
          "SELECT nextval('counted')::int AS up, nextval('backwards')::int AS down",
        )
        values.push(rows[0].up, rows[0].down)
        await client.query('SELECT clear_buffer_cache()')
      }
      expect(values).toEqual([1, -1, 2, -4, 3, -7, 4, -10])
    }))

  test('index builds that log at the end find their pages again', () =>
    withClient(async (client) => {
      await client.query(`CREATE TABLE built AS SELECT g AS id, point(g, g % 97) AS place,
        ARRAY[g % 50, g % 7] AS tags FROM generate_series(1, 20000) g`)
      // The expression runs during the build and throws out what has been built so far.
      await client.query(`CREATE FUNCTION sometimes(tags int[], id int) RETURNS int[] IMMUTABLE
        LANGUAGE plpgsql AS $$ BEGIN
          IF id % 2000 = 0 THEN PERFORM public.clear_buffer_cache(); END IF; RETURN tags; END $$`)
      await client.query(`CREATE FUNCTION sometimes(place point, id int) RETURNS point IMMUTABLE
        LANGUAGE plpgsql AS $$ BEGIN
          IF id % 2000 = 0 THEN PERFORM public.clear_buffer_cache(); END IF; RETURN place; END $$`)
      await client.query("SET maintenance_work_mem = '1MB'")
      await client.query('CREATE INDEX ON built USING gin (sometimes(tags, id))')
      await client.query('CREATE INDEX ON built USING spgist (sometimes(place, id))')
      await client.query(
        'CREATE INDEX ON built USING gist (sometimes(place, id)) WITH (buffering = on)',
      )
      const { rows } = await client.query(
        "SELECT value::int AS n FROM zenith.getpage_stats WHERE name = 'side_pages_read'",
      )
      expect(rows[0].n).toBeGreaterThan(0)
      await client.query('SELECT clear_buffer_cache()')
      await client.query('SET enable_seqscan = off')
      const byTags = await client.query(
        'SELECT count(*)::int AS n FROM built WHERE sometimes(tags, id) @> ARRAY[3]',
      )
      expect(byTags.rows[0].n).toBe(
        await compute.value('SELECT count(*)::int FROM built WHERE tags @> ARRAY[3]'),
      )
      const box = "box '((100,0),(300,50))'"
      const byPlace = await client.query(
        `SELECT count(*)::int AS n FROM built WHERE sometimes(place, id) <@ ${box}`,
      )
      expect(byPlace.rows[0].n).toBe(
        await compute.value(`SELECT count(*)::int FROM built WHERE place <@ ${box}`),
      )
    }))
})

test('unlogged and temporary tables are local, and sizes are right', () =>
  withClient(async (client) => {
    await client.query('CREATE UNLOGGED TABLE fast (id int primary key)')
    await client.query('INSERT INTO fast SELECT generate_series(1, 10000)')
    await client.query('CREATE TEMPORARY TABLE mine AS SELECT * FROM fast')
    await client.query('SELECT clear_buffer_cache(); CHECKPOINT')
    const { rows } = await client.query(`SELECT (SELECT count(*)::int FROM fast) AS fast,
      (SELECT count(*)::int FROM mine) AS mine, pg_relation_size('fast')::int AS size`)
    expect(rows).toEqual([{ fast: 10000, mine: 10000, size: 45 * 8192 }])
    await client.query('ALTER TABLE fast SET LOGGED; SELECT clear_buffer_cache()')
    expect(await compute.value('SELECT count(*)::int FROM fast')).toBe(10000)
    const size = Number(await compute.value("SELECT pg_relation_size('fast')"))
    expect(size).toBeGreaterThanOrEqual(45 * 8192)
    expect(size % 8192).toBe(0)
    expect(Number(await compute.value("SELECT pg_database_size('postgres')"))).toBeGreaterThan(1e6)
  }))
