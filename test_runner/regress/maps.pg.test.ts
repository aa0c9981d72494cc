/**
 * Visibility maps and free space maps after eviction, truncation, restarts and crashes. A bit of the
 * visibility map that is wrongly set gives wrong answers: pg_visibility looks for such, index-only
 * scans are compared with sequential ones, and the map itself with stock Postgres'.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Twins } from '../fixtures/twins.ts'

let twins: Twins

const ROWS = 6000

beforeAll(async () => {
  // VACUUM passes over a page that the background writer or a checkpoint is about to write.
  twins = await Twins.start({ bgwriter_lru_maxpages: '0', checkpoint_timeout: '1h' })
  await twins.same('CREATE EXTENSION pg_visibility; CREATE EXTENSION pg_freespacemap')
  await twins.same('CREATE EXTENSION amcheck')
  await twins.same(`CREATE TABLE item (id int PRIMARY KEY, v int, pad text) WITH (fillfactor = 80);
    INSERT INTO item SELECT g, g % 10, repeat('m', 150) FROM generate_series(1, ${ROWS}) g`)
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

/** Nothing is marked that must not be; index-only scans see what sequential scans see. */
async function expectTruth(compute: Compute, table: string): Promise<void> {
  await compute.query('SELECT clear_buffer_cache()')
  for (const check of ['pg_check_visible', 'pg_check_frozen']) {
    expect(await compute.query(`SELECT * FROM ${check}('${table}')`), `${check} ${table}`).toEqual(
      [],
    )
  }
  expect(await compute.query(`SELECT * FROM verify_heapam('${table}')`)).toEqual([])
  const client = await compute.connect()
  const count = `SELECT count(id)::int AS n, sum(id)::int AS s FROM ${table}`
  await client.query('SET enable_seqscan = off; SET enable_bitmapscan = off')
  const { rows: plan } = await client.query(`EXPLAIN (COSTS off) ${count} WHERE id > 0`)
  expect(JSON.stringify(plan)).toContain('Index Only Scan')
  const { rows: byIndex } = await client.query(`${count} WHERE id > 0`)
  await client.query(
    'SET enable_seqscan = on; SET enable_indexonlyscan = off; SET enable_indexscan = off',
  )
  const { rows: byTable } = await client.query(count)
  await client.end()
  expect(byIndex, table).toEqual(byTable)
}

async function sameMap(on: Twins, table = 'item'): Promise<void> {
  await expectTruth(on.compute, table)
  await on.evict()
  await on.same(`SELECT * FROM pg_visibility_map_summary('${table}')`)
  await on.same(`SELECT blkno, all_visible, all_frozen FROM pg_visibility_map('${table}')`)
}

test('the visibility map equals stock Postgres after every kind of change', async () => {
  const changes = [
    'VACUUM item',
    'UPDATE item SET v = v + 1 WHERE id % 400 = 1',
    'VACUUM (FREEZE) item',
    'DELETE FROM item WHERE id BETWEEN 2000 AND 2100',
    'SELECT id FROM item WHERE id IN (100, 3000) FOR UPDATE',
    'BEGIN; SELECT id FROM item WHERE id = 4000 FOR KEY SHARE; SAVEPOINT s; UPDATE item SET v = 0 WHERE id = 4000; ROLLBACK TO s; COMMIT',
    'BEGIN; UPDATE item SET v = 99 WHERE id % 3 = 0; ROLLBACK',
    'VACUUM item',
    `INSERT INTO item SELECT g, 1, 'new' FROM generate_series(2000, 2100) g`,
    'VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) item',
    `COPY item FROM PROGRAM 'seq -f "%g,5,copied" 7001 7200' WITH (FORMAT csv)`,
    `UPDATE item SET pad = repeat('longer', 100) WHERE id % 500 = 7`,
    'VACUUM (INDEX_CLEANUP off) item',
    'VACUUM item',
  ]
  for (const change of changes) {
    await twins.same(change)
    await sameMap(twins)
  }
})

test('COPY FREEZE marks pages in the transaction that truncated', async () => {
  await twins.same(`BEGIN; CREATE TABLE frozen (id int PRIMARY KEY, pad text);
    COPY frozen FROM PROGRAM 'seq -f "%g,frozen row of some length" 1 5000' WITH (FORMAT csv, FREEZE);
    COMMIT`)
  await sameMap(twins, 'frozen')
  await twins.restart()
  await sameMap(twins, 'frozen')
  await twins.same('UPDATE frozen SET pad = $$thawed$$ WHERE id = 2500')
  await twins.crash()
  await sameMap(twins, 'frozen')
})

