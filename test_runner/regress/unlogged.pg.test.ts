/**
 * Unlogged and temporary relations, which live in local files: usable as in stock Postgres with more
 * pages than buffers, empty after a restart (stock: after a crash) and on branches, and movable
 * between logged and unlogged with every kind of index.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Twins } from '../fixtures/twins.ts'

const ROWS = 12_000

/** One index of each access method, on the columns of `rowsOf`. */
function indexesOf(table: string): string {
  return `
    ALTER TABLE ${table} ADD PRIMARY KEY (id);
    CREATE INDEX ${table}_btree ON ${table} (grp, id);
    CREATE INDEX ${table}_hash ON ${table} USING hash (note);
    CREATE INDEX ${table}_gist ON ${table} USING gist (place);
    CREATE INDEX ${table}_spgist ON ${table} USING spgist (place);
    CREATE INDEX ${table}_gin ON ${table} USING gin (tags);
    CREATE INDEX ${table}_brin ON ${table} USING brin (id);
    CREATE INDEX ${table}_bloom ON ${table} USING bloom (grp, id);`
}

function rowsOf(first: number, count: number): string {
  return `SELECT g, g % 100, md5(g::text), point(g % 331, g % 97), ARRAY[g % 50, g % 7],
    repeat('x', 40) FROM generate_series(${first}, ${first + count - 1}) g`
}

const COLUMNS = '(id int, grp int, note text, place point, tags int[], pad text)'

const CONDITIONS = [
  'id BETWEEN 500 AND 700',
  'grp = 33',
  "note = md5('777')",
  "place <@ box '((10,10),(60,40))'",
  'tags @> ARRAY[3, 4]',
  'grp = 12 AND id = 612',
]

let twins: Twins

