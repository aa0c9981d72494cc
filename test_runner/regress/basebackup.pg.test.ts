/**
 * Base backups against stock Postgres: it must start from them without recovery wherever the backup's
 * LSN falls in the WAL, and hold exactly what another stock server had at that LSN.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type pg from 'pg'
import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newTenantId, newTimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn, WAL_PAGE_SIZE, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { LocalObjectStore } from '#libs/object-store/local-store.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { giveTo } from '#libs/system-user.ts'
import { backupEntries } from '../../pageserver/basebackup/base-backup.ts'
import { writeTar } from '../../pageserver/basebackup/tar-writer.ts'
import { importDataFolder, importLsn } from '../../pageserver/import/data-folder-import.ts'
import { freshControlFile, initdbTemplate } from '../../pageserver/import/initdb-template.ts'
import { applyNativeOp } from '../../pageserver/ingest/native-op.ts'
import { TenantManager } from '../../pageserver/tenants/tenant-manager.ts'
import type { Timeline } from '../../pageserver/timeline/timeline.ts'
import { LonePageserver, SHARED_TEMPLATES } from '../fixtures/lone-pageserver.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

const log = pino({ level: 'silent' })

/** A timeline with a fresh cluster, in this process. */
async function importedTimeline(dir: string): Promise<Timeline> {
  const tenants = new TenantManager({
    dataDir: join(dir, 'pageserver'),
    objectStore: new LocalObjectStore(join(dir, 'objects')),
    redo: { apply: () => Promise.reject(new Error('nothing to redo in an import')) },
    applyNativeOp,
    log,
  })
  const postgres = findPostgres()
  const template = await initdbTemplate({
    postgres,
    cacheFolder: SHARED_TEMPLATES,
    scratchFolder: join(dir, 'scratch'),
    log,
  })
  const control = await freshControlFile(template)
  const tenantId = newTenantId()
  await tenants.attach(tenantId, 1)
  const facts = {
    startLsn: importLsn(control),
    systemId: String(control.systemId),
    pgVersion: template.pgVersion,
  }
  return tenants.createTimeline(tenantId, newTimelineId(), facts, (timeline) =>
    importDataFolder(timeline, template.folder, control),
  )
}

async function unpackFullBackup(timeline: Timeline, lsn: Lsn, dir: string): Promise<string> {
  const folder = mkdtempSync(join(dir, 'data-'))
  const parts: Buffer[] = []
  await writeTar(backupEntries(timeline, lsn, { kind: 'full', log }), (some) => {
    parts.push(...some)
  })
  writeFileSync(`${folder}.tar`, Buffer.concat(parts))
  execFileSync('tar', ['-xf', `${folder}.tar`, '-C', folder])
  rmSync(`${folder}.tar`)
  giveTo(folder)
  return folder
}

/** Distances from a segment boundary, in the order in which the timeline reaches them. */
const PLACES: [string, number][] = [
  ['on a segment boundary', 0],
  ['mid-page', 5 * WAL_PAGE_SIZE + 4000],
  ['24 bytes before a page end', 6 * WAL_PAGE_SIZE - 24],
  ['8 bytes before a page end', 6 * WAL_PAGE_SIZE - 8],
  ['on a page boundary', 6 * WAL_PAGE_SIZE],
  ['40 bytes before a segment end', WAL_SEGMENT_SIZE - 40],
]

