/**
 * Index builds on tables larger than the buffers, of every access method, also concurrently with
 * writers and cut off by a crash. Each index is judged by what queries find with and without it, by
 * amcheck where it can, after eviction, on a branch and after a restart.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'

const ROWS = 25_000

const SETTINGS: Record<string, string> = {
  shared_buffers: '1MB',
  maintenance_work_mem: '1MB',
  work_mem: '1MB',
  autovacuum: 'off',
  max_parallel_maintenance_workers: '0',
  gin_pending_list_limit: '64kB',
}

interface Build {
  readonly using: string
  /** Operator, to be sure that the index can answer it. */
  readonly condition: string
}

/** `${name}` becomes the name of the index. */
const BUILDS: Record<string, Build> = {
  btree: { using: 'btree (note, id)', condition: "note > 'ff'" },
  btree_unique: { using: 'btree (id) INCLUDE (grp)', condition: 'id BETWEEN 20000 AND 21000' },
  btree_dedup: { using: 'btree (grp)', condition: 'grp IN (5, 77)' },
  hash: { using: 'hash (note)', condition: "note IN (md5('77'), md5('24999'), md5('0'))" },
  gist: {
    using: 'gist (place) WITH (buffering = off)',
    condition: "place <@ box '((100,10),(300,60))'",
  },
  gist_buffered: {
    using: 'gist (area) WITH (buffering = on, fillfactor = 50)',
    condition: "area && box '((100,10),(150,60))'",
  },
  gist_sorted: { using: 'gist (place)', condition: "place <@ box '((700,10),(730,60))'" },
  gist_text: { using: 'gist (doc)', condition: "doc @@ 'w17 & w3'" },
  spgist_quad: { using: 'spgist (place)', condition: "place <@ box '((400,50),(500,90))'" },
  spgist_kd: {
    using: 'spgist (place kd_point_ops)',
    condition: "place <@ box '((10,10),(60,20))'",
  },
  spgist_text: { using: 'spgist (note)', condition: "note ^@ 'abc'" },
  gin: { using: 'gin (tags) WITH (fastupdate = off)', condition: 'tags @> ARRAY[3, 45]' },
  gin_pending: { using: 'gin (doc)', condition: "doc @@ 'w42 | w96'" },
  brin: { using: 'brin (id) WITH (pages_per_range = 4)', condition: 'id BETWEEN 500 AND 3000' },
  brin_bloom: { using: 'brin (note text_bloom_ops)', condition: "note = md5('1234')" },
  bloom: { using: 'bloom (grp, third)', condition: 'grp = 44 AND third = 2' },
}

const SELECT = `SELECT count(*)::int AS n, sum(id)::bigint AS s,
  md5(string_agg(id::text, ',' ORDER BY id)) AS ids FROM item WHERE`

let zenith: Installation
let compute: Compute

beforeAll(async () => {
  zenith = await Installation.create()
  compute = await zenith.startCompute('main', { settings: SETTINGS })
  for (const name of ['zenith', 'zenith_test_utils', 'amcheck', 'bloom']) {
    await compute.query(`CREATE EXTENSION ${name}`)
  }
  await compute.query(`CREATE TABLE item (id int, grp int, third int, note text, place point,
    area box, tags int[], doc tsvector, version int DEFAULT 0)`)
  await compute.query(`INSERT INTO item ${rows(1, ROWS)}`)
  await compute.query('DELETE FROM item WHERE id % 50 = 7')
  await compute.query('UPDATE item SET version = 1 WHERE id % 20 = 0')
})

afterAll(async () => {
  await zenith?.[Symbol.asyncDispose]()
})

function rows(first: number, last: number): string {
  return `SELECT g, g % 200, g % 3, md5(g::text), point(g % 991, g % 97),
    box(point(g % 991, g % 97), point(g % 991 + g % 7, g % 97 + 3)), ARRAY[g % 50, g % 77, g % 5],
    to_tsvector('simple', format('w%s w%s', g % 101, g % 7)) FROM generate_series(${first}, ${last}) g`
}

/** What the index finds equals what a sequential scan finds, and the plan really uses the index. */
async function expectAgreement(client: pg.Client, name: string): Promise<void> {
  const { condition } = BUILDS[name] as Build
  const query = `${SELECT} ${condition}`
  await client.query('SET enable_indexscan = off; SET enable_bitmapscan = off')
  const { rows: expected } = await client.query(query)
  await client.query('RESET ALL; SET enable_seqscan = off')
  const { rows: found } = await client.query(query)
  expect(found, name).toEqual(expected)
  expect(found[0].n, `${name}: ${condition}`).toBeGreaterThan(0)
  const { rows: plan } = await client.query(`EXPLAIN (COSTS off) ${query}`)
  expect(JSON.stringify(plan)).toContain(`item_${name}`)
  if (name.startsWith('btree')) {
    await client.query(`SELECT bt_index_parent_check('item_${name}', true, true)`)
  }
  await client.query('RESET ALL')
}

async function withClient<T>(on: Compute, run: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await on.connect()
  try {
    return await run(client)
  } finally {
    await client.end()
  }
}

function create(name: string, how = ''): string {
  const unique = name === 'btree_unique' ? 'UNIQUE' : ''
  return `CREATE ${unique} INDEX ${how} item_${name} ON item USING ${BUILDS[name]?.using}`
}

/** Drops all but one, so that the planner has no choice. */
function only(name: string): string {
  return `DO $$ DECLARE i text; BEGIN FOR i IN SELECT indexrelid::regclass FROM pg_index
    WHERE indrelid = 'item'::regclass AND indexrelid <> 'item_${name}'::regclass
    LOOP EXECUTE 'DROP INDEX ' || i; END LOOP; END $$`
}

