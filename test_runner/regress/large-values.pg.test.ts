/**
 * Values that fill many pages: compressed and external TOAST data, large objects, rows near the
 * limit, COPY of wide rows, each with eviction, rollback, vacuum, restart, crash and branch. Compared
 * with stock Postgres.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Twins } from '../fixtures/twins.ts'

let twins: Twins

beforeAll(async () => {
  twins = await Twins.start()
  await twins.same('CREATE EXTENSION amcheck; CREATE EXTENSION lo')
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

const LOOK = `SELECT id, kind, length(body), md5(body), pg_column_compression(body) FROM doc ORDER BY id;
  SELECT id, substr(body, 1000000, 20), substr(body, length(body) - 10) FROM doc WHERE length(body) > 1000000`

test('TOAST: pglz, lz4, external, updated in part, rolled back', async () => {
  await twins.same(`CREATE TABLE doc (id int PRIMARY KEY, kind text, body text);
    INSERT INTO doc SELECT g, 'pglz', repeat(md5(g::text), g * 200) FROM generate_series(1, 20) g`)
  await twins.same(`ALTER TABLE doc ALTER body SET COMPRESSION lz4;
    INSERT INTO doc SELECT g, 'lz4', repeat(md5(g::text), g * 200) FROM generate_series(21, 40) g`)
  await twins.same(`ALTER TABLE doc ALTER body SET STORAGE EXTERNAL; INSERT INTO doc SELECT g, 'external',
    (SELECT string_agg(md5((g * i)::text), '') FROM generate_series(1, 100 * (g - 40)) i)
    FROM generate_series(41, 50) g`)
  await twins.same(`INSERT INTO doc VALUES (100, 'huge', (SELECT string_agg(md5(i::text), '')
    FROM generate_series(1, 60000) i))`)
  await twins.evict()
  await twins.same(LOOK)
  await twins.same(`UPDATE doc SET kind = kind || '!' WHERE id % 2 = 0`)
  await twins.same(`UPDATE doc SET body = body || 'more' WHERE id % 5 = 0`)
  await twins.same(`BEGIN; UPDATE doc SET body = repeat('gone', 20000); SAVEPOINT s;
    DELETE FROM doc; ROLLBACK TO s; SELECT count(DISTINCT md5(body)) FROM doc`)
  await twins.evict()
  await twins.same('SELECT sum(length(body)) FROM doc; ROLLBACK')
  await twins.evict()
  await twins.same(LOOK)
  await twins.sameEach('VACUUM doc')
  await twins.crash()
  await twins.same(LOOK)
  await twins.sameEach('VACUUM FULL doc')
  await twins.restart()
  await twins.same(LOOK)
  await twins.same(`SELECT blkno, offnum, msg FROM verify_heapam('doc', check_toast => true)`)
  await twins.same(`DELETE FROM doc WHERE kind LIKE 'lz4%' OR id = 100`)
  await twins.sameEach('VACUUM (TRUNCATE) doc')
  await twins.same(
    `INSERT INTO doc SELECT g, 'new', repeat(md5(g::text), 3000) FROM generate_series(200, 240) g`,
  )
  await using branch = await twins.branch('docs')
  for (const on of [twins, branch]) {
    await on.same(LOOK)
    await on.same(`UPDATE doc SET body = body || '${on.branchName}'`)
    await on.evict()
    await on.same(LOOK)
    await on.same(`SELECT blkno, offnum, msg FROM verify_heapam('doc', check_toast => true)`)
  }
})

test('wide rows, by COPY and one by one', async () => {
  const columns = Array.from({ length: 400 }, (_, index) => `c${index} int`).join(', ')
  const values = Array.from({ length: 400 }, (_, index) => `g + ${index}`).join(', ')
  await twins.same(`CREATE TABLE wide (id int, ${columns}); INSERT INTO wide SELECT g, ${values}
    FROM generate_series(1, 300) g`)
  await twins.same(`CREATE TABLE copied (id int, body text);
    COPY copied FROM PROGRAM 'for i in 1 2 3 4 5 6 7 8; do printf "%d," $i; head -c 900000 /dev/zero | tr "\\0" x; echo; done'
    WITH (FORMAT csv)`)
  await twins.same(`CREATE TABLE edge (body text STORAGE PLAIN)`)
  await twins.same(`INSERT INTO edge SELECT repeat('e', g) FROM generate_series(8100, 8128) g`)
  await twins.same(`INSERT INTO edge SELECT repeat('e', 8200)`, { fails: true })
  await twins.evict()
  const look = `SELECT count(*), sum(c0), sum(c399) FROM wide;
    SELECT id, length(body), md5(body) FROM copied ORDER BY id; SELECT count(*), sum(length(body)) FROM edge`
  await twins.same(look)
  await twins.same(`UPDATE wide SET c7 = -c7, c399 = NULL WHERE id % 3 = 0`)
  await twins.crash()
  await twins.same(look)
})

test('large objects', async () => {
  await twins.same(
    `SELECT lo_create(1000), lo_from_bytea(1001, convert_to(repeat('lob', 100000), 'UTF8'))`,
  )
  const look = `SELECT loid, count(*), sum(length(data)) FROM pg_largeobject GROUP BY loid ORDER BY loid;
    SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY oid`
  await twins.same(look)
  await twins.same(`BEGIN; SELECT lo_open(1001, x'60000'::int); SELECT lo_lseek64(0, 250000, 0);
    SELECT lowrite(0, 'in the middle'); SELECT lo_tell64(0)`)
  await twins.evict()
  await twins.same(`SELECT lo_lseek64(0, 249990, 0); SELECT convert_from(loread(0, 40), 'UTF8');
    SELECT lo_truncate64(0, 260000); SAVEPOINT s; SELECT lowrite(0, repeat('w', 5000)::bytea);
    SELECT lo_unlink(1000); ROLLBACK TO s; COMMIT`)
  await twins.evict()
  await twins.same(look)
  // A hole of several pages is zeros.
  await twins.same(
    `SELECT lo_put(1000, 70000, 'far away'), length(lo_get(1000)), md5(lo_get(1000))`,
  )
  await twins.same(`BEGIN; SELECT lo_put(1000, 0, 'undone'), lo_unlink(1001); ROLLBACK`)
  await twins.restart()
  await twins.same(look)
  await twins.same(`CREATE TABLE holder (id int, file lo); CREATE TRIGGER manage BEFORE UPDATE OR DELETE
    ON holder FOR EACH ROW EXECUTE FUNCTION lo_manage(file);
    INSERT INTO holder SELECT g, lo_from_bytea(2000 + g, decode(repeat(md5(g::text), 2000), 'hex'))
      FROM generate_series(1, 30) g`)
  await twins.same(
    `BEGIN; DELETE FROM holder WHERE id <= 10; SELECT lo_put(2020, 9, 'x'); PREPARE TRANSACTION 'files'`,
  )
  await twins.crash()
  await twins.same(look)
  await using branch = await twins.branch('files')
  await branch.same(`ROLLBACK PREPARED 'files'`)
  await twins.same(`COMMIT PREPARED 'files'`)
  for (const on of [branch, twins]) {
    await on.evict()
    await on.same(look)
    await on.sameEach('VACUUM pg_largeobject')
    await on.same('DELETE FROM holder WHERE id = 25; SELECT count(*) FROM holder')
    await on.same(look)
  }
  expect(await branch.compute.value('SELECT count(*)::int FROM holder')).toBe(29)
})