describe('a shutdown checkpoint at any place in the WAL', () => {
  let dir = ''
  let timeline: Timeline
  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), 'zenith-backup-'))
    giveTo(dir)
    timeline = await importedTimeline(dir)
  })
  afterAll(() => rmSync(dir, { recursive: true, force: true }))

  async function startAt(lsn: Lsn): Promise<void> {
    const dataDir = await unpackFullBackup(timeline, lsn, dir)
    await using server = await VanillaPostgres.start({ dataDir })
    expect(server.logTail()).toContain('database system was shut down at')
    expect(problemsIn(server.logTail())).toEqual([])
    await server.query('CREATE TABLE t AS SELECT generate_series(1, 1000) AS n')
    const [row] = await server.query('SELECT pg_current_wal_flush_lsn() AS lsn')
    const range = ['--start', formatLsn(lsn), '--end', String(row?.['lsn'])]
    // Fails when a record, a back link or a page header is wrong anywhere in the range.
    const wal = await server.tool('pg_waldump', ['-p', join(dataDir, 'pg_wal'), ...range])
    expect(wal.stdout.split('\n')[0]).toContain('CHECKPOINT_SHUTDOWN')
    expect(wal.stdout).not.toMatch(/PARAMETER_CHANGE|FPW_CHANGE/)
    await server.stop()
    await server.start()
    expect(await server.query('SELECT count(*)::int AS n FROM t')).toEqual([{ n: 1000 }])
    await server.stop()
    rmSync(dataDir, { recursive: true })
  }

  test('right behind initdb', () => startAt(timeline.startLsn))

  test.each(PLACES)('%s', async (_name, distance) => {
    const boundary = Math.ceil(timeline.startLsn / WAL_SEGMENT_SIZE) * WAL_SEGMENT_SIZE
    timeline.publish(boundary + distance)
    await startAt(boundary + distance)
  })
})

/** Lines of a server's log that tell of a fault, or of recovery. */
function problemsIn(log: string): string[] {
  return log
    .split('\n')
    .filter((line) => /recovery|redo|WARNING|ERROR|FATAL|PANIC/.test(line))
    .filter((line) => !line.includes('the database system is starting up'))
}

/** Statements that touch everything a backup carries besides plain pages. */
const HISTORY = [
  `CREATE EXTENSION amcheck`,
  `CREATE TABLE account (id int PRIMARY KEY, owner text, balance numeric, place point, tags int[])`,
  `CREATE INDEX account_owner ON account (owner)`,
  `CREATE INDEX account_hash ON account USING hash (owner)`,
  `CREATE INDEX account_place ON account USING gist (place)`,
  `CREATE INDEX account_quad ON account USING spgist (place)`,
  `CREATE INDEX account_tags ON account USING gin (tags)`,
  `CREATE INDEX account_brin ON account USING brin (id)`,
  `INSERT INTO account SELECT n, md5(n::text), n * 1.5, point(n % 100, n / 100),
     ARRAY[n % 7, n % 11] FROM generate_series(1, 20000) AS n`,
  `UPDATE account SET balance = balance + 1 WHERE id % 3 = 0`,
  `DELETE FROM account WHERE id % 5 = 0`,
  `VACUUM ANALYZE account`,
  `UPDATE account SET owner = owner || repeat('x', 200) WHERE id % 7 = 0`,
  `CREATE TABLE big (n int, body text)`,
  `ALTER TABLE big ALTER COLUMN body SET STORAGE EXTERNAL`,
  `INSERT INTO big SELECT n, repeat(md5(n::text), 400) FROM generate_series(1, 300) AS n`,
  `CREATE TABLE shrunk AS SELECT n, repeat('y', 300) AS body FROM generate_series(1, 5000) AS n`,
  `DELETE FROM shrunk WHERE n > 50`,
  `VACUUM shrunk`,
  `INSERT INTO shrunk SELECT n, repeat('z', 300) FROM generate_series(51, 200) AS n`,
  `CREATE TABLE emptied AS SELECT generate_series(1, 3000) AS n`,
  `TRUNCATE emptied`,
  `INSERT INTO emptied VALUES (7)`,
  `CREATE TABLE dropped AS SELECT generate_series(1, 3000) AS n`,
  `DROP TABLE dropped`,
  `CREATE UNLOGGED TABLE scratch (n int PRIMARY KEY)`,
  `INSERT INTO scratch SELECT generate_series(1, 100)`,
  `CREATE SEQUENCE counter`,
  `SELECT nextval('counter') FROM generate_series(1, 100)`,
  // WAL runs up to 32 values ahead of nextval, but says exactly what setval did.
  `SELECT setval('counter', 1000)`,
  `CREATE MATERIALIZED VIEW sums AS SELECT id % 10 AS bucket, sum(balance) FROM account GROUP BY 1`,
  `CREATE TABLE moved AS SELECT generate_series(1, 2000) AS n`,
  `CLUSTER account USING account_owner`,
  `VACUUM FULL moved`,
  `REINDEX TABLE account`,
]

