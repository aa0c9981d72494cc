/**
 * VACUUM FULL, CLUSTER, TRUNCATE, rewriting ALTER TABLE and tables that shrink and grow again, also
 * rolled back, in subtransactions, and cut off by kill -9. Pages from before must never come back:
 * contents and sizes equal stock Postgres' after each step.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually } from '../fixtures/eventually.ts'
import { Twins } from '../fixtures/twins.ts'

let twins: Twins

beforeAll(async () => {
  twins = await Twins.start()
  await twins.same('CREATE EXTENSION amcheck')
  await twins.same(`CREATE TABLE item (id int PRIMARY KEY, grp int, body text, big text);
    ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
    CREATE INDEX item_grp ON item (grp); CREATE INDEX item_body ON item USING hash (body);
    INSERT INTO item ${rows(1, 4000)}`)
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

function rows(first: number, last: number): string {
  return `SELECT g, g % 37, md5(g::text), CASE WHEN g % 100 = 0 THEN repeat(md5(g::text), 100) END
    FROM generate_series(${first}, ${last}) g`
}

/** Contents by each path, sizes of every fork that Postgres decides the size of. */
async function look(on: Twins = twins): Promise<void> {
  await on.evict()
  const sum = `SELECT count(*), sum(id), sum(grp), sum(length(big)),
    md5(string_agg(body, '' ORDER BY id)) FROM item`
  await on.same(sum)
  await on.same(`SET enable_seqscan = off; ${sum} WHERE grp = 5; ${sum} WHERE id > 0;
    ${sum} WHERE body = md5('77'); RESET enable_seqscan`)
  await on.same(`SELECT pg_relation_size('item'), pg_relation_size('item_pkey'),
    pg_relation_size('item_grp'), pg_relation_size(reltoastrelid) FROM pg_class
    WHERE oid = 'item'::regclass`)
  await on.same(`SELECT blkno, offnum, msg FROM verify_heapam('item')`)
  await on.same(`SELECT bt_index_check('item_pkey', true), bt_index_check('item_grp', true)`)
}

test('rewrites, committed and rolled back', async () => {
  await twins.same('UPDATE item SET grp = grp + 1 WHERE id % 3 = 0')
  await twins.same('DELETE FROM item WHERE id % 5 = 1')
  await look()
  await twins.sameEach('VACUUM FULL item')
  await look()
  await twins.sameEach('CLUSTER item USING item_grp')
  await look()
  await twins.same(`BEGIN; CLUSTER item USING item_pkey; UPDATE item SET grp = 0; ROLLBACK`)
  await look()
  await twins.same(`BEGIN; SAVEPOINT a; CLUSTER item; ROLLBACK TO a; SAVEPOINT b;
    ALTER TABLE item ALTER grp TYPE bigint; RELEASE b; COMMIT`)
  await look()
  await twins.same(
    `ALTER TABLE item ALTER grp TYPE int, ADD COLUMN extra text DEFAULT md5(random()::text)`,
  )
  await twins.same('ALTER TABLE item DROP COLUMN extra')
  await twins.sameEach('VACUUM FULL item', 'REINDEX TABLE item')
  await look()
})

test('TRUNCATE: rolled back, in subtransactions, refilled in the same transaction', async () => {
  await twins.same('BEGIN; TRUNCATE item; ROLLBACK')
  await look()
  await twins.same(`BEGIN; TRUNCATE item; INSERT INTO item ${rows(1, 300)}; SAVEPOINT a;
    TRUNCATE item; INSERT INTO item ${rows(1, 900)}; ROLLBACK TO a;
    INSERT INTO item ${rows(301, 600)}`)
  await twins.evict()
  await twins.same('SELECT count(*), sum(id) FROM item; ROLLBACK')
  await look()
  await twins.same(`BEGIN; TRUNCATE item; INSERT INTO item ${rows(1, 300)}; SAVEPOINT a;
    TRUNCATE item; INSERT INTO item ${rows(1, 900)}; RELEASE a; COMMIT`)
  await look()
  for (let round = 1; round <= 5; round++) {
    await twins.same('TRUNCATE item')
    if (round % 2 === 0) await twins.evict()
    await twins.same(`INSERT INTO item ${rows(round, round * 400)}`)
    await look()
  }
  // In the transaction that made it, a table is truncated in place.
  await twins.same(`BEGIN; CREATE TABLE fresh AS SELECT g, repeat('f', 500) AS pad
    FROM generate_series(1, 2000) g; CREATE INDEX fresh_g ON fresh (g)`)
  await twins.evict()
  await twins.same('TRUNCATE fresh; SELECT count(*) FROM fresh')
  await twins.same(`INSERT INTO fresh SELECT g, 'n' FROM generate_series(1, 3000) g`)
  await twins.evict()
  await twins.same(`SELECT count(*), sum(g), pg_relation_size('fresh') FROM fresh; COMMIT`)
  await twins.evict()
  await twins.same('SET enable_seqscan = off; SELECT count(g), sum(g) FROM fresh WHERE g > 100')
})

