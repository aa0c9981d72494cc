/**
 * More subtransactions than a backend's entry in shared memory holds (64), so that snapshots
 * overflow and visibility is decided by pg_subtrans: with eviction, concurrent readers, nesting,
 * restarts and crashes in between. Each answer is compared with stock Postgres.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually } from '../fixtures/eventually.ts'
import { Twins } from '../fixtures/twins.ts'

const FLOOD = 400

let twins: Twins

/** Every third one is rolled back. */
function flood(table: string, first: number): string {
  return `DO $$ BEGIN FOR i IN ${first}..${first + FLOOD - 1} LOOP
    BEGIN
      INSERT INTO ${table} VALUES (i, repeat('s', 200));
      UPDATE ${table} SET body = body || '!' WHERE id = i - 1;
      IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
    EXCEPTION WHEN division_by_zero THEN NULL; END;
  END LOOP; END $$`
}

const LOOK = `SELECT count(*), sum(id), sum(length(body)), md5(string_agg(body, '' ORDER BY id))`

beforeAll(async () => {
  twins = await Twins.start({ subtransaction_buffers: '16', transaction_buffers: '16' })
  await twins.same('CREATE TABLE item (id int PRIMARY KEY, body text)')
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

test('others see nothing of a flood until it commits, then all of it', async () => {
  await twins.same('BEGIN')
  await twins.same(flood('item', 1))
  await twins.same(`BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM item`, {
    session: 'reader',
  })
  await twins.evict()
  await twins.same(`${LOOK} FROM item`)
  await twins.same(`${LOOK} FROM item`, { session: 'other' })
  await twins.same('SAVEPOINT more')
  await twins.same(flood('item', FLOOD + 1))
  await twins.evict()
  await twins.same(`ROLLBACK TO more; ${LOOK} FROM item`)
  await twins.same('COMMIT')
  await twins.evict()
  // The old snapshot overflowed when it was taken.
  expect(await twins.same(`${LOOK} FROM item`, { session: 'reader' })).toMatchObject([
    { count: '0' },
  ])
  await twins.same('COMMIT', { session: 'reader' })
  expect(await twins.same(`${LOOK} FROM item`, { session: 'reader' })).not.toMatchObject([
    { count: '0' },
  ])
})

test('a flood that ends with a crash leaves nothing, one that committed stays', async () => {
  await twins.same('BEGIN')
  await twins.same(flood('item', 1001))
  await twins.sameEach('COMMIT', 'BEGIN')
  await twins.same(flood('item', 2001))
  await twins.evict()
  await twins.crash()
  await twins.same(`${LOOK} FROM item; SELECT count(*) FROM item WHERE id > 2000`)
  await twins.same('VACUUM (FREEZE) item')
  await twins.same(`${LOOK} FROM item`)
})

test('deep nesting, rolled back from the middle', async () => {
  await twins.sameEach('CREATE TABLE nested (level int, body text)', 'BEGIN')
  for (let level = 1; level <= 150; level++) {
    await twins.same(`SAVEPOINT s${level}; INSERT INTO nested VALUES (${level}, repeat('d', 300))`)
  }
  await twins.evict()
  await twins.same('SELECT count(*), sum(level) FROM nested')
  await twins.same('SELECT count(*) FROM nested', { session: 'other' })
  await twins.same('ROLLBACK TO s100; RELEASE s50; SELECT count(*), sum(level) FROM nested')
  await twins.evict()
  await twins.same(`INSERT INTO nested VALUES (1000, 'after'); SAVEPOINT t; DELETE FROM nested;
    ROLLBACK TO t; SELECT count(*), sum(level) FROM nested; COMMIT`)
  await twins.restart()
  await twins.same('SELECT count(*), sum(level) FROM nested')
})

test('rows locked by many subtransactions and by others', async () => {
  await twins.same(`CREATE TABLE locked (id int PRIMARY KEY, v int);
    INSERT INTO locked SELECT g, 0 FROM generate_series(1, 100) g`)
  await twins.same('BEGIN')
  await twins.same('BEGIN; SELECT count(*) FROM (SELECT * FROM locked FOR KEY SHARE) l', {
    session: 'other',
  })
  await twins.same(`DO $$ BEGIN FOR i IN 1..100 LOOP BEGIN
      PERFORM 1 FROM locked WHERE id = i FOR NO KEY UPDATE;
      UPDATE locked SET v = i WHERE id = i AND i % 2 = 0;
      IF i % 10 = 0 THEN RAISE division_by_zero; END IF;
    EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$`)
  await twins.evict()
  await twins.same('SELECT sum(v), count(*) FILTER (WHERE v > 0) FROM locked')
  await twins.same('SELECT sum(v) FROM locked', { session: 'other' })
  await twins.same('SELECT id FROM locked ORDER BY id FOR UPDATE SKIP LOCKED', { session: 'third' })
  await twins.same('COMMIT', { session: 'other' })
  await twins.evict()
  await twins.same('SELECT id FROM locked ORDER BY id FOR UPDATE SKIP LOCKED', { session: 'third' })
  await twins.same('COMMIT')
  await twins.crash()
  await twins.same('SELECT sum(v), count(*) FILTER (WHERE v > 0) FROM locked')
  await twins.sameEach(
    'UPDATE locked SET v = v + 1',
    'VACUUM (FREEZE) locked',
    'SELECT sum(v) FROM locked',
  )
})

test('the compute dies at random moments of floods by several clients', async () => {
  await twins.same('CREATE TABLE rounds (round int, id int, body text)')
  const committed: number[] = []
  for (let round = 1; round <= 4; round++) {
    const writer = await twins.compute.connect()
    const before = committed.length
    const work = (async () => {
      for (let part = 0; part < 50; part++) {
        const id = round * 1000 + part
        await writer.query(`BEGIN; DO $$ BEGIN FOR i IN 1..90 LOOP BEGIN
          INSERT INTO rounds VALUES (${id}, i, repeat('r', 100));
          IF i % 9 = 0 THEN RAISE division_by_zero; END IF;
          EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$; COMMIT`)
        committed.push(id)
      }
    })()
    const ended = work.catch(() => {})
    await new Promise((resolve) => setTimeout(resolve, 150 + Math.random() * 400))
    await eventually(() => committed.length > before + 2, 'three floods')
    await twins.crash()
    await ended
    const rows = await twins.compute.query(
      'SELECT round, count(*)::int AS n FROM rounds GROUP BY round ORDER BY round',
    )
    const found = new Map(rows.map(({ round: id, n }) => [id as number, n as number]))
    for (const id of committed) expect(found.get(id), `transaction ${id}`).toBe(80)
    // One more may have committed without our hearing of it, and is whole then.
    for (const [id, n] of found) expect(n, `transaction ${id}`).toBe(80)
    expect(found.size - committed.length).toBeLessThanOrEqual(round)
  }
  expect(committed.length).toBeGreaterThan(10)
})