interface Moment {
  lsn: string
  dump: string
}

/** Runs the statements; returns what the server was half way. */
async function makeHistory(server: VanillaPostgres): Promise<Moment> {
  const client = await server.connect()
  const half = HISTORY.length / 2
  for (const statement of HISTORY.slice(0, half)) await client.query(statement)
  const moment = { lsn: await endOfWal(server), dump: await dump(server) }
  for (const statement of HISTORY.slice(half)) await client.query(statement)
  await client.query(`CREATE DATABASE copied_by_log STRATEGY wal_log`)
  await client.query(`CREATE DATABASE copied_by_file STRATEGY file_copy TEMPLATE template0`)
  await subtransactions(client)
  await multixacts(server)
  await client.query(`SELECT pg_replication_origin_create('elsewhere')`)
  await client.query(`SELECT pg_replication_origin_session_setup('elsewhere')`)
  await client.query('BEGIN')
  await client.query(`SELECT pg_replication_origin_xact_setup('0/123456', now())`)
  await client.query(`INSERT INTO emptied VALUES (9)`)
  await client.query('COMMIT')
  await client.query(`SELECT pg_replication_origin_session_reset()`)
  await client.query('BEGIN')
  await client.query(`INSERT INTO emptied VALUES (8)`)
  await client.query(`PREPARE TRANSACTION 'pending'`)
  await client.end()
  const other = await server.connect('copied_by_file')
  await other.query('CREATE TABLE elsewhere AS SELECT generate_series(1, 500) AS n')
  await other.end()
  return moment
}

async function subtransactions(client: pg.Client): Promise<void> {
  await client.query('BEGIN')
  for (let level = 0; level < 100; level += 1) {
    await client.query(`SAVEPOINT s${level}`)
    await client.query(`UPDATE moved SET n = n WHERE n = ${level}`)
    if (level % 3 === 0) await client.query(`ROLLBACK TO SAVEPOINT s${level}`)
  }
  await client.query('COMMIT')
}

/** Several transactions hold the same row, so that multixacts are made. */
async function multixacts(server: VanillaPostgres): Promise<void> {
  const clients = await Promise.all([1, 2, 3].map(() => server.connect()))
  for (const client of clients) {
    await client.query('BEGIN')
    await client.query('SELECT * FROM account WHERE id IN (1, 2, 3) FOR SHARE')
  }
  for (const client of clients) await client.query('COMMIT')
  for (const client of clients) await client.end()
}

/** Everything that a server shows, as text. Unlogged tables are empty after any restart. */
async function dump(server: VanillaPostgres): Promise<string> {
  const { stdout } = await server.tool('pg_dumpall', [
    '--host=127.0.0.1',
    `--port=${server.port}`,
    '--username=zenith_admin',
    '--no-unlogged-table-data',
    '--restrict-key=same',
  ])
  return stdout
}

async function endOfWal(server: VanillaPostgres): Promise<string> {
  // What is still in the buffers of the WAL writer counts too.
  await server.query('SELECT pg_switch_wal()')
  const [row] = await server.query('SELECT pg_current_wal_flush_lsn() AS lsn')
  return String(row?.['lsn'])
}

async function checkIndexes(server: VanillaPostgres): Promise<void> {
  await server.tool('pg_amcheck', [
    '--host=127.0.0.1',
    `--port=${server.port}`,
    '--username=zenith_admin',
    '--heapallindexed',
    '--database=postgres',
  ])
}

const SETTINGS = {
  full_page_writes: 'off',
  max_prepared_transactions: '64',
  autovacuum: 'off',
  fsync: 'off',
}

