/**
 * Statements that depend on command ids, combo ids and speculative tokens while the pages that hold
 * them leave the buffers in between: cursors, subtransactions, triggers, upserts, parallel workers,
 * two-phase commit. Every answer equals that of stock Postgres, where nothing is thrown out.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Twins } from '../fixtures/twins.ts'

let twins: Twins

beforeAll(async () => {
  twins = await Twins.start()
  await twins.compute.query(`CREATE FUNCTION leave_memory() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN PERFORM public.clear_buffer_cache(); RETURN 0; END $$`)
  await twins.stock.query(
    'CREATE FUNCTION leave_memory() RETURNS int LANGUAGE sql AS $$ SELECT 0 $$',
  )
  await twins.same(`CREATE TABLE item (id int, v int, pad text)`)
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

/** Each statement sees pages that were read anew. */
async function steps(...statements: string[]): Promise<void> {
  for (const sql of statements) {
    await twins.same(sql)
    await twins.same('SELECT leave_memory()')
  }
}

const FILL = `INSERT INTO item SELECT g, 0, repeat('p', 300) FROM generate_series(1, 600) g`
const SUMS = 'SELECT count(*), sum(id), sum(v) FROM item'

test('cursors of each moment see their own moment, also after subtransactions', async () => {
  await steps(
    'BEGIN',
    FILL,
    'DECLARE one CURSOR FOR SELECT id, v FROM item ORDER BY id',
    'UPDATE item SET v = 1',
    'DECLARE two CURSOR FOR SELECT id, v FROM item ORDER BY id',
    'SAVEPOINT a',
    'DELETE FROM item WHERE id % 2 = 0',
    'DECLARE three CURSOR FOR SELECT id, v FROM item ORDER BY id',
    'SAVEPOINT b',
    'UPDATE item SET v = v + 1 WHERE id % 3 = 0',
    'INSERT INTO item SELECT g, 5, $$b$$ FROM generate_series(1001, 1100) g',
    'DECLARE four CURSOR FOR SELECT id, v FROM item ORDER BY id',
    'UPDATE item SET v = v + 1 WHERE id % 5 = 0',
    'FETCH 20 FROM one',
    'FETCH 20 FROM four',
    'FETCH ALL FROM three',
    'FETCH ALL FROM four',
    'ROLLBACK TO b',
    SUMS,
    'DELETE FROM item WHERE id % 7 = 0',
    'DECLARE five CURSOR FOR SELECT id, v FROM item ORDER BY id',
    'RELEASE a',
    'UPDATE item SET v = 9',
    'FETCH ALL FROM two',
    'FETCH ALL FROM five',
    'FETCH ALL FROM one',
    SUMS,
    'COMMIT',
    SUMS,
    'TRUNCATE item',
  )
})

test('a cursor that updates and deletes where it stands', async () => {
  await steps(
    FILL,
    'BEGIN',
    'UPDATE item SET v = id',
    'DECLARE here CURSOR FOR SELECT * FROM item FOR UPDATE',
  )
  for (let round = 0; round < 12; round++) {
    await steps(
      'FETCH 7 FROM here',
      round % 2 === 0
        ? 'UPDATE item SET v = -1 WHERE CURRENT OF here RETURNING id, v'
        : 'DELETE FROM item WHERE CURRENT OF here RETURNING id',
    )
  }
  await steps(SUMS, 'FETCH 3 FROM here', 'COMMIT', SUMS, 'TRUNCATE item')
})

test('loops, triggers and functions that change what they read', async () => {
  await steps(
    FILL,
    `DO $$ DECLARE r record; BEGIN
      FOR r IN SELECT id FROM item WHERE v < 3 ORDER BY id LOOP
        UPDATE item SET v = v + 1 WHERE id BETWEEN r.id AND r.id + 1;
        IF r.id % 60 = 0 THEN PERFORM leave_memory(); END IF;
      END LOOP; END $$`,
    SUMS,
    `CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
       IF NEW.id % 50 = 0 THEN
         UPDATE item SET v = v + 100 WHERE id = NEW.id + 1;
         PERFORM leave_memory();
       END IF; RETURN NEW; END $$`,
    'CREATE TRIGGER touch AFTER UPDATE ON item FOR EACH ROW WHEN (NEW.v < 50) EXECUTE FUNCTION touch()',
    'UPDATE item SET v = 10 WHERE id % 50 = 0',
    SUMS,
    'DROP TRIGGER touch ON item',
    'CREATE TRIGGER touch BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION touch()',
  )
  // The row after was changed by the trigger of the row before, within one command.
  await twins.same('UPDATE item SET v = 20 WHERE id IN (100, 101)', { fails: true })
  await steps('DROP TRIGGER touch ON item', SUMS, 'TRUNCATE item')
})