beforeAll(async () => {
  twins = await Twins.start()
  await twins.same('CREATE EXTENSION bloom; CREATE EXTENSION amcheck')
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

/** Every condition with and without indexes, against stock Postgres. */
async function expectAllFound(on: Twins, table: string, rows: number): Promise<void> {
  const [all] = await on.same(`SELECT count(*)::int AS n FROM ${table}`)
  expect(all, table).toEqual({ n: rows })
  for (const condition of CONDITIONS) {
    const answers: unknown[] = []
    for (const indexes of ['on', 'off']) {
      await on.same(`SET enable_seqscan = ${indexes === 'on' ? 'off' : 'on'};
        SET enable_indexscan = ${indexes}; SET enable_bitmapscan = ${indexes}`)
      answers.push(
        await on.same(`SELECT count(*), sum(id), md5(string_agg(id::text, ',' ORDER BY id))
          FROM ${table} WHERE ${condition}`),
      )
    }
    expect(answers[0], `${table} ${condition}`).toEqual(answers[1])
  }
  await on.same('RESET ALL')
  await on.same(`SELECT bt_index_check(indexrelid, true) FROM pg_index
    JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam
    WHERE indrelid = '${table}'::regclass AND amname = 'btree' ORDER BY indexrelid::regclass::text`)
}

test('an unlogged table with all kinds of indexes, larger than the buffers', async () => {
  await twins.same(`CREATE UNLOGGED TABLE early ${COLUMNS}; ${indexesOf('early')}
    INSERT INTO early ${rowsOf(1, ROWS)}`)
  await twins.same(`CREATE UNLOGGED TABLE late ${COLUMNS}; INSERT INTO late ${rowsOf(1, ROWS)};
    ${indexesOf('late')}`)
  await twins.same('UPDATE early SET grp = grp + 1, tags = tags || 99 WHERE id % 9 = 0')
  await twins.same('DELETE FROM late WHERE id % 4 = 0')
  await twins.sameEach('VACUUM early', 'VACUUM late')
  await twins.evict()
  await expectAllFound(twins, 'early', ROWS)
  await expectAllFound(twins, 'late', (ROWS * 3) / 4)
  await twins.same('CHECKPOINT')
  await twins.evict()
  await expectAllFound(twins, 'early', ROWS)
})

test('from logged to unlogged and back, each time with its rows and indexes', async () => {
  await twins.same(`CREATE TABLE moving ${COLUMNS}; INSERT INTO moving ${rowsOf(1, ROWS)};
    ${indexesOf('moving')}`)
  await twins.same('ALTER TABLE moving SET UNLOGGED')
  await twins.same(`INSERT INTO moving ${rowsOf(ROWS + 1, 1000)}`)
  await expectAllFound(twins, 'moving', ROWS + 1000)
  await twins.same('ALTER TABLE moving SET LOGGED')
  await twins.evict()
  await expectAllFound(twins, 'moving', ROWS + 1000)
  // A rollback must leave the relation where it was, with both sets of files.
  await twins.same(`BEGIN; ALTER TABLE moving SET UNLOGGED; DELETE FROM moving WHERE id < 100;
    SAVEPOINT s; ALTER TABLE moving SET LOGGED; ROLLBACK TO s; ROLLBACK`)
  await twins.evict()
  await expectAllFound(twins, 'moving', ROWS + 1000)
})

test('sequences: unlogged ones, and those of identity columns', async () => {
  await twins.same(`CREATE UNLOGGED SEQUENCE fast_counter START 10 INCREMENT 5;
    CREATE UNLOGGED TABLE counted (id int GENERATED ALWAYS AS IDENTITY, name text)`)
  for (let round = 0; round < 5; round++) {
    await twins.same(`INSERT INTO counted (name) VALUES ('a'), ('b') RETURNING id;
      SELECT nextval('fast_counter')`)
    await twins.evict()
  }
  await twins.same(`ALTER SEQUENCE fast_counter SET LOGGED; SELECT nextval('fast_counter')`)
  await twins.evict()
  await twins.same(`SELECT nextval('fast_counter'); ALTER SEQUENCE fast_counter SET UNLOGGED;
    SELECT nextval('fast_counter')`)
  await twins.same('SELECT relname, relpersistence FROM pg_class WHERE relkind = $$S$$ ORDER BY 1')
})

test('temporary tables: large, with indexes, truncated, dropped at commit', async () => {
  await twins.same(`SET temp_buffers = '800kB'; CREATE TEMP TABLE mine ${COLUMNS};
    INSERT INTO mine ${rowsOf(1, ROWS)}; ${indexesOf('mine')}
    CREATE TEMP SEQUENCE mine_seq; ANALYZE mine`)
  await twins.evict()
  await expectAllFound(twins, 'mine', ROWS)
  await twins.same(`BEGIN; TRUNCATE mine; INSERT INTO mine ${rowsOf(1, 50)}; SAVEPOINT s;
    TRUNCATE mine; ROLLBACK TO s; SELECT count(*) FROM mine; ROLLBACK;
    SELECT count(*) FROM mine; SELECT nextval('mine_seq')`)
  await twins.sameEach('VACUUM FULL mine', 'CLUSTER mine USING mine_pkey', 'REINDEX TABLE mine')
  await expectAllFound(twins, 'mine', ROWS)
  await twins.same(`BEGIN; CREATE TEMP TABLE short ON COMMIT DROP AS SELECT * FROM mine;
    CREATE TEMP TABLE emptied ON COMMIT DELETE ROWS AS SELECT * FROM mine;
    SELECT (SELECT count(*) FROM short), (SELECT count(*) FROM emptied); COMMIT`)
  await twins.same('SELECT count(*) FROM emptied; DROP TABLE mine')
  await twins.same('SELECT * FROM short', { fails: true })
})

test('a branch, a restart and a crash empty what is unlogged, and leave it usable', async () => {
  await using branch = await twins.branch('second', 'SIGQUIT')
  for (const on of [branch, twins]) {
    if (on === twins) {
      await on.crash()
    }
    // SET LOGGED came first, so this one has all its rows.
    await expectAllFound(on, 'moving', ROWS + 1000)
    for (const table of ['early', 'late']) {
      await expectAllFound(on, table, 0)
      await on.same(`INSERT INTO ${table} ${rowsOf(1, 2000)}`)
      await on.evict()
      await expectAllFound(on, table, 2000)
    }
    await on.same(`SELECT nextval('fast_counter'); INSERT INTO counted (name) VALUES ('c');
      SELECT id, name FROM counted`)
    await on.same('TRUNCATE counted RESTART IDENTITY')
    await on.same('ALTER TABLE early SET LOGGED; ALTER SEQUENCE fast_counter SET LOGGED')
    await on.same('DROP TABLE late')
    await on.evict()
    await expectAllFound(on, 'early', 2000)
    await on.same(`SELECT nextval('fast_counter')`)
  }
})

test('after a clean restart, too', async () => {
  await twins.same(`CREATE UNLOGGED TABLE once ${COLUMNS}; ${indexesOf('once')}
    INSERT INTO once ${rowsOf(1, 500)}; CREATE UNLOGGED SEQUENCE once_seq; SELECT nextval('once_seq')`)
  // Stock Postgres loses the init fork of a bloom index in a crash before a checkpoint; we don't.
  await twins.stock.query('CHECKPOINT')
  expect(await twins.compute.stop()).toBe(0)
  // Stock Postgres would keep them now; only a crash empties them there.
  await twins.crash()
  await expectAllFound(twins, 'once', 0)
  await twins.same(`SELECT nextval('once_seq'); INSERT INTO once ${rowsOf(1, 3000)}`)
  await twins.evict()
  await expectAllFound(twins, 'once', 3000)
  await expectAllFound(twins, 'early', 2000)
  expect(await twins.compute.value("SELECT nextval('once_seq')::int")).toBe(2)
})

test('temporary tables of a crashed session are gone, their names are free', async () => {
  await twins.same(`CREATE TEMP TABLE left_over (id int PRIMARY KEY, body text);
    INSERT INTO left_over SELECT g, repeat('l', 3000) FROM generate_series(1, 500) g`)
  await twins.crash()
  await twins.same('SELECT count(*) FROM left_over', { fails: true })
  await twins.same(`CREATE TEMP TABLE left_over AS SELECT g AS id FROM generate_series(1, 2000) g;
    CREATE INDEX ON left_over (id); SELECT count(*), sum(id) FROM left_over`)
  await twins.same(`SELECT count(*) FROM pg_class WHERE relname LIKE 'left_over%'`)
  await twins.restart()
  await twins.same(`SELECT count(*) FROM pg_class WHERE relname LIKE 'left_over%'`)
})