describe('a pageserver that follows a stock server', () => {
  test('gives back, as a full backup, exactly what the server has', async () => {
    await using pageserver = await LonePageserver.start()
    await using original = await VanillaPostgres.start({
      dataDir: await pageserver.backup('fullbackup'),
      settings: SETTINGS,
    })
    await pageserver.follow(original)
    const earlier = await makeHistory(original)
    const lsn = await endOfWal(original)
    await pageserver.waitForLsn(lsn)

    await using copy = await VanillaPostgres.start({
      dataDir: await pageserver.backup('fullbackup', { lsn }),
      settings: SETTINGS,
    })
    expect(problemsIn(copy.logTail())).toEqual([])
    expect(await dump(copy)).toBe(await dump(original))
    expect(await copy.query('SELECT count(*)::int AS n FROM scratch')).toEqual([{ n: 0 }])
    await checkIndexes(copy)
    await copy.query(`COMMIT PREPARED 'pending'`)
    expect(await copy.query('SELECT n FROM emptied ORDER BY n')).toEqual([
      { n: 7 },
      { n: 8 },
      { n: 9 },
    ])
    expect(
      await copy.query('SELECT external_id, remote_lsn FROM pg_replication_origin_status'),
    ).toEqual([{ external_id: 'elsewhere', remote_lsn: '0/123456' }])
    await copy.query(`INSERT INTO scratch VALUES (1)`)

    await using past = await VanillaPostgres.start({
      dataDir: await pageserver.backup('fullbackup', { lsn: earlier.lsn }),
      settings: SETTINGS,
    })
    expect(await dump(past)).toBe(earlier.dump)
    await checkIndexes(past)
  })

  test('kill -9 and restart lose nothing, flushed or not', async () => {
    await using pageserver = await LonePageserver.start()
    await using original = await VanillaPostgres.start({
      dataDir: await pageserver.backup('fullbackup'),
      settings: { ...SETTINGS, wal_keep_size: '1GB' },
    })
    await pageserver.follow(original)
    await original.query('CREATE TABLE ledger (n serial PRIMARY KEY, body text)')
    for (let round = 0; round < 4; round += 1) {
      const load = original.query(
        `INSERT INTO ledger (body) SELECT repeat(md5(g::text), 5) FROM generate_series(1, 20000) g`,
      )
      if (round % 2 === 0) await pageserver.maintain('checkpoint')
      await pageserver.process.stop('SIGKILL')
      await load
      await pageserver.process.start()
    }
    const lsn = await endOfWal(original)
    await pageserver.waitForLsn(lsn)
    await pageserver.maintain('compact')
    await using copy = await VanillaPostgres.start({
      dataDir: await pageserver.backup('fullbackup', { lsn }),
      settings: SETTINGS,
    })
    const sum = 'SELECT count(*)::int AS n, md5(string_agg(body, n::text ORDER BY n)) FROM ledger'
    expect(await copy.query(sum)).toEqual(await original.query(sum))
  })

  test('a backup for a compute has no relation files but init forks', async () => {
    await using pageserver = await LonePageserver.start()
    const folder = await pageserver.backup('basebackup')
    const names = readdirSync(join(folder, 'base', '5'))
    expect(names.toSorted()).toEqual(['PG_VERSION', 'pg_filenode.map'])
    expect(readdirSync(join(folder, 'global')).toSorted()).toEqual([
      'pg_control',
      'pg_filenode.map',
    ])
    expect(readFileSync(join(folder, 'pg_xact', '0000')).length % 8192).toBe(0)
    const controlData = execFileSync(findPostgres().bin('pg_controldata'), [folder], {
      encoding: 'utf8',
    })
    expect(controlData).toContain('shut down')
    expect(controlData).toContain((await pageserver.info()).systemId)
  })

  test('an LSN out of range or inside a page header is refused', async () => {
    await using pageserver = await LonePageserver.start()
    await expect(pageserver.backup('basebackup', { lsn: '0/8' })).rejects.toThrow('starts at')
    await expect(pageserver.backup('basebackup', { lsn: '0/2000008' })).rejects.toThrow(
      'page header',
    )
  })
})
