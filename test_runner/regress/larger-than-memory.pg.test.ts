/** The same statements on Zenith and on stock Postgres, both with 8 MB of buffers: same answers. */
import type pg from 'pg'
import { expect, test } from 'vitest'
import { BIG_DATA_QUERIES, BIG_DATA_SETTINGS, BIG_DATA_STATEMENTS } from '../fixtures/big-data.ts'
import { FILE_CACHE, Installation } from '../fixtures/installation.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

async function runAll(client: pg.Client): Promise<void> {
  for (const statement of BIG_DATA_STATEMENTS) await client.query(statement)
}

/** Answers with index scans allowed, and again with sequential scans only. */
async function answers(client: pg.Client): Promise<unknown[][]> {
  const found: unknown[][] = []
  for (const indexes of ['on', 'off']) {
    await client.query(`SET enable_indexscan = ${indexes}; SET enable_bitmapscan = ${indexes}`)
    await client.query(`SET enable_indexonlyscan = ${indexes}`)
    for (const text of BIG_DATA_QUERIES) {
      found.push((await client.query({ text, rowMode: 'array' })).rows)
    }
  }
  return found
}

test('data larger than shared_buffers: the same answers as stock Postgres', async () => {
  await using stock = await VanillaPostgres.start({ settings: BIG_DATA_SETTINGS })
  const stockClient = await stock.connect()
  await runAll(stockClient)
  const expected = await answers(stockClient)
  await stockClient.end()

  await using zenith = await Installation.create()
  const settings = Object.fromEntries(
    Object.entries(BIG_DATA_SETTINGS).map(([name, value]) => [name, value.replaceAll("'", '')]),
  )
  const compute = await zenith.startCompute('main', { settings: { ...settings, ...FILE_CACHE } })
  const client = await compute.connect()
  await runAll(client)
  expect((await client.query('SHOW shared_buffers')).rows).toEqual([{ shared_buffers: '8MB' }])
  expect(await answers(client)).toEqual(expected)
  await client.end()

  // Again from a compute that has nothing cached and keeps nothing but its buffers, on a branch.
  await zenith.createBranch('copy')
  const copy = await zenith.startCompute('copy', { settings })
  const copyClient = await copy.connect()
  expect(await answers(copyClient)).toEqual(expected)
  await copyClient.query('CREATE EXTENSION amcheck')
  await copyClient.end()
  await copy.tool('pg_amcheck', ['--heapallindexed', '-d', 'postgres'])
})
