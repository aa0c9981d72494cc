/**
 * The extension as a part of Postgres: its views, settings and privileges, and what the usual tools
 * and counters make of a compute. The counters are judged by what stock Postgres shows for the same
 * statements.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseLsn } from '#libs/lsn.ts'
import type { Compute } from '../fixtures/compute.ts'
import { FILE_CACHE, Installation } from '../fixtures/installation.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

const ROWS = 20_000
const FILL = `CREATE TABLE read_me AS SELECT g AS id, repeat('x', 100) AS pad
  FROM generate_series(1, ${ROWS}) g`

let zenith: Installation
let compute: Compute
let dir: string

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'zenith-citizen-'))
  zenith = await Installation.create()
  compute = await zenith.startCompute('main', { settings: { autovacuum: 'off', ...FILE_CACHE } })
  await compute.query('CREATE EXTENSION zenith; CREATE EXTENSION zenith_test_utils')
  await compute.query(FILL)
  await compute.query('VACUUM ANALYZE read_me')
})

afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
  rmSync(dir, { recursive: true, force: true })
})

describe('the schema zenith', () => {
  test('tells places in the WAL, in their order', async () => {
    await compute.query('INSERT INTO read_me VALUES (0)')
    const [row = {}] = await compute.query('SELECT * FROM zenith.wal_status')
    const lsn = (name: string) => parseLsn(String(row[name]))
    expect(lsn('insert_lsn')).toBeGreaterThanOrEqual(lsn('flush_lsn'))
    expect(lsn('flush_lsn')).toBeGreaterThanOrEqual(lsn('quorum_lsn'))
    expect(lsn('quorum_lsn')).toBeGreaterThanOrEqual(lsn('pageserver_lsn'))
    expect(row['replay_lsn']).toBeNull()
    expect(Number(row['quorum_lag'])).toBe(lsn('flush_lsn') - lsn('quorum_lsn'))
    expect(Number(row['pageserver_lag'])).toBe(lsn('flush_lsn') - lsn('pageserver_lsn'))
  })

  test('tells what caches and readahead did', async () => {
    await compute.query('SELECT clear_buffer_cache(); SELECT sum(length(pad)) FROM read_me')
    const rows = await compute.query('SELECT * FROM zenith.cache_status ORDER BY cache')
    expect(rows.map((row) => row['cache'])).toEqual(['pages', 'relation sizes'])
    for (const row of rows) {
      expect(Number(row['used'])).toBeGreaterThan(0)
      expect(Number(row['capacity'])).toBeGreaterThan(Number(row['used']))
      expect(Number(row['hits'])).toBeGreaterThan(0)
      expect(Number(row['hit_ratio'])).toBeLessThanOrEqual(1)
    }
    expect(Number(rows[0]?.['capacity'])).toBe((1 << 30) / 8192)
    const [ahead = {}] = await compute.query('SELECT * FROM zenith.readahead_status')
    expect(Number(ahead['requested'])).toBeGreaterThanOrEqual(Number(ahead['used']))
  })

  test('tells what the compute serves, and how large it is', async () => {
    const [info = {}] = await compute.query('SELECT * FROM zenith.compute_info')
    expect(info['tenant_id']).toBe(compute.spec.tenantId)
    expect(info['timeline_id']).toBe(compute.spec.timelineId)
    expect(info['mode']).toBe('primary')
    const whole = Number(await compute.value('SELECT zenith.cluster_size()'))
    const parts = Number(await compute.value('SELECT sum(pg_database_size(oid)) FROM pg_database'))
    expect(whole).toBeGreaterThan(parts)
    expect(whole).toBeLessThan(parts + 5_000_000)
  })

  test('is for those who may watch the server', async () => {
    await compute.query('CREATE ROLE nobody; CREATE ROLE watcher; GRANT pg_monitor TO watcher')
    const client = await compute.connect()
    const views = ['getpage_stats', 'wal_status', 'cache_status', 'readahead_status']
    await client.query('SET ROLE watcher')
    for (const view of views) await client.query(`SELECT * FROM zenith.${view}`)
    await client.query('SELECT zenith.cluster_size(), zenith.replication_apply_lag()')
    await client.query('SET ROLE nobody')
    await client.query('SELECT * FROM zenith.compute_info')
    for (const view of views) {
      await expect(client.query(`SELECT * FROM zenith.${view}`)).rejects.toMatchObject({
        code: '42501',
      })
    }
    await expect(client.query('SELECT zenith.getpage_stats_reset()')).rejects.toMatchObject({
      code: '42501',
    })
    await client.end()
  })

  test('comes with any database whose owner wants it, also from its first version', async () => {
    await compute.query('CREATE ROLE owner LOGIN')
    await compute.query('CREATE DATABASE owned OWNER owner')
    const client = await compute.connect('owned')
    await client.query('SET SESSION AUTHORIZATION owner')
    await client.query("CREATE EXTENSION zenith VERSION '1.0'")
    await client.query('ALTER EXTENSION zenith UPDATE')
    const { rows } = await client.query(
      `SELECT extversion = (SELECT default_version FROM pg_available_extensions
        WHERE name = 'zenith') AS newest FROM pg_extension WHERE extname = 'zenith'`,
    )
    expect(rows).toEqual([{ newest: true }])
    await client.query('SELECT * FROM zenith.compute_info; DROP EXTENSION zenith')
    await client.end()
    await compute.query('DROP DATABASE owned')
  })

  test('has a comment on each function and view', async () => {
    const rows = await compute.query(
      `SELECT objid::regproc::text AS name FROM pg_depend
        JOIN pg_extension e ON refobjid = e.oid AND extname = 'zenith'
        WHERE classid = 'pg_proc'::regclass AND obj_description(objid, 'pg_proc') IS NULL
      UNION ALL SELECT objid::regclass::text FROM pg_depend
        JOIN pg_extension e ON refobjid = e.oid AND extname = 'zenith'
        WHERE classid = 'pg_class'::regclass AND obj_description(objid, 'pg_class') IS NULL`,
    )
    expect(rows).toEqual([])
  })
})

describe('settings', () => {
  test('have descriptions, and no others may begin with zenith.', async () => {
    const rows = await compute.query(
      "SELECT name, short_desc, unit FROM pg_settings WHERE name LIKE 'zenith.%' ORDER BY name",
    )
    expect(rows.length).toBeGreaterThan(10)
    expect(rows.filter((row) => !String(row['short_desc']).endsWith('.'))).toEqual([])
    expect(rows.find((row) => row['name'] === 'zenith.file_cache_size')?.['unit']).toBe('MB')
    await expect(compute.query('SET zenith.file_cash_size = 1')).rejects.toMatchObject({
      code: '42602',
      detail: '"zenith" is a reserved prefix.',
    })
  })

  test.each(['synchronous_standby_names', 'fsync', 'zenith.timeline_id'])(
    '%s stays as it is, whatever a superuser tries',
    async (name) => {
      const before = await compute.value(`SHOW ${name}`)
      await expect(compute.query(`SET ${name} = ''`)).rejects.toThrow()
      await expect(compute.query(`ALTER SYSTEM SET ${name} = ''`)).rejects.toThrow()
      await expect(compute.query(`ALTER DATABASE postgres SET ${name} = ''`)).rejects.toThrow()
      await compute.query('SELECT pg_reload_conf()')
      expect(await compute.value(`SHOW ${name}`)).toBe(before)
    },
  )
})

interface Counters {
  read: number
  hit: number
  heapRead: number
  timedPlan: boolean
  timedIo: boolean
}

/** What EXPLAIN and the statistics views tell of one scan whose pages are not in memory. */
async function countersOf(client: pg.Client): Promise<Counters> {
  await client.query(`SET track_io_timing = on; SET max_parallel_workers_per_gather = 0;
    SELECT pg_stat_reset(); SELECT pg_stat_reset_shared()`)
  const scan = 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT sum(length(pad)) FROM read_me'
  const explained = (await client.query(scan)).rows[0]['QUERY PLAN'][0]['Plan']
  await client.query('SELECT pg_stat_force_next_flush()')
  const { rows } = await client.query(
    `SELECT heap_blks_read::int AS read, (SELECT sum(read_time) > 0 FROM pg_stat_io
      WHERE backend_type = 'client backend' AND object = 'relation') AS timed
      FROM pg_statio_user_tables WHERE relname = 'read_me'`,
  )
  return {
    read: explained['Shared Read Blocks'],
    hit: explained['Shared Hit Blocks'],
    heapRead: rows[0].read,
    timedPlan: explained['Shared I/O Read Time'] > 0,
    timedIo: rows[0].timed,
  }
}

