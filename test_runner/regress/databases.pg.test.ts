/**
 * Databases that are created, moved and dropped as a whole. Copying folders, as stock Postgres
 * does for two of these commands, copies nothing of a permanent relation here; the pageserver does
 * it when it meets the record. Small buffers make the copies be read from there.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { FILE_CACHE, Installation } from '../fixtures/installation.ts'
import { byteOracle } from '../oracle/byte-oracle.ts'

const SETTINGS = { shared_buffers: '2MB', ...FILE_CACHE }
const ROWS = 5000

let zenith: Installation
let compute: Compute

beforeAll(async () => {
  zenith = await Installation.create()
  compute = await zenith.startCompute('main', { settings: SETTINGS })
  for (const name of ['fast', 'slow']) {
    const client = await compute.connect()
    await client.query('SET allow_in_place_tablespaces = on')
    await client.query(`CREATE TABLESPACE ${name} LOCATION ''`)
    await client.end()
  }
})

afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
})

async function restart(): Promise<void> {
  await compute.kill()
  compute = await zenith.startCompute('main', { settings: SETTINGS })
}

/** Makes a database worth copying: tables in two tablespaces, an index, unlogged rows, a sequence. */
async function createSource(name: string): Promise<void> {
  await compute.query(`CREATE DATABASE ${name}`)
  const client = await compute.connect(name)
  await client.query(`CREATE TABLE items (id int PRIMARY KEY, t text);
    CREATE TABLE placed (id int) TABLESPACE slow;
    CREATE UNLOGGED TABLE scratch (id int);
    CREATE SEQUENCE counter`)
  await client.query(`INSERT INTO items SELECT g, md5(g::text) FROM generate_series(1, ${ROWS}) g`)
  await client.query(`INSERT INTO placed SELECT generate_series(1, 100);
    INSERT INTO scratch SELECT generate_series(1, 10); SELECT nextval('counter')`)
  await client.query('DELETE FROM items WHERE id % 2 = 0')
  await client.query('VACUUM ANALYZE')
  await client.end()
}

/** Everything that `createSource` made, as one value. */
async function contents(database: string): Promise<unknown> {
  const [row] = await compute.query(
    `SELECT count(*)::int AS items, md5(string_agg(t, ',' ORDER BY id)) AS texts,
      (SELECT count(*)::int FROM placed) AS placed FROM items`,
    database,
  )
  return row
}

async function checkIndexes(database: string): Promise<void> {
  await compute.query('CREATE EXTENSION IF NOT EXISTS amcheck', database)
  await compute.query(
    `SELECT bt_index_check(indexrelid, true) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
      JOIN pg_am a ON a.oid = relam WHERE amname = 'btree'`,
    database,
  )
}

describe.each(['wal_log', 'file_copy'])('CREATE DATABASE with STRATEGY %s', (strategy) => {
  const source = `source_${strategy}`
  const copy = `copy_${strategy}`

  test('copies relations of all tablespaces as they are', async () => {
    await createSource(source)
    const before = await contents(source)
    await compute.query(`CREATE DATABASE ${copy} TEMPLATE ${source} STRATEGY ${strategy}`)
    expect(await contents(copy)).toEqual(before)
    expect(await compute.value('SELECT count(*)::int FROM scratch', copy)).toBe(10)
    expect(await compute.value("SELECT nextval('counter')::int", copy)).toBe(2)
    await checkIndexes(copy)
    await compute.query('INSERT INTO items VALUES (0, $$only here$$)', copy)
    expect(await contents(source)).toEqual(before)
  })

  test('into another tablespace, which knows that it is in use', async () => {
    const moved = `moved_${strategy}`
    await compute.query(
      `CREATE DATABASE ${moved} TEMPLATE ${source} TABLESPACE fast STRATEGY ${strategy}`,
    )
    expect(await contents(moved)).toEqual(await contents(source))
    expect(await compute.value("SELECT pg_relation_filepath('items')", moved)).toMatch(/^pg_tblspc/)
    await expect(compute.query('DROP TABLESPACE fast')).rejects.toThrow('is not empty')
    await restart()
    await expect(compute.query('DROP TABLESPACE fast')).rejects.toThrow('is not empty')
    expect(await contents(moved)).toEqual(await contents(source))
    expect(await compute.value('SELECT count(*)::int FROM scratch', moved)).toBe(0)
    await compute.query(`DROP DATABASE ${moved}`)
  })

  test('survives a restart and is inherited by a branch', async () => {
    const child = `child_${strategy}`.replace('_', '-').replace('_', '-')
    await zenith.createBranch(child, { from: 'main' })
    const other = await zenith.startCompute(child, { settings: SETTINGS })
    const sql = 'SELECT count(*)::int FROM items'
    expect(await other.value(sql, copy)).toBe(ROWS / 2 + 1)
    await other.query(`DROP DATABASE ${copy}`)
    await other.stop()
    await restart()
    expect(await compute.value(sql, copy)).toBe(ROWS / 2 + 1)
  })

  test('with the number of a dropped database shows nothing of that one', async () => {
    const create = `CREATE DATABASE again TEMPLATE ${source} STRATEGY ${strategy} OID 90001`
    await compute.query(create)
    await compute.query(
      'UPDATE items SET t = upper(t); CREATE TABLE gone AS SELECT 1 AS id',
      'again',
    )
    await compute.query(
      "INSERT INTO items SELECT g, 'more' FROM generate_series(-9000, -1) g",
      'again',
    )
    await compute.query('CHECKPOINT')
    await compute.query('DROP DATABASE again WITH (FORCE)')
    await compute.query(create)
    expect(await contents('again')).toEqual(await contents(source))
    const sizes = 'SELECT sum(pg_relation_size(oid))::int AS n FROM pg_class WHERE relname IN '
    const named = "('items', 'items_pkey', 'placed')"
    expect(await compute.value(sizes + named, 'again')).toBe(
      await compute.value(sizes + named, source),
    )
    await checkIndexes('again')
    await compute.query('DROP DATABASE again')
  })
})

