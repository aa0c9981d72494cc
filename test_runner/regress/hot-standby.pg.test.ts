/** Hot standbys: they follow their branch, show it rightly from the first query on, and survive. */
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { caughtUp, quiet, SMALL } from '../fixtures/replica.ts'
import { compareBuffers } from '../oracle/buffer-diff.ts'
import { ByteReport } from '../oracle/byte-report.ts'

describe('hot standbys', () => {
  let zenith: Installation
  let primary: Compute

  beforeAll(async () => {
    zenith = await Installation.create()
    primary = await zenith.startCompute('main', { settings: SMALL })
  })
  afterAll(() => zenith[Symbol.asyncDispose]())

  const follow = (name: string, settings: Record<string, string> = SMALL) =>
    zenith.startCompute('main', { name, mode: 'replica', settings })

  test('follows changes of every kind', async () => {
    const replica = await follow('kinds')
    const STEPS = [
      `CREATE TABLE k (id int PRIMARY KEY, body text, tags int[], place point)`,
      `INSERT INTO k SELECT g, md5(g::text), ARRAY[g % 7, g % 11], point(g, g % 97) FROM generate_series(1, 20000) g`,
      `CREATE INDEX ON k USING gin (tags)`,
      `CREATE INDEX ON k USING gist (place)`,
      `CREATE INDEX ON k USING spgist (place)`,
      `CREATE INDEX ON k USING hash (body)`,
      `CREATE INDEX ON k USING brin (id)`,
      `UPDATE k SET body = body || 'x', tags = tags || 99 WHERE id % 3 = 0`,
      `DELETE FROM k WHERE id % 5 = 0`,
      `VACUUM k`,
      `INSERT INTO k SELECT g, 'late', ARRAY[1], point(g, g) FROM generate_series(20001, 25000) g`,
      `DELETE FROM k WHERE id > 100 AND id < 24000`,
      `VACUUM k`,
      `INSERT INTO k SELECT g, 'again', ARRAY[2], point(g, g) FROM generate_series(30001, 40000) g`,
      `ALTER TABLE k ADD COLUMN more int DEFAULT 5`,
      `VACUUM FULL k`,
      `REINDEX TABLE k`,
      `TRUNCATE k`,
      `INSERT INTO k SELECT g, 'last', ARRAY[3], point(g, g) FROM generate_series(1, 4000) g`,
      `VACUUM ANALYZE k`,
    ]
    const SUM = `SELECT count(*) || ' ' || coalesce(md5(string_agg(k::text, ',' ORDER BY id)), '') FROM k`
    const SCANS = [
      `SELECT count(*)::int FROM k WHERE tags @> ARRAY[3]`,
      `SELECT count(*)::int FROM k WHERE place <@ box '((0,0),(500,500))'`,
      `SELECT count(*)::int FROM k WHERE body = md5('77')`,
      `SELECT count(*)::int FROM k WHERE id BETWEEN 50 AND 3000`,
    ]
    for (const [index, step] of STEPS.entries()) {
      await primary.query(step)
      await caughtUp(replica, primary)
      expect(await replica.value(SUM), step).toBe(await primary.value(SUM))
      if (index < 6) continue
      const one = await replica.connect()
      await one.query('SET enable_seqscan = off')
      for (const scan of SCANS) {
        const { rows } = await one.query(scan)
        expect(Object.values(rows[0]), `${scan} after ${step}`).toEqual([await primary.value(scan)])
      }
      await one.end()
    }
    await primary.query('DROP TABLE k')
    await caughtUp(replica, primary)
    await expect(replica.query(SUM)).rejects.toThrow(/does not exist/)
    await primary.query('CREATE DATABASE made')
    await primary.query('CREATE TABLE inside AS SELECT 1 AS n', 'made')
    await caughtUp(replica, primary)
    expect(await replica.value('SELECT n FROM inside', 'made')).toBe(1)
    await primary.query('DROP DATABASE made')
    await caughtUp(replica, primary)
    await expect(replica.connect('made')).rejects.toThrow(/does not exist/)
    await replica.stop()
  })

  test('shows one moment of the bank at a time, under load, and the same pages at the end', async () => {
    const replica = await follow('bank')
    await primary.pgbench(['-i', '-q', '-s', '3'])
    await primary.query('CREATE EXTENSION IF NOT EXISTS zenith')
    await primary.query('CREATE EXTENSION IF NOT EXISTS zenith_test_utils')
    await caughtUp(replica, primary)
    let running = true
    const load = primary.pgbench(['-n', '-c', '4', '-T', '10']).finally(() => {
      running = false
    })
    const vacuum = (async () => {
      while (running) {
        await primary.query('VACUUM pgbench_accounts')
        await primary.query('VACUUM pgbench_tellers')
        await sleep(500)
      }
    })()
    let looks = 0
    while (running || looks < 4) {
      const [sums] = await replica.query(`SELECT
        (SELECT sum(abalance)::int FROM pgbench_accounts) AS accounts,
        (SELECT sum(tbalance)::int FROM pgbench_tellers) AS tellers,
        (SELECT sum(bbalance)::int FROM pgbench_branches) AS branches,
        (SELECT coalesce(sum(delta), 0)::int FROM pgbench_history) AS history`)
      expect(new Set(Object.values(sums ?? {})).size, JSON.stringify(sums)).toBe(1)
      looks += 1
    }
    await load
    await vacuum
    await caughtUp(replica, primary)
    const all = `SELECT md5(string_agg(a::text, ',' ORDER BY aid)) FROM pgbench_accounts a`
    expect(await replica.value(all)).toBe(await primary.value(all))
    const skipped = "SELECT value::int FROM zenith.getpage_stats WHERE name = 'redo_skipped'"
    expect(Number(await replica.value(skipped))).toBeGreaterThan(1000)
    // Byte for byte: what the replica has in memory after redo is what the pageserver makes.
    await quiet(replica, primary)
    const report = new ByteReport(0)
    const client = await replica.connect()
    await compareBuffers(client, report)
    await client.end()
    expect(report.differences).toEqual([])
    expect(report.pages).toBeGreaterThan(100)
    await replica.stop()
  })

  test('starts with transactions of every kind under way', async () => {
    await primary.query('CREATE TABLE v (what text)')
    const clients = await Promise.all(Array.from({ length: 4 }, () => primary.connect()))
    const [open, many, overflowed, prepared] = clients
    if (!open || !many || !overflowed || !prepared) throw new Error('four clients were asked for')
    await open.query(`BEGIN; INSERT INTO v VALUES ('open')`)
    await subtransactions(many, 60, 'many')
    await subtransactions(overflowed, 200, 'overflowed')
    await prepared.query('BEGIN')
    for (let n = 0; n < 70; n++) {
      await prepared.query(`SAVEPOINT s; INSERT INTO v VALUES ('prepared'); RELEASE s`)
    }
    await prepared.query(`PREPARE TRANSACTION 'hot'`)
    await primary.query(`INSERT INTO v VALUES ('committed')`)
    await primary.query('CHECKPOINT')
    // A transaction of more than 64 subtransactions hides its members from a stock standby.
    const replica = await follow('visible')
    const seen = async () => {
      const rows = await replica.query(
        'SELECT what, count(*)::int AS n FROM v GROUP BY 1 ORDER BY 1',
      )
      return Object.fromEntries(rows.map(({ what, n }) => [what, n]))
    }
    expect(await seen()).toEqual({ committed: 1 })
    await open.query('COMMIT')
    await caughtUp(replica, primary)
    expect(await seen()).toEqual({ committed: 1, open: 1 })
    await overflowed.query('COMMIT')
    await many.query('ROLLBACK')
    await caughtUp(replica, primary)
    expect(await seen()).toEqual({ committed: 1, open: 1, overflowed: 200 })
    await prepared.query(`COMMIT PREPARED 'hot'`)
    await caughtUp(replica, primary)
    expect(await seen()).toEqual({ committed: 1, open: 1, overflowed: 200, prepared: 70 })
    for (const client of clients) await client.end()
    await replica.stop()
  })

  test('starts while the primary is down, and goes on with the next one', async () => {
    const branch = await zenith.createBranch('down')
    const before = await zenith.startCompute('down', {
      name: 'early',
      mode: 'replica',
      settings: SMALL,
    })
    // There has been no primary on this branch yet.
    await expect.poll(async () => (await before.info()).lsn).not.toBeNull()
    expect(await before.value("SELECT count(*)::int FROM pg_class WHERE relname = 'd'")).toBe(0)
    const first = await zenith.startCompute('down', { settings: SMALL })
    await first.query('CREATE TABLE d AS SELECT generate_series(1, 5000) AS n')
    await caughtUp(before, first)
    expect(await before.value('SELECT count(*)::int FROM d')).toBe(5000)
    // It dies with transactions under way, some of them prepared.
    const open = await first.connect()
    await subtransactions(open, 100, 'x', 'INSERT INTO d VALUES (0)')
    await first.query(`BEGIN; INSERT INTO d VALUES (-1); PREPARE TRANSACTION 'd'`)
    await first.query('CHECKPOINT')
    await first.query('INSERT INTO d VALUES (7)')
    // Safekeepers learn from the primary how far the quorum is, a moment after it has told its client.
    await caughtUp(before, first)
    await first.kill()
    await open.end().catch(() => undefined)
    const during = await zenith.startCompute('down', {
      name: 'late',
      mode: 'replica',
      settings: SMALL,
    })
    const COUNTS = `SELECT count(*)::int AS n, count(*) FILTER (WHERE n <= 0)::int AS odd FROM d`
    for (const replica of [before, during]) {
      expect(await replica.query(COUNTS)).toEqual([{ n: 5001, odd: 0 }])
    }
    const second = await zenith.startCompute('down', { settings: SMALL })
    await second.query(`COMMIT PREPARED 'd'`)
    for (const replica of [before, during]) {
      await caughtUp(replica, second)
      expect(await replica.query(COUNTS)).toEqual([{ n: 5002, odd: 1 }])
    }
    await second.stop()
    const after = await zenith.startCompute('down', {
      name: 'after',
      mode: 'replica',
      settings: SMALL,
    })
    expect(await after.query(COUNTS)).toEqual([{ n: 5002, odd: 1 }])
    expect(branch.parent).toBe('main')
    for (const compute of [before, during, after]) await compute.stop()
  })

  test('refuses what a standby refuses, and says where promotion is', async () => {
    await primary.query('CREATE TABLE IF NOT EXISTS w (n int); CREATE UNLOGGED TABLE u (n int)')
    await primary.query('CREATE SEQUENCE s')
    const replica = await follow('refusing')
    const refused: [string, RegExp][] = [
      ['INSERT INTO w VALUES (1)', /read-only transaction/],
      [`SELECT nextval('s')`, /read-only transaction/],
      ['CREATE TEMP TABLE x (n int)', /read-only transaction/],
      ['SELECT * FROM u', /temporary or unlogged relations during recovery/],
      ['VACUUM w', /during recovery/],
      ['SELECT pg_promote()', /cannot be promoted from within/],
    ]
    for (const [sql, message] of refused) await expect(replica.query(sql)).rejects.toThrow(message)
    expect(await replica.value('SELECT last_value::int FROM s')).toBe(1)
    const status = await replica.status()
    expect(status).toMatchObject({ mode: 'replica', term: null })
    expect(status.lagBytes).toBeGreaterThanOrEqual(0)
    await replica.stop()
  })
})

/** Opens a transaction with so many subtransactions that have written. */
async function subtransactions(
  client: pg.Client,
  count: number,
  what: string,
  write = `INSERT INTO v VALUES ('${what}')`,
): Promise<void> {
  await client.query('BEGIN')
  for (let n = 0; n < count; n++) await client.query(`SAVEPOINT s; ${write}; RELEASE s`)
}
