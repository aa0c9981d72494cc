/**
 * Goal: what `zenith export` writes is a cluster that stock Postgres 17 starts as after a clean stop,
 * with the data of the branch at that LSN, whatever was going on there.
 * Method: a workload with every kind of index, unlogged relations, prepared and open transactions,
 * on a cluster without checksums; folders at LSNs in the middle of transactions, compared by
 * pg_dumpall with read-only computes at the same LSNs, checked with amcheck and pg_checksums.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import pg from 'pg'
import { parseLsn } from '#libs/lsn.ts'
import { parseControlFile } from '#libs/pg/control-file.ts'
import { giveTo } from '#libs/system-user.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { ZenithCommand } from '../fixtures/zenith-command.ts'

const zenith = new ZenithCommand()
let folder: string
let uri: string

interface Exported {
  lsn: string
  bytes: number
  start: string | null
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-export-'))
  giveTo(folder)
  await zenith.ok('init')
  await zenith.ok('start')
  const info = await zenith.json<{ uri: string }>('pg start main')
  uri = info.uri
})

afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

async function connect(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: uri })
  client.on('error', () => {})
  await client.connect()
  return client
}

/** A read-only compute, which shows the branch at that LSN. */
async function portOfView(name: string, lsn: string): Promise<number> {
  const words = `pg start ${name} --branch main --lsn ${lsn}`
  return (await zenith.json<{ port: number }>(words)).port
}

/** Everything that SQL can show, as text; two lines of a dump are random. */
async function dump(stock: VanillaPostgres, port: number): Promise<string> {
  const words = [
    '-h',
    '127.0.0.1',
    '-p',
    String(port),
    '-U',
    'zenith_admin',
    '--no-unlogged-table-data',
  ]
  const { stdout } = await stock.tool('pg_dumpall', words)
  return stdout.replaceAll(/^\\(un)?restrict .*$/gm, '')
}

async function isSound(stock: VanillaPostgres): Promise<void> {
  await stock.query('CREATE EXTENSION amcheck')
  const heaps = await stock.query(`SELECT count(*)::int AS n FROM pg_class c,
    verify_heapam(c.oid, check_toast := true)
    WHERE relkind IN ('r', 't', 'm') AND relpersistence = 'p'`)
  expect(heaps).toEqual([{ n: 0 }])
  await stock.query(`SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a
    ON a.oid = relam WHERE amname = 'btree' AND relkind = 'i' AND relpersistence <> 't'`)
}

const END = 'SELECT pg_current_wal_insert_lsn()::text AS lsn'
let middle: string
let tail: string

