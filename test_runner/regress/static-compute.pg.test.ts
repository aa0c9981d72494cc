/** Read-only computes at a fixed LSN: what they show, what they refuse, what they survive. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'

/** Few buffers, so that pages are really asked of the pageserver, again and again. */
const SMALL = { shared_buffers: '1MB' }

describe('static computes', () => {
  let zenith: Installation
  let primary: Compute

  beforeAll(async () => {
    zenith = await Installation.create()
    primary = await zenith.startCompute('main')
    await primary.query('CREATE EXTENSION zenith')
  })
  afterAll(() => zenith[Symbol.asyncDispose]())

  /** The end of the WAL; on return it has been committed by the safekeepers. */
  const lsnNow = async (compute = primary) => {
    const lsn = String(await compute.value('SELECT pg_current_wal_insert_lsn()'))
    await compute.query(`SELECT pg_logical_emit_message(true, 'test', '')`)
    return lsn
  }
  const view = (name: string, lsn: string, settings: Record<string, string> = SMALL) =>
    zenith.startCompute('main', { name, mode: 'static', lsn, settings })

  test('five states of a table, each beside the primary and the others', async () => {
    await primary.query('CREATE TABLE t (id int PRIMARY KEY, body text)')
    const states: { lsn: string; sum: unknown }[] = []
    const SUM =
      "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' ORDER BY id)), '') FROM t"
    const steps = [
      `INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 20000) g`,
      `UPDATE t SET body = body || 'x' WHERE id % 3 = 0`,
      `DELETE FROM t WHERE id % 5 = 0`,
      `TRUNCATE t`,
      `INSERT INTO t SELECT g, 'again' FROM generate_series(1, 300) g`,
    ]
    for (const step of steps) {
      await primary.query(step)
      states.push({ lsn: await lsnNow(), sum: await primary.value(SUM) })
      await primary.query('VACUUM t')
    }
    const views = await Promise.all(states.map(({ lsn }, index) => view(`t${index}`, lsn)))
    for (const [index, compute] of views.entries()) {
      expect(await compute.value(SUM)).toBe(states[index]?.sum)
    }
    await primary.query('DROP TABLE t')
    for (const [index, compute] of views.entries()) {
      expect(await compute.value(SUM)).toBe(states[index]?.sum)
      expect(await compute.value('SELECT pg_is_in_recovery()')).toBe(true)
      const { commitLsn } = await compute.status()
      expect((await compute.info()).lsn).toBe(commitLsn)
      await compute.stop()
    }
  })

  test('shows what was committed, and nothing that was in progress', async () => {
    await primary.query('CREATE TABLE v (what text)')
    await primary.query(`INSERT INTO v VALUES ('committed')`)
    const open = await primary.connect()
    await open.query('BEGIN')
    await open.query(`INSERT INTO v VALUES ('open')`)
    // More subtransactions than a backend's entry in the proc array has room for.
    const many = await primary.connect()
    await many.query('BEGIN')
    for (let n = 0; n < 80; n++) {
      await many.query(`SAVEPOINT s; INSERT INTO v VALUES ('sub ${n}'); RELEASE s`)
    }
    const prepared = await primary.connect()
    await prepared.query(`BEGIN; INSERT INTO v VALUES ('prepared'); PREPARE TRANSACTION 'p'`)
    const aborted = await primary.connect()
    await aborted.query(`BEGIN; INSERT INTO v VALUES ('aborted'); ROLLBACK`)
    await primary.query(`BEGIN; SAVEPOINT a; INSERT INTO v VALUES ('kept'); RELEASE a;
      SAVEPOINT b; INSERT INTO v VALUES ('rolled back'); ROLLBACK TO b; COMMIT`)
    const lsn = await lsnNow()
    await open.query('COMMIT')
    await many.query('COMMIT')
    await prepared.query(`COMMIT PREPARED 'p'`)
    const compute = await view('visible', lsn)
    const rows = await compute.query('SELECT what FROM v ORDER BY what')
    expect(rows).toEqual([{ what: 'committed' }, { what: 'kept' }])
    expect(await primary.value('SELECT count(*)::int FROM v')).toBe(84)
    for (const client of [open, many, prepared, aborted]) await client.end()
    await compute.stop()
  })

  test('an LSN amid a burst of commits shows exactly those below it', async () => {
    await primary.query('CREATE TABLE burst (n int, at pg_lsn)')
    const client = await primary.connect()
    const places: string[] = []
    for (let n = 1; n <= 60; n++) {
      await client.query(`INSERT INTO burst VALUES (${n}, NULL)`)
      const { rows } = await client.query('SELECT pg_current_wal_insert_lsn() AS lsn')
      places.push(String(rows[0].lsn))
    }
    await client.end()
    for (const n of [1, 17, 42]) {
      const compute = await view(`burst${n}`, places[n - 1] as string)
      expect(await compute.value('SELECT array_agg(n ORDER BY n) FROM burst')).toEqual(
        Array.from({ length: n }, (_, index) => index + 1),
      )
      await compute.stop()
    }
  })

  test('a moment shows exactly the commits up to it', async () => {
    await primary.query('CREATE TABLE moments (n int)')
    const client = await primary.connect()
    const times: string[] = []
    for (let n = 1; n <= 40; n++) {
      await client.query(`INSERT INTO moments VALUES (${n})`)
      const { rows } = await client.query('SELECT clock_timestamp()::text AS now')
      times.push(rows[0].now)
    }
    await client.end()
    for (const n of [1, 23, 40]) {
      const at = times[n - 1] as string
      const compute = await zenith.startCompute('main', { name: `at${n}`, at, settings: SMALL })
      expect(await compute.value('SELECT array_agg(n ORDER BY n) FROM moments')).toEqual(
        Array.from({ length: n }, (_, index) => index + 1),
      )
      await compute.stop()
    }
    await zenith.createBranch('fresh')
    const refused: [string, Record<string, string>, RegExp][] = [
      ['main', { at: '2999-01-01T00:00:00Z' }, /is still to come/],
      ['main', { at: '2001-01-01T00:00:00Z' }, /began after/],
      ['fresh', { at: times[0] as string }, /Branch "fresh" began after/],
      ['main', { at: 'yesterday' }, /is not a moment/],
      ['main', { at: times[0] as string, lsn: '0/14E61A8' }, /Both/],
    ]
    for (const [branch, options, message] of refused) {
      await expect(zenith.startCompute(branch, { name: 'no', ...options })).rejects.toThrow(message)
    }
  })

  test('refuses what would change anything, each with its reason', async () => {
    await primary.query('CREATE TABLE IF NOT EXISTS w (n int); CREATE UNLOGGED TABLE u (n int)')
    await primary.query('INSERT INTO u VALUES (1)')
    const compute = await view('refusing', await lsnNow())
    const refused: [string, RegExp][] = [
      ['INSERT INTO w VALUES (1)', /read-only transaction/],
      ['CREATE TABLE other (n int)', /read-only transaction/],
      ['SELECT nextval(pg_get_serial_sequence(null, null)), pg_current_wal_lsn()', /recovery/],
      ['VACUUM w', /during recovery/],
      ['SELECT * FROM u', /temporary or unlogged relations during recovery/],
      ['CREATE TEMP TABLE x (n int)', /read-only transaction/],
      ['SELECT pg_promote()', /cannot be promoted from within/],
    ]
    for (const [sql, message] of refused) await expect(compute.query(sql)).rejects.toThrow(message)
    expect(await compute.value('SELECT count(*)::int FROM w')).toBe(0)
    await compute.stop()
  })

  test('survives a restart of pageserver and safekeeper, and is the same after its own', async () => {
    await primary.query(
      'CREATE TABLE r AS SELECT g AS n, repeat(md5(g::text), 8) AS body FROM generate_series(1, 5000) g',
    )
    const SUM = 'SELECT sum(n)::int FROM r'
    const compute = await view('again', await lsnNow())
    expect(await compute.value(SUM)).toBe(12502500)
    await primary.query('UPDATE r SET n = 0')
    await zenith.pageserver.stop('SIGKILL')
    await zenith.safekeepers[0]?.stop('SIGKILL')
    const answer = compute.value(SUM)
    await zenith.start()
    expect(await answer).toBe(12502500)
    await compute.kill()
    const next = await zenith.startCompute('main', { name: 'again', settings: SMALL })
    expect(await next.value(SUM)).toBe(12502500)
    expect(await next.value('SELECT count(*)::int FROM r WHERE n = 0')).toBe(0)
    await next.stop()
  })

  test('of another branch, and below its start', async () => {
    await primary.query('CREATE TABLE b AS SELECT 1 AS n')
    const before = await lsnNow()
    const branch = await zenith.createBranch('side')
    const side = await zenith.startCompute('side')
    await side.query('INSERT INTO b VALUES (2)')
    const lsn = await lsnNow(side)
    await side.query('INSERT INTO b VALUES (3)')
    const at = await zenith.startCompute('side', { name: 'side-view', lsn, settings: SMALL })
    expect(await at.value('SELECT array_agg(n ORDER BY n) FROM b')).toEqual([1, 2])
    const start = await zenith.startCompute('side', {
      name: 'side-start',
      lsn: String(branch.branchLsn),
      settings: SMALL,
    })
    expect(await start.value('SELECT array_agg(n ORDER BY n) FROM b')).toEqual([1])
    expect(before <= String(branch.branchLsn)).toBe(true)
    await expect(
      zenith.startCompute('side', { name: 'too-early', lsn: '0/1000028' }),
    ).rejects.toThrow(/it reaches from/)
    await expect(zenith.startCompute('side', { name: 'too-late', lsn: 'F/0' })).rejects.toThrow(
      /it reaches from/,
    )
    for (const compute of [side, at, start]) await compute.stop()
  })

  test('index-only scans, and a second primary beside it', async () => {
    await primary.query('CREATE TABLE io (n int); CREATE INDEX ON io (n)')
    await primary.query('INSERT INTO io SELECT generate_series(1, 10000)')
    await primary.query('VACUUM io')
    const lsn = await lsnNow()
    await primary.query('DELETE FROM io WHERE n > 10')
    await primary.query('VACUUM io')
    const compute = await view('io', lsn)
    expect(await compute.value('SELECT count(*)::int FROM io WHERE n > 0')).toBe(10000)
    await expect(zenith.startCompute('main', { name: 'rival' })).rejects.toThrow(/has a writer/)
    await compute.stop()
  })
})