describe('ALTER DATABASE SET TABLESPACE', () => {
  test('moves what was in the default tablespace, and back', async () => {
    await createSource('mobile')
    const before = await contents('mobile')
    const size = Number(await compute.value("SELECT pg_database_size('mobile')"))
    await compute.query('ALTER DATABASE mobile SET TABLESPACE fast')
    expect(await contents('mobile')).toEqual(before)
    expect(await compute.value('SELECT count(*)::int FROM scratch', 'mobile')).toBe(10)
    expect(await compute.value("SELECT nextval('counter')::int", 'mobile')).toBe(2)
    expect(Number(await compute.value("SELECT pg_database_size('mobile')"))).toBeLessThan(
      size * 1.1,
    )

    // What is read after the way back must not be what the caches hold from before.
    await compute.query('UPDATE items SET t = reverse(t)', 'mobile')
    const after = await contents('mobile')
    await compute.query('ALTER DATABASE mobile SET TABLESPACE pg_default')
    expect(await contents('mobile')).toEqual(after)
    await checkIndexes('mobile')
    await compute.query('ALTER DATABASE mobile SET TABLESPACE fast')
    await restart()
    expect(await contents('mobile')).toEqual(after)
    expect(await compute.value("SELECT pg_relation_filepath('items')", 'mobile')).toMatch(
      /^pg_tblspc/,
    )
  })

  test('is refused for a tablespace where the database has relations, until they are gone', async () => {
    const move = () => compute.query('ALTER DATABASE mobile SET TABLESPACE slow')
    await expect(move()).rejects.toThrow('some relations of database "mobile" are already in')
    await compute.query('DROP TABLE placed', 'mobile')
    await move()
    expect(await compute.value('SELECT count(*)::int FROM items', 'mobile')).toBe(ROWS / 2)
    await compute.query('ALTER DATABASE mobile SET TABLESPACE pg_default')
  })

  test('that is cancelled in the middle can be repeated, also after a restart', async () => {
    const client = await compute.connect()
    const { rows } = await client.query('SELECT pg_backend_pid() AS pid')
    const moved = client.query('ALTER DATABASE mobile SET TABLESPACE fast').then(
      () => 'moved',
      () => 'cancelled',
    )
    await compute.query(`SELECT pg_sleep(0.02), pg_cancel_backend(${rows[0].pid})`)
    const outcome = await moved
    await client.end()
    await restart()
    const path = await compute.value("SELECT pg_relation_filepath('items')", 'mobile')
    expect(String(path).startsWith('pg_tblspc')).toBe(outcome === 'moved')
    await compute.query('ALTER DATABASE mobile SET TABLESPACE pg_default')
    await compute.query('ALTER DATABASE mobile SET TABLESPACE fast')
    expect(await compute.value('SELECT count(*)::int FROM items', 'mobile')).toBe(ROWS / 2)
  })
})

test('a database that is too large is created page by page, and not moved', async () => {
  await compute.stop()
  const settings = { ...SETTINGS, 'zenith.max_database_copy_size': '7MB' }
  compute = await zenith.startCompute('main', { settings })
  const client = await compute.connect()
  const notices: string[] = []
  client.on('notice', (notice) => notices.push(notice.message ?? ''))
  await client.query('CREATE DATABASE large TEMPLATE mobile STRATEGY file_copy')
  await client.end()
  expect(notices).toEqual(['database "large" is created with STRATEGY wal_log'])
  const count = 'SELECT count(*)::int FROM items'
  expect(await compute.value(count, 'large')).toBe(await compute.value(count, 'mobile'))
  await expect(
    compute.query('ALTER DATABASE mobile SET TABLESPACE pg_default'),
  ).rejects.toMatchObject({ code: '54000', hint: expect.stringContaining('ALTER TABLE ALL') })
  await compute.query('DROP DATABASE large')
})

test('stock Postgres that replays the WAL has the same pages in all tablespaces', async () => {
  using run = await byteOracle(zenith, compute)
  expect(run.report.differences).toEqual([])
  expect(run.report.counts.get('stock replay')?.get('main')?.compared).toBeGreaterThan(5000)
})

test('DROP DATABASE leaves nothing behind, with FORCE also while it is used', async () => {
  const client = await compute.connect('mobile')
  const ended = new Promise((resolve) => client.once('end', resolve))
  await expect(compute.query('DROP DATABASE mobile')).rejects.toMatchObject({ code: '55006' })
  const before = Number(await compute.value("SELECT pg_tablespace_size('fast')"))
  await compute.query('DROP DATABASE mobile WITH (FORCE)')
  await ended
  const after = Number(await compute.value("SELECT pg_tablespace_size('fast')"))
  expect(before).toBeGreaterThan(7_000_000)
  expect(after).toBe(0)
  await restart()
  await expect(compute.connect('mobile')).rejects.toMatchObject({ code: '3D000' })
  await compute.query('DROP TABLESPACE fast')
})