test('counters of reads are those of stock Postgres', async () => {
  await using vanilla = await VanillaPostgres.start({ settings: { autovacuum: 'off' } })
  await vanilla.query(FILL)
  await vanilla.query('VACUUM ANALYZE read_me')
  await vanilla.stop()
  await vanilla.start()
  const theirs = new pg.Client({
    host: '127.0.0.1',
    port: vanilla.port,
    user: 'zenith_admin',
    database: 'postgres',
  })
  await theirs.connect()
  const expected = await countersOf(theirs)
  await theirs.end()
  expect(expected).toMatchObject({ timedPlan: true, timedIo: true })

  await compute.query('DELETE FROM read_me WHERE id = 0; SELECT clear_buffer_cache()')
  await compute.query('VACUUM FULL read_me')
  await compute.query('VACUUM ANALYZE read_me')
  const ours = await compute.connect()
  await ours.query('SELECT clear_buffer_cache()')
  expect(await countersOf(ours)).toEqual(expected)
  await ours.end()
})

test('pg_prewarm and pg_buffercache see the buffers', async () => {
  await compute.query('CREATE EXTENSION pg_prewarm; CREATE EXTENSION pg_buffercache')
  await compute.query('SELECT clear_buffer_cache()')
  const blocks = Number(await compute.value("SELECT pg_relation_size('read_me') / 8192"))
  for (const mode of ['prefetch', 'read', 'buffer']) {
    expect(Number(await compute.value(`SELECT pg_prewarm('read_me', '${mode}')`))).toBe(blocks)
  }
  expect(
    await compute.value(
      `SELECT count(*)::int FROM pg_buffercache
        WHERE relfilenode = pg_relation_filenode('read_me') AND relforknumber = 0`,
    ),
  ).toBe(blocks)
})