test.each(Object.keys(BUILDS))('%s', (name) =>
  withClient(compute, async (client) => {
    await client.query(create(name))
    await client.query(only(name))
    await client.query('SELECT clear_buffer_cache()')
    await expectAgreement(client, name)
    // The index grows, splits and is vacuumed with its pages coming and going.
    await client.query(`INSERT INTO item ${rows(ROWS + 1, ROWS + 1500)}`)
    await client.query('SELECT clear_buffer_cache()')
    await client.query(
      'UPDATE item SET note = note || version, place = point(3, 3) WHERE id % 97 = 1',
    )
    await client.query(`DELETE FROM item WHERE id > ${ROWS} OR id % 97 = 2`)
    await client.query('VACUUM item')
    await client.query('SELECT clear_buffer_cache()')
    await expectAgreement(client, name)
  }),
)

test('builds and scans by parallel workers', () =>
  withClient(compute, async (client) => {
    await client.query(`SET max_parallel_maintenance_workers = 2; SET min_parallel_table_scan_size = 0;
      SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET debug_parallel_query = on;
      SET maintenance_work_mem = '64MB'`)
    await client.query('DROP INDEX IF EXISTS item_bloom')
    for (const name of ['btree', 'btree_dedup', 'brin', 'brin_bloom']) {
      await client.query(create(name))
      await client.query('SELECT clear_buffer_cache()')
    }
    const { rows: parallel } = await client.query(
      'SELECT count(*)::int AS n, sum(id)::int AS s FROM item WHERE grp IN (5, 77)',
    )
    await client.query('SET max_parallel_workers_per_gather = 0')
    const { rows: serial } = await client.query(
      'SELECT count(*)::int AS n, sum(id)::int AS s FROM item WHERE grp IN (5, 77)',
    )
    expect(parallel).toEqual(serial)
    for (const name of ['btree', 'btree_dedup', 'brin', 'brin_bloom']) {
      await client.query(`BEGIN; ${only(name)}`)
      await expectAgreement(client, name)
      await client.query('ROLLBACK')
    }
  }))

describe('with writers at work', () => {
  let running = true
  let written = 0
  let writers: Promise<void>[]

  beforeAll(() => {
    writers = [1, 2].map((writer) =>
      withClient(compute, async (client) => {
        for (let turn = 0; running; turn++) {
          const id = 100_000 + writer * 50_000 + turn
          await client.query(`INSERT INTO item ${rows(id, id)}`)
          await client.query(
            `UPDATE item SET grp = grp + 200, note = note || 'u' WHERE id = ${1 + ((turn * 37) % 9000)}`,
          )
          if (turn % 3 === 0) await client.query(`DELETE FROM item WHERE id = ${id - 2}`)
          if (turn % 40 === 0) await client.query('SELECT clear_buffer_cache()')
          written++
        }
      }),
    )
  })

  afterAll(async () => {
    running = false
    await Promise.allSettled(writers)
  })

  test('CREATE INDEX CONCURRENTLY and REINDEX CONCURRENTLY', () =>
    withClient(compute, async (client) => {
      const names = ['btree', 'btree_unique', 'hash', 'gist', 'spgist_text', 'gin_pending', 'brin']
      await client.query(only('none').replace("<> 'item_none'::regclass", 'IS NOT NULL'))
      for (const name of names) await client.query(create(name, 'CONCURRENTLY'))
      await client.query('REINDEX TABLE CONCURRENTLY item')
      running = false
      await Promise.all(writers)
      expect(written).toBeGreaterThan(20)
      const { rows: invalid } = await client.query(
        'SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid OR NOT indisready',
      )
      expect(invalid).toEqual([])
      await client.query('SELECT clear_buffer_cache()')
      for (const name of names) {
        await client.query(`BEGIN; ${only(name)}`)
        await expectAgreement(client, name)
        await client.query('ROLLBACK')
      }
    }))
})

test('a compute that dies in the middle of a build', async () => {
  const names = ['gin_pending', 'spgist_quad', 'gist_buffered', 'btree_dedup']
  for (const [turn, name] of names.entries()) {
    const client = await compute.connect()
    const concurrently = turn % 2 === 0 ? '' : 'CONCURRENTLY'
    const building = client.query(`DROP INDEX IF EXISTS item_${name}`).then(async () => {
      await client.query(create(name, concurrently))
    })
    const ended = building.catch(() => {})
    await sleep(30 + Math.random() * 250)
    await compute.kill()
    await ended
    compute = await zenith.startCompute('main', { settings: SETTINGS })
    await compute.query(`DROP INDEX IF EXISTS item_${name}`)
    await compute.query(create(name))
    await withClient(compute, async (again) => {
      await again.query(`BEGIN; ${only(name)}`)
      await expectAgreement(again, name)
      await again.query('ROLLBACK')
    })
  }
})

test('all of them after a restart, and on a branch', async () => {
  await withClient(compute, async (client) => {
    await client.query(only('none').replace("<> 'item_none'::regclass", 'IS NOT NULL'))
    for (const name of Object.keys(BUILDS)) await client.query(create(name))
  })
  await zenith.createBranch('copy')
  expect(await compute.stop()).toBe(0)
  compute = await zenith.startCompute('main', { settings: SETTINGS })
  const copy = await zenith.startCompute('copy', { settings: SETTINGS })
  for (const on of [compute, copy]) {
    await withClient(on, async (client) => {
      for (const name of Object.keys(BUILDS)) {
        await client.query(`BEGIN; ${only(name)}`)
        await expectAgreement(client, name)
        await client.query('ROLLBACK')
      }
    })
  }
})