test('the end of a branch, with transactions open and prepared', async () => {
  await zenith.ok('pg set main max_prepared_transactions=10')
  const client = await connect()
  for (const sql of [
    `CREATE TABLE t (id int PRIMARY KEY, body text, n int[], p point)`,
    `INSERT INTO t SELECT g, repeat(md5(g::text), 1 + g % 9), ARRAY[g, g % 7], point(g, g)
       FROM generate_series(1, 8000) g`,
    `CREATE INDEX t_gin ON t USING gin (n)`,
    `CREATE INDEX t_gist ON t USING gist (p)`,
    `CREATE INDEX t_hash ON t USING hash (body)`,
    `CREATE INDEX t_brin ON t USING brin (id)`,
    `CREATE TABLE big (id int PRIMARY KEY, body text STORAGE external)`,
    `INSERT INTO big VALUES (1, repeat('long', 500000))`,
    `CREATE UNLOGGED TABLE u (id int PRIMARY KEY)`,
    `INSERT INTO u SELECT generate_series(1, 1000)`,
    `CREATE SEQUENCE s`,
    `SELECT nextval('s') FROM generate_series(1, 40)`,
    `CREATE ROLE someone LOGIN`,
    `CREATE DATABASE other`,
    `VACUUM t`,
    `DELETE FROM t WHERE id % 5 = 0`,
  ]) {
    await client.query(sql)
  }
  const open = await connect()
  await open.query(`BEGIN; UPDATE t SET body = 'never' WHERE id < 2000; SAVEPOINT a;
    INSERT INTO t VALUES (-1, 'never')`)
  middle = String((await client.query(END)).rows[0].lsn)
  await client.query(`BEGIN; SAVEPOINT b; UPDATE t SET body = 'once' WHERE id BETWEEN 3000 AND 4000;
    RELEASE b; COMMIT`)
  await client.query(`BEGIN; DELETE FROM t WHERE id > 7000; SAVEPOINT c;
    UPDATE big SET body = 'short'`)
  tail = String((await client.query(END)).rows[0].lsn)
  await client.query('ROLLBACK')
  await client.query(`SELECT pg_logical_emit_message(true, 'test', '')`)

  const target = join(folder, 'end')
  const exported = await zenith.json<Exported>(`export main ${target}`)
  expect(exported.start).toContain(`-D ${target}`)
  expect(readdirSync(join(target, 'pg_wal'))).toHaveLength(3)
  const control = parseControlFile(readFileSync(join(target, 'global', 'pg_control')))
  expect(control.checkpointLsn).toBeGreaterThan(parseLsn(exported.lsn))
  expect(control.dataChecksumVersion).toBe(0)

  await using stock = await VanillaPostgres.start({ dataDir: target })
  expect(stock.logTail()).toContain('database system was shut down at')
  expect(stock.logTail()).not.toMatch(/recovery|redo/)
  expect(await dump(stock, stock.port)).toBe(
    await dump(stock, await portOfView('end', exported.lsn)),
  )
  expect(await stock.query('SELECT count(*)::int AS n FROM u')).toEqual([{ n: 0 }])
  await isSound(stock)
  await stock.query(`INSERT INTO t VALUES (-5, 'written by stock Postgres'); CHECKPOINT`)
  await stock.stop('SIGQUIT')
  await stock.start()
  expect(await stock.query('SELECT count(*)::int AS n FROM t WHERE id = -5')).toEqual([{ n: 1 }])
  await open.end()
  await client.end()
})

test('LSNs in the middle of transactions, with checksums', async () => {
  for (const [index, lsn] of [middle, tail].entries()) {
    const target = join(folder, `at${index}`)
    await zenith.ok(`export main@${lsn} ${target} --checksums on --no-sync`)
    await using stock = await VanillaPostgres.create({ dataDir: target })
    const { stdout } = await stock.tool('pg_checksums', ['--check', '-D', target])
    expect(stdout).toMatch(/Bad checksums: +0/)
    expect(stdout).toMatch(/Data checksum version: 1/)
    expect(Number(/Blocks scanned: +(\d+)/.exec(stdout)?.[1])).toBeGreaterThan(3000)
    await stock.start()
    expect(await dump(stock, stock.port)).toBe(
      await dump(stock, await portOfView(`v${index}`, lsn)),
    )
    await isSound(stock)
    await zenith.ok(`pg stop v${index}`)
  }
})

test('a tar holds the same, and what cannot be is refused and leaves nothing', async () => {
  const tar = join(folder, 'copy.tar')
  await zenith.ok(`export main@${middle} ${tar} --format tar`)
  await using stock = await VanillaPostgres.create()
  const unpacked = join(stock.dir, 'copy')
  execFileSync('mkdir', ['-m', '700', unpacked])
  execFileSync('tar', ['-xf', tar, '-C', unpacked])
  giveTo(unpacked)
  await using copy = await VanillaPostgres.start({ dataDir: unpacked })
  expect(await copy.query('SELECT count(*)::int AS n FROM t')).toEqual([{ n: 6400 }])

  expect(await zenith.run(`export main ${tar} --format tar`)).toMatchObject({
    code: 4,
    stderr: expect.stringContaining('is a file already'),
  })
  expect(await zenith.run(`export main ${folder}`)).toMatchObject({
    code: 4,
    stderr: expect.stringContaining('not empty'),
  })
  const beyond = await zenith.run(`export main@7/0 ${join(folder, 'none')}`)
  expect(beyond.stderr).toMatch(/Branch "main" has no LSN 7\/0/)
  expect((await zenith.run(`export nope ${join(folder, 'none')}`)).code).toBe(3)
  expect(readdirSync(folder)).not.toContain('none')
})