describe('tools', () => {
  test('pg_dump, pg_dumpall and pg_restore copy what there is', async () => {
    const archive = join(dir, 'dump')
    await compute.tool('pg_dump', ['-Fd', '-j2', '-f', archive, 'postgres'])
    await compute.query('CREATE DATABASE restored')
    await compute.tool('pg_restore', ['-j2', '-d', 'restored', archive])
    const digest = 'SELECT md5(string_agg(id || pad, $$,$$ ORDER BY id)) AS d FROM read_me'
    expect(await compute.value(digest, 'restored')).toBe(await compute.value(digest))
    const { stdout } = await compute.tool('pg_dumpall', ['--schema-only'])
    expect(stdout).toContain('CREATE TABLE public.read_me')
    await compute.query('DROP DATABASE restored')
  })

  test('pg_amcheck finds nothing wrong', async () => {
    await compute.query('CREATE INDEX ON read_me (id)')
    const { stdout } = await compute.tool('pg_amcheck', [
      '--install-missing',
      '--heapallindexed',
      '--all',
    ])
    expect(stdout).toBe('')
  })

  test('pg_basebackup and pg_backup_start are refused with the way out', async () => {
    await expect(
      compute.tool('pg_basebackup', ['-D', join(dir, 'backup'), '-c', 'fast']),
    ).rejects.toThrow(/data directory of a compute cannot be backed up[^]*Create a branch/)
    await expect(compute.query("SELECT pg_backup_start('label')")).rejects.toMatchObject({
      code: '0A000',
      hint: expect.stringContaining('Create a branch'),
    })
    expect(await compute.value('SELECT 1')).toBe(1)
  })
})