test('truncated maps do not remember', async () => {
  await twins.sameEach('VACUUM (FREEZE) item')
  await twins.same('DELETE FROM item WHERE id > 1000')
  await twins.sameEach('VACUUM (TRUNCATE) item')
  await sameMap(twins)
  // New rows on old block numbers whose bits were set before the cut.
  await twins.same(`BEGIN; INSERT INTO item SELECT g, 2, repeat('n', 150) FROM generate_series(1001, 5000) g;
    SAVEPOINT s; DELETE FROM item WHERE id > 4500; COMMIT`)
  await sameMap(twins)
  await twins.crash()
  await sameMap(twins)
  await twins.sameEach('VACUUM item')
  await sameMap(twins)
  await twins.same('TRUNCATE item')
  await twins.same(`INSERT INTO item SELECT g, 3, 'after' FROM generate_series(1, 3000) g`)
  await sameMap(twins)
  await twins.restart()
  await sameMap(twins)
  await using branch = await twins.branch('maps')
  await branch.same('DELETE FROM item WHERE id % 7 = 0')
  await twins.sameEach('VACUUM (FREEZE) item')
  await sameMap(branch)
  await sameMap(twins)
  await branch.sameEach('VACUUM (FREEZE) item')
  // VACUUM alone does not wait for its WAL.
  await branch.same('CREATE TABLE durable ()')
  await branch.crash()
  await sameMap(branch)
})

test('free space is found again, and never outside of the table', async () => {
  await twins.same(`CREATE TABLE space (id int PRIMARY KEY, pad text);
    INSERT INTO space SELECT g, repeat('s', 400) FROM generate_series(1, 6000) g`)
  await twins.same('DELETE FROM space WHERE id % 2 = 0')
  await twins.sameEach('VACUUM space')
  const freeSpace = `SELECT count(*) FILTER (WHERE avail > 0)::int AS blocks, sum(avail)::int AS bytes
    FROM pg_freespace('space')`
  const free = await twins.same(freeSpace)
  await twins.evict()
  expect(await twins.compute.query(freeSpace)).toEqual(free)
  // A clean stop keeps the map, so that what was freed is filled and the table does not grow.
  await twins.restart()
  expect(await twins.compute.query(freeSpace)).toEqual(free)
  const before = Number(await twins.compute.value("SELECT pg_relation_size('space')"))
  await twins.compute.query(
    `INSERT INTO space SELECT g * 2, repeat('r', 390) FROM generate_series(1, 2500) g`,
  )
  const grown = Number(await twins.compute.value("SELECT pg_relation_size('space')")) - before
  expect(grown).toBeLessThanOrEqual(2 * 8192)
  await expectTruth(twins.compute, 'space')
  await twins.compute.query('DELETE FROM space WHERE id > 500')
  await twins.compute.query('VACUUM (TRUNCATE) space')
  await twins.crash()
  const [map] = await twins.compute.query(`SELECT count(*)::int AS n FROM pg_freespace('space') f
    JOIN LATERAL (SELECT pg_relation_size('space') / 8192 AS blocks) s ON f.blkno >= s.blocks`)
  expect(map).toEqual({ n: 0 })
  await twins.compute.query(
    `INSERT INTO space SELECT g, repeat('z', 400) FROM generate_series(10001, 14000) g`,
  )
  await expectTruth(twins.compute, 'space')
})

test('kill -9 at random moments of vacuums and changes', async () => {
  await twins.compute.query(`CREATE TABLE beaten (id int PRIMARY KEY, v int, pad text);
    INSERT INTO beaten SELECT g, 0, repeat('b', 100) FROM generate_series(1, 4000) g`)
  for (let round = 0; round < 5; round++) {
    const { compute } = twins
    const vacuums = [
      'VACUUM beaten',
      'VACUUM (FREEZE) beaten',
      'VACUUM (TRUNCATE, PARALLEL 0) beaten',
    ]
    const workers = [
      (turn: number) => vacuums[turn % vacuums.length],
      (turn: number) => `UPDATE beaten SET v = v + 1 WHERE id % 61 = ${(turn * 17) % 61}`,
      (turn: number) =>
        turn % 2 === 0
          ? 'DELETE FROM beaten WHERE id > 3000'
          : `INSERT INTO beaten SELECT g, 1, 'i' FROM generate_series(3001, 4000) g ON CONFLICT DO NOTHING`,
      () => 'SELECT clear_buffer_cache()',
    ].map(async (statement) => {
      const client = await compute.connect()
      for (let turn = 0; ; turn++) {
        await client.query(statement(turn) as string)
        await sleep(5)
      }
    })
    const ended = Promise.allSettled(workers)
    await sleep(200 + Math.random() * 600)
    await twins.crash()
    await ended
    await expectTruth(twins.compute, 'beaten')
    const kept = 'SELECT count(*)::int FROM beaten WHERE id <= 3000'
    expect(await twins.compute.value(kept), `round ${round}`).toBe(3000)
  }
})
