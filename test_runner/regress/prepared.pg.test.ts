/**
 * Prepared transactions: with subtransactions, locks, created and dropped relations; kept over clean
 * restarts, crashes and on branches, and finished differently on each side. Each step is compared
 * with stock Postgres.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Twins } from '../fixtures/twins.ts'

let twins: Twins

const LOOK = `SELECT gid, owner, database FROM pg_prepared_xacts ORDER BY gid;
  SELECT id, v FROM account ORDER BY id;
  SELECT count(*), sum(length(body)) FROM note;
  SELECT relname FROM pg_class WHERE relname LIKE 'made_%' ORDER BY 1`

beforeAll(async () => {
  twins = await Twins.start()
  await twins.same(`CREATE TABLE account (id int PRIMARY KEY, v int);
    INSERT INTO account SELECT g, 0 FROM generate_series(1, 20) g;
    CREATE TABLE note (id int, body text);
    CREATE TABLE made_before AS SELECT generate_series(1, 3000) AS n;
    CREATE TABLE made_truncated AS SELECT generate_series(1, 3000) AS n`)
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

/** Everything that a two-phase file can hold. */
async function prepareAll(): Promise<void> {
  await twins.same(`BEGIN; UPDATE account SET v = v + 1 WHERE id = 1;
    SAVEPOINT a; UPDATE account SET v = v + 10 WHERE id = 2;
    SAVEPOINT b; UPDATE account SET v = v + 100 WHERE id = 3; ROLLBACK TO b;
    UPDATE account SET v = v + 1000 WHERE id = 4; RELEASE a; PREPARE TRANSACTION 'with-subs'`)
  await twins.same(`BEGIN; CREATE TABLE made_inside (n int PRIMARY KEY);
    INSERT INTO made_inside SELECT generate_series(1, 5000);
    DROP TABLE made_before; TRUNCATE made_truncated;
    INSERT INTO made_truncated VALUES (1); PREPARE TRANSACTION 'with-files'`)
  await twins.same(`BEGIN; SELECT v FROM account WHERE id = 7 FOR UPDATE;
    LOCK TABLE note IN SHARE UPDATE EXCLUSIVE MODE; PREPARE TRANSACTION 'with-locks'`)
  // More subtransactions than a backend's entry has room for.
  await twins.same(`BEGIN; DO $$ BEGIN FOR i IN 1..200 LOOP
      BEGIN INSERT INTO note VALUES (i, repeat('n', 500));
        IF i % 5 = 0 THEN RAISE division_by_zero; END IF;
      EXCEPTION WHEN division_by_zero THEN NULL; END;
    END LOOP; END $$; PREPARE TRANSACTION 'with-200-subs'`)
  await twins.same(`BEGIN; SELECT v FROM account WHERE id = 9 FOR SHARE;
    PREPARE TRANSACTION 'shares'`)
  await twins.same(`BEGIN; SELECT v FROM account WHERE id = 9 FOR SHARE; SAVEPOINT s;
    SELECT v FROM account WHERE id = 10 FOR NO KEY UPDATE; PREPARE TRANSACTION 'shares-too'`)
}

/** What others can and cannot do while they are prepared. */
async function expectLocked(on: Twins): Promise<void> {
  await on.same(`SET lock_timeout = '120ms'`, { session: 'other' })
  const blocked = [
    'UPDATE account SET v = 0 WHERE id = 2',
    'UPDATE account SET v = 0 WHERE id = 7',
    'UPDATE account SET v = 0 WHERE id = 9',
    'ALTER TABLE note ADD COLUMN extra int',
    'SELECT count(*) FROM made_before',
    'TRUNCATE made_truncated',
  ]
  for (const sql of blocked) await on.same(sql, { session: 'other', fails: true })
  await on.same(
    `SELECT id FROM account WHERE id BETWEEN 1 AND 10 ORDER BY id FOR UPDATE SKIP LOCKED;
     SELECT id FROM account WHERE id = 9 FOR KEY SHARE;
     SELECT locktype, mode, relation::regclass::text FROM pg_locks WHERE pid IS NULL
       AND locktype = 'relation' AND relation::regclass::text IN ('note', 'account', 'made_before')
       ORDER BY 3, 2`,
    { session: 'other' },
  )
}

test('prepared transactions outlive clean restarts and crashes', async () => {
  await prepareAll()
  await expectLocked(twins)
  for (const how of ['evict', 'restart', 'crash', 'restart'] as const) {
    await twins[how]()
    await twins.same(LOOK)
    await expectLocked(twins)
  }
  await twins.same('CHECKPOINT')
  await twins.crash()
  await twins.same(LOOK)
})

