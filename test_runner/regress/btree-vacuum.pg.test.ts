/**
 * VACUUM of a B-tree while pages split. A split moves entries to the right; if the new page is one
 * that was free, it may lie where VACUUM has been already. VACUUM sees that by its cycle id on the
 * page, which is in no WAL. If it is lost with the page, entries of removed rows stay in the index,
 * and lead to other rows when their places are used again.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'

const ROWS = 60_000
const POLL_MS = 5
const TIMEOUT_MS = 60_000

let zenith: Installation

beforeAll(async () => {
  zenith = await Installation.create()
})

afterAll(async () => {
  await zenith?.[Symbol.asyncDispose]()
})

/** The first quarter of the index becomes free pages; in the rest every second row is dead. */
async function prepare(compute: Compute): Promise<void> {
  await compute.query('CREATE EXTENSION zenith; CREATE EXTENSION zenith_test_utils')
  await compute.query('CREATE EXTENSION amcheck')
  await compute.query(`CREATE TABLE item (k int, pad text);
    INSERT INTO item SELECT g * 10, 'old' FROM generate_series(1, ${ROWS}) g;
    CREATE INDEX item_k ON item (k) WITH (deduplicate_items = off)`)
  await compute.query(`DELETE FROM item WHERE k <= ${(ROWS * 10) / 4}`)
  // Pages become free when nobody can still be on the way to them, one VACUUM later.
  for (let turn = 0; turn < 3; turn++) {
    await compute.query('SELECT pg_current_xact_id()')
    await compute.query('VACUUM (TRUNCATE off) item')
  }
  await compute.query('DELETE FROM item WHERE k % 20 = 0')
}

/** Splits the pages in front of a running VACUUM, and throws everything out of memory. */
async function splitAhead(compute: Compute): Promise<void> {
  const client = await compute.connect()
  const deadline = Date.now() + TIMEOUT_MS
  while (Date.now() < deadline) {
    const { rows } = await client.query(
      "SELECT 1 FROM pg_stat_progress_vacuum WHERE phase = 'vacuuming indexes'",
    )
    if (rows.length > 0) break
    await sleep(POLL_MS)
  }
  // It has to pass the free pages first, which are the first quarter.
  await sleep(400)
  await client.query(`INSERT INTO item SELECT ${ROWS * 10} * 4 / 5 + g * 9 + 1, 'new'
    FROM generate_series(1, ${ROWS / 5}) g`)
  for (let turn = 0; turn < 5; turn++) await client.query('SELECT clear_buffer_cache()')
  const { rows } = await client.query(
    "SELECT 1 FROM pg_stat_progress_vacuum WHERE phase = 'vacuuming indexes'",
  )
  expect(rows, 'VACUUM was done before the pages were split').toHaveLength(1)
  await client.end()
}

/** Entries of the index that lead to a row of another key. */
async function wrongEntries(compute: Compute): Promise<number> {
  // Every place that VACUUM freed is used again.
  await compute.query(`INSERT INTO item SELECT -g, 'used again' FROM generate_series(1, ${ROWS}) g`)
  const client = await compute.connect()
  await client.query(
    'SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off',
  )
  const { rows } = await client.query('SELECT count(*)::int AS n FROM item WHERE k > -2000000000')
  await client.query(
    'RESET ALL; SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off',
  )
  const { rows: all } = await client.query('SELECT count(*)::int AS n FROM item')
  await client.end()
  return (rows[0].n as number) - (all[0].n as number)
}

async function vacuumWhileSplitting(branch: string, logging: string): Promise<number> {
  await zenith.createBranch(branch)
  const compute = await zenith.startCompute(branch, {
    settings: {
      shared_buffers: '1MB',
      autovacuum: 'off',
      'zenith.transient_state_logging': logging,
    },
  })
  await prepare(compute)
  const vacuum = await compute.connect()
  await vacuum.query('SET vacuum_cost_delay = 4; SET vacuum_cost_limit = 1')
  const done = vacuum.query('VACUUM (INDEX_CLEANUP on, TRUNCATE off, PARALLEL 0) item')
  await Promise.all([done, splitAhead(compute)])
  await vacuum.end()
  const wrong = await wrongEntries(compute)
  if (logging !== 'off') {
    await compute.query(`SELECT bt_index_parent_check('item_k', true, true)`)
  }
  await compute.kill()
  return wrong
}

test('no entry of a removed row stays behind', async () => {
  expect(await vacuumWhileSplitting('kept', 'fragments')).toBe(0)
})

test('the test notices when cycle ids are lost', async () => {
  expect(await vacuumWhileSplitting('lost', 'off')).toBeGreaterThan(0)
})