test('one command may not meet a row twice', async () => {
  await steps(
    'CREATE TABLE once (id int PRIMARY KEY, n int)',
    `CREATE FUNCTION slow(i int) RETURNS int LANGUAGE plpgsql AS $$
       BEGIN PERFORM leave_memory(); RETURN i; END $$`,
    'BEGIN',
    'INSERT INTO once VALUES (1, 1), (2, 2)',
  )
  await twins.same('SAVEPOINT s')
  await twins.same(
    `INSERT INTO once SELECT slow(i), 0 FROM unnest(ARRAY[3, 1, 3]) i
       ON CONFLICT (id) DO UPDATE SET n = once.n + 10`,
    { fails: true },
  )
  await steps('ROLLBACK TO s', 'TABLE once')
  await twins.same(
    `MERGE INTO once USING (SELECT slow(i) AS i FROM unnest(ARRAY[2, 2]) i) s ON s.i = id
       WHEN MATCHED THEN UPDATE SET n = n + 1`,
    { fails: true },
  )
  await steps(
    'ROLLBACK TO s',
    `MERGE INTO once USING (SELECT slow(i) AS i FROM unnest(ARRAY[2, 4]) i) s ON s.i = id
       WHEN MATCHED THEN UPDATE SET n = n + 1 WHEN NOT MATCHED THEN INSERT VALUES (s.i, 40)`,
    `WITH gone AS (DELETE FROM once WHERE slow(id) = 1 RETURNING *),
          more AS (INSERT INTO once SELECT id + 100, n FROM gone RETURNING *)
       SELECT * FROM gone UNION ALL SELECT * FROM more ORDER BY 1`,
    'TABLE once',
    'COMMIT',
    'SELECT * FROM once ORDER BY id',
  )
})

test('parallel workers read what their leader has changed', async () => {
  await steps(
    `SET debug_parallel_query = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
     SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 3`,
    'BEGIN',
    FILL,
    'UPDATE item SET v = 1 WHERE id % 2 = 0',
    'SAVEPOINT a',
    'UPDATE item SET v = v + 10 WHERE id % 3 = 0',
    'DELETE FROM item WHERE id % 10 = 0',
    SUMS,
    'DECLARE before CURSOR FOR SELECT count(*), sum(v) FROM item',
    'ROLLBACK TO a',
    SUMS,
    'UPDATE item SET v = v + 5',
    SUMS,
    'SELECT v, count(*) FROM item GROUP BY v ORDER BY v',
  )
  const { zenith } = await twins.both(`EXPLAIN (ANALYZE, COSTS off) ${SUMS}`)
  expect(JSON.stringify(zenith)).toMatch(/Workers Launched: [1-9]/)
  await steps('COMMIT', 'RESET ALL', SUMS, 'TRUNCATE item')
})

test('two-phase commit of rows that were changed several times', async () => {
  for (const [gid, end] of [
    ['kept', 'COMMIT'],
    ['dropped', 'ROLLBACK'],
  ]) {
    await steps(
      'BEGIN',
      FILL,
      'UPDATE item SET v = 1 WHERE id > 300',
      'DECLARE c CURSOR FOR SELECT id, v FROM item ORDER BY id',
      'SAVEPOINT s',
      'DELETE FROM item WHERE id > 400',
      'UPDATE item SET v = v + 1 WHERE id > 200',
      'ROLLBACK TO s',
      'UPDATE item SET v = 7 WHERE id < 50',
      'FETCH ALL FROM c',
      'CLOSE c',
      `PREPARE TRANSACTION '${gid}'`,
      SUMS,
    )
    await twins.restart()
    await steps(SUMS, `${end} PREPARED '${gid}'`, SUMS, 'DELETE FROM item WHERE id > 590', SUMS)
  }
})

test('upserts by many sessions of the same keys, with eviction inside of the insertion', async () => {
  const { compute } = twins
  const SESSIONS = 6
  const ROUNDS = 40
  await compute.query(`CREATE TABLE hot (id int PRIMARY KEY, n int, pad text);
    CREATE FUNCTION gone(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
      BEGIN PERFORM public.clear_buffer_cache(); RETURN i; END $$;
    CREATE INDEX ON hot (gone(n))`)
  await Promise.all(
    Array.from({ length: SESSIONS }, async () => {
      const client = await compute.connect()
      for (let round = 0; round < ROUNDS; round++) {
        await client.query(
          `INSERT INTO hot VALUES (${round % 8}, 1, repeat('h', 100))
             ON CONFLICT (id) DO UPDATE SET n = hot.n + 1`,
        )
        // In a transaction of several commands, and undone.
        await client.query(`BEGIN; INSERT INTO hot VALUES (${100 + (round % 8)}, 1)
            ON CONFLICT (id) DO NOTHING; SAVEPOINT s;
          UPDATE hot SET n = n + 1000 WHERE id = ${100 + (round % 8)}; ROLLBACK`)
      }
      await client.end()
    }),
  )
  expect(await compute.query('SELECT count(*)::int AS rows, sum(n)::int AS n FROM hot')).toEqual([
    { rows: 8, n: SESSIONS * ROUNDS },
  ])
  await compute.query('CREATE EXTENSION IF NOT EXISTS amcheck')
  expect(await compute.query(`SELECT * FROM verify_heapam('hot')`)).toEqual([])
})
