/**
 * Every kind of redo on hot standbys, with so few buffers that most of it is skipped, and with so
 * many that most of it is done: both end with what the primary has, byte for byte in memory.
 */
import { expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { caughtUp, quiet, SMALL } from '../fixtures/replica.ts'
import { PRELUDE, WORKLOAD } from '../oracle/access-method-workload.ts'
import { compareBuffers } from '../oracle/buffer-diff.ts'
import { ByteReport } from '../oracle/byte-report.ts'

const TABLES = `SELECT c.oid::regclass::text AS name FROM pg_class c
  WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relnamespace = 'public'::regnamespace
  ORDER BY 1`
/** Catalogs that name what the tables do not. */
const CATALOG = `SELECT md5(string_agg(c::text, ',' ORDER BY oid)) FROM pg_class c`

async function contents(compute: Compute): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = { pg_class: await compute.value(CATALOG) }
  for (const { name } of await compute.query(TABLES)) {
    found[String(name)] = await compute.value(
      `SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY t::text)), '')
       FROM ${String(name)} t`,
    )
  }
  return found
}

test('every access method', async () => {
  await using zenith = await Installation.create()
  const settings = { ...SMALL, autovacuum: 'off' }
  const primary = await zenith.startCompute('main', { settings })
  await primary.query('CREATE EXTENSION zenith_test_utils')
  const follow = (name: string, buffers: string) =>
    zenith.startCompute('main', {
      name,
      mode: 'replica',
      settings: { shared_buffers: buffers, max_standby_streaming_delay: '-1' },
    })
  const roomy = await follow('roomy', '64MB')
  for (const statement of PRELUDE) await primary.query(statement)
  const tight = await follow('tight', '2MB')
  const replicas = [roomy, tight]

  let running = true
  const looks = replicas.map(async (replica) => {
    // Pages get into memory, and out of it, while redo goes on. Tables may vanish under the look.
    while (running) await contents(replica).catch(() => undefined)
  })
  for (const statement of WORKLOAD) await primary.query(statement)
  running = false
  await Promise.all(looks)

  await quiet(tight, primary)
  await caughtUp(roomy, primary)
  const expected = await contents(primary)
  expect(Object.keys(expected).length).toBeGreaterThan(6)
  for (const replica of replicas) {
    expect(await contents(replica)).toEqual(expected)
    const report = new ByteReport(0)
    const client = await replica.connect()
    await compareBuffers(client, report)
    await client.end()
    expect(report.differences, String(report.toString())).toEqual([])
    expect(report.pages).toBeGreaterThan(50)
  }
})