test('tails that VACUUM cuts off and inserts that grow over them', async () => {
  await twins.same(`TRUNCATE item; INSERT INTO item ${rows(1, 5000)}`)
  for (let round = 1; round <= 5; round++) {
    await twins.same(`DELETE FROM item WHERE id > ${round * 500}`)
    await twins.same('VACUUM (TRUNCATE, INDEX_CLEANUP on) item')
    await look()
    if (round % 3 === 0) await twins.restart()
    // Far beyond the cut: what was there before must be zeros, then new.
    await twins.same(`INSERT INTO item ${rows(round * 500 + 1, 4000 + round * 100)}`)
    await look()
    if (round % 3 === 1) await twins.crash()
    if (round % 3 === 2) await twins.same('DELETE FROM item WHERE id % 2 = 0 AND id > 3000')
  }
  await twins.same('SELECT count(*), sum(id) FROM item')
})

test('a branch made between the cut and the growth', async () => {
  await twins.same(`TRUNCATE item; INSERT INTO item ${rows(1, 3000)}`)
  await twins.same('DELETE FROM item WHERE id > 100')
  await twins.sameEach('VACUUM (TRUNCATE) item')
  await using branch = await twins.branch('cut')
  await branch.same(`INSERT INTO item ${rows(5001, 9000)}`)
  await twins.same(`INSERT INTO item ${rows(101, 700)}`)
  for (const on of [branch, twins]) {
    await on.same('SELECT count(*), sum(id), md5(string_agg(body, $$$$ ORDER BY id)) FROM item')
    await on.same(`SELECT blkno, offnum, msg FROM verify_heapam('item')`)
    await on.restart()
    await on.same('SELECT count(*), sum(id), md5(string_agg(body, $$$$ ORDER BY id)) FROM item')
  }
})

test('kill -9 at random moments of rewrites', async () => {
  await twins.compute.query(`CREATE TABLE ground (id int PRIMARY KEY, v int, pad text);
    CREATE INDEX ground_v ON ground (v);
    INSERT INTO ground SELECT g, 0, repeat('g', 200) FROM generate_series(1, 3000) g`)
  const steps = [
    'VACUUM FULL ground',
    'CLUSTER ground USING ground_v',
    'BEGIN; TRUNCATE ground; INSERT INTO ground SELECT g, 0, repeat($$t$$, 200) FROM generate_series(1, 3000) g; COMMIT',
    'UPDATE ground SET v = v + 1',
    'REINDEX TABLE ground',
    'BEGIN; DELETE FROM ground WHERE id > 500; INSERT INTO ground SELECT g, 1, $$x$$ FROM generate_series(501, 3000) g; COMMIT',
    'VACUUM ground',
    'ALTER TABLE ground ALTER v TYPE bigint; ALTER TABLE ground ALTER v TYPE int',
  ]
  let done = 0
  for (let round = 0; round < 4; round++) {
    const client = await twins.compute.connect()
    const before = done
    const work = (async () => {
      while (true) {
        await client.query(steps[done % steps.length] as string)
        done++
      }
    })().catch(() => {})
    await sleep(100 + Math.random() * 700)
    await eventually(() => done > before + 1, 'two rewrites')
    await Promise.all([
      twins.compute.kill(),
      round % 2 === 0 ? zenithKill('pageserver') : zenithKill('safekeeper'),
    ])
    await work
    await twins.zenith.start()
    await twins.crash()
    const { compute } = twins
    const [row] = await compute.query(
      'SELECT count(*)::int AS n, sum(id)::int AS ids, count(DISTINCT id)::int AS d FROM ground',
    )
    expect(row, `round ${round}`).toEqual({ n: 3000, ids: 4_501_500, d: 3000 })
    expect(await compute.query(`SELECT * FROM verify_heapam('ground')`)).toEqual([])
    await compute.query(
      `SELECT bt_index_check('ground_pkey', true), bt_index_check('ground_v', true)`,
    )
  }
  expect(done).toBeGreaterThan(5)
  await look()
})

async function zenithKill(what: 'pageserver' | 'safekeeper'): Promise<void> {
  const { pageserver, safekeepers } = twins.zenith
  await (what === 'pageserver' ? pageserver : safekeepers[0])?.stop('SIGKILL')
}
