/**
 * A relation beyond 131072 blocks, where stock Postgres begins a second file: every page of it can be
 * written, read again, and found by the next compute. A hash index becomes as large as the statistics
 * say that its table is, so few rows are enough.
 */
import { expect, test } from 'vitest'
import { Installation } from '../fixtures/installation.ts'
import type { Compute } from '../fixtures/compute.ts'

const SEGMENT_BLOCKS = 131_072
const SETTINGS = { shared_buffers: '16MB', autovacuum: 'off' }
const ROWS = 2000

/** Looks up every row by the index; each is in a bucket, and so on a page, of its own. */
async function found(compute: Compute): Promise<number> {
  const client = await compute.connect()
  try {
    await client.query('SET enable_seqscan = off')
    const lookUp = `SELECT count(*)::int AS n FROM generate_series(1, ${ROWS}) g
      WHERE EXISTS (SELECT FROM small WHERE n = g OFFSET 0)`
    const { rows: plan } = await client.query(`EXPLAIN (COSTS off) ${lookUp}`)
    expect(JSON.stringify(plan)).toContain('small_n')
    return (await client.query(lookUp)).rows[0].n
  } finally {
    await client.end()
  }
}

test('a relation of more than 1 GB', async () => {
  await using zenith = await Installation.create()
  const compute = await zenith.startCompute('main', { settings: SETTINGS })
  await compute.query(`CREATE TABLE small AS SELECT g AS n FROM generate_series(1, 200) g`)
  await compute.query(
    `UPDATE pg_class SET relpages = 1, reltuples = 4.1e7 WHERE oid = 'small'::regclass`,
  )
  await compute.query('CREATE INDEX small_n ON small USING hash (n)')
  const blocks = Number(await compute.value(`SELECT pg_relation_size('small_n') / 8192`))
  expect(blocks).toBeGreaterThan(SEGMENT_BLOCKS)
  await compute.query(`INSERT INTO small SELECT g FROM generate_series(201, ${ROWS}) g`)
  expect(await found(compute)).toBe(ROWS)
  await compute.kill()
  const next = await zenith.startCompute('main', { settings: SETTINGS })
  expect(Number(await next.value(`SELECT pg_relation_size('small_n') / 8192`))).toBe(blocks)
  expect(await found(next)).toBe(ROWS)
})