test('a branch has them too, and finishes them its own way', async () => {
  await using branch = await twins.branch('other')
  await branch.same(LOOK)
  await expectLocked(branch)
  await branch.same(`ROLLBACK PREPARED 'with-subs'`)
  await branch.same(`COMMIT PREPARED 'with-files'`)
  await branch.same(`ROLLBACK PREPARED 'with-200-subs'`)
  await branch.sameEach(`COMMIT PREPARED 'shares'`, `COMMIT PREPARED 'shares-too'`)
  await branch.same(LOOK)
  await branch.same('SELECT count(*), sum(n) FROM made_inside; SELECT n FROM made_truncated')

  await twins.same(`COMMIT PREPARED 'with-subs'`)
  await twins.same(`ROLLBACK PREPARED 'with-files'`)
  await twins.same(`COMMIT PREPARED 'with-200-subs'`)
  await twins.same(`ROLLBACK PREPARED 'shares'`)
  await twins.same(LOOK)

  for (const on of [branch, twins]) {
    await on.crash()
    await on.same(LOOK)
    await on.same('SELECT count(*), sum(n) FROM made_truncated')
    await on.sameEach(`COMMIT PREPARED 'with-locks'`, 'UPDATE account SET v = 5 WHERE id = 7')
  }
  await branch.same('SELECT * FROM made_before', { fails: true })
  await twins.same('SELECT * FROM made_inside', { fails: true })
  await twins.sameEach('SELECT count(*), sum(n) FROM made_before', `COMMIT PREPARED 'shares-too'`)
  await branch.restart()
  await branch.same(LOOK)
})

test('identifiers: used twice, unknown, of another database, kept after a rollback', async () => {
  await twins.same(`BEGIN; INSERT INTO account VALUES (100, 1); PREPARE TRANSACTION 'twice'`)
  await twins.restart()
  await twins.same(`BEGIN; INSERT INTO account VALUES (101, 1); PREPARE TRANSACTION 'twice'`, {
    fails: true,
  })
  await twins.same(`COMMIT PREPARED 'unknown'`, { fails: true })
  await twins.same(`ROLLBACK PREPARED 'twice'`)
  await twins.same(`COMMIT PREPARED 'twice'`, { fails: true })
  await twins.same(`BEGIN; INSERT INTO account VALUES (101, 2); PREPARE TRANSACTION 'twice'`)
  await twins.crash()
  await twins.sameEach(`COMMIT PREPARED 'twice'`, 'SELECT * FROM account WHERE id >= 100')
})

test('what cannot be prepared', async () => {
  const refused = [
    'LISTEN channel',
    'NOTIFY channel',
    'CREATE TEMP TABLE here (n int)',
    'DECLARE c CURSOR WITH HOLD FOR SELECT 1',
    'SELECT pg_export_snapshot() IS NOT NULL',
  ]
  for (const sql of refused) {
    await twins.same(`BEGIN; ${sql}; PREPARE TRANSACTION 'refused'`, { fails: true })
  }
  await twins.same(`BEGIN; SELECT pg_advisory_xact_lock(5); PREPARE TRANSACTION 'advisory'`)
  await twins.same('SELECT pg_try_advisory_lock(5)', { session: 'other' })
  await twins.restart()
  await twins.same('SELECT pg_try_advisory_lock(5)', { session: 'other' })
  await twins.same(`COMMIT PREPARED 'advisory'`)
  await twins.same('SELECT pg_try_advisory_lock(5)', { session: 'other' })
})

test('a serializable transaction that was prepared still counts after a restart', async () => {
  await twins.same('CREATE TABLE duty (who text PRIMARY KEY, here boolean)')
  await twins.same(`INSERT INTO duty VALUES ('a', true), ('b', true)`)
  const sum = 'SELECT count(*) FROM duty WHERE here'
  await twins.same(`BEGIN ISOLATION LEVEL SERIALIZABLE; ${sum}; UPDATE duty SET here = false
    WHERE who = 'a'; PREPARE TRANSACTION 'duty'`)
  for (const how of ['evict', 'restart', 'crash'] as const) {
    await twins[how]()
    // Either may go off duty, but not both.
    await twins.same(
      `BEGIN ISOLATION LEVEL SERIALIZABLE; ${sum}; UPDATE duty SET here = false
      WHERE who = 'b'; COMMIT`,
      { fails: true },
    )
    await twins.same('ROLLBACK')
  }
  await twins.same(`COMMIT PREPARED 'duty'`)
  await twins.same('SELECT * FROM duty ORDER BY who')
})

test('fifty at once, over a power cut of everything', async () => {
  await twins.same('CREATE TABLE many (id int PRIMARY KEY, body text)')
  for (let id = 1; id <= 50; id++) {
    await twins.same(`BEGIN; INSERT INTO many VALUES (${id}, repeat('m', 3000));
      SAVEPOINT s; UPDATE many SET body = body || 'x' WHERE id = ${id};
      PREPARE TRANSACTION 'many-${id}'`)
  }
  await twins.zenith.killAll()
  await twins.zenith.start()
  await twins.crash()
  await twins.same('SELECT gid FROM pg_prepared_xacts ORDER BY gid')
  for (let id = 1; id <= 50; id++) {
    await twins.same(`${id % 3 === 0 ? 'ROLLBACK' : 'COMMIT'} PREPARED 'many-${id}'`)
  }
  await twins.restart()
  await twins.sameEach('SELECT count(*), sum(id), sum(length(body)) FROM many', 'VACUUM many')
  expect(await twins.same('SELECT * FROM pg_prepared_xacts')).toEqual([])
})
