/**
 * Goal: a stock cluster becomes a branch, of a base backup that was taken while it was written to and
 * of a primary that runs on; what comes out is what stock Postgres itself makes of the same bytes.
 * Method: a stock primary with checksums under a writer whose sums must always be zero; pg_basebackup
 * as tar and plain; dumps compared with a stock server that recovers the same backup; damaged backups
 * of every kind; then the same primary is followed, branched and left.
 */
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  copyFileSync,
  cpSync,
  mkdtempSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { giveTo } from '#libs/system-user.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { ZenithCommand } from '../fixtures/zenith-command.ts'

const PASSWORD = 'let-me_in'
const zenith = new ZenithCommand()
let primary: VanillaPostgres
let folder: string
let archive: string

interface Imported {
  state: string
  startLsn: string
  error: { code: string; message: string } | null
  following: { lagBytes: number | null; state: string } | null
}

/** Money is moved around and never made; each move is one transaction. */
class Writer {
  #stopped = false
  #done: Promise<void>
  moves = 0

  constructor(server: VanillaPostgres) {
    this.#done = this.#run(server)
  }

  async #run(server: VanillaPostgres): Promise<void> {
    const client = await server.connect()
    while (!this.#stopped) {
      const [from, to] = [this.moves % 997, (this.moves * 31) % 997]
      await client.query(`BEGIN; UPDATE money SET n = n - 1 WHERE id = ${from};
        SAVEPOINT a; UPDATE money SET n = n + 1 WHERE id = ${to};
        INSERT INTO moves (a, b) VALUES (${from}, ${to}); COMMIT`)
      this.moves += 1
      if (this.moves % 200 !== 0) continue
      await client.query('VACUUM money')
      await client.query('CHECKPOINT')
    }
    await client.end()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#done
  }
}

const SUMS = `SELECT (SELECT sum(n)::int FROM money) AS money, (SELECT count(*)::int FROM moves) -
  (SELECT count(*)::int FROM moves WHERE id BETWEEN 1 AND 1000000000) AS odd`

const SENT = `SELECT bool_and(write_lsn >= pg_current_wal_flush_lsn()) AS all
  FROM pg_stat_replication`

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-import-'))
  archive = join(folder, 'archive')
  mkdirSync(archive)
  giveTo(folder)
  primary = await VanillaPostgres.start({
    initdbArgs: ['--data-checksums'],
    settings: {
      fsync: 'off',
      max_prepared_transactions: '10',
      archive_mode: 'on',
      archive_command: `'cp %p ${archive}/%f'`,
    },
  })
  for (const sql of [
    `CREATE ROLE replicator LOGIN REPLICATION PASSWORD '${PASSWORD}'`,
    `CREATE TABLE money (id int PRIMARY KEY, n int, pad text)`,
    `INSERT INTO money SELECT g, 0, repeat('x', 300) FROM generate_series(0, 996) g`,
    `CREATE TABLE moves (id serial PRIMARY KEY, a int, b int)`,
    `CREATE TABLE still AS SELECT g AS id, md5(g::text) AS t FROM generate_series(1, 20000) g`,
    `CREATE INDEX ON still USING gin (to_tsvector('simple', t))`,
    `CREATE UNLOGGED TABLE u AS SELECT 1 AS a`,
    `CREATE DATABASE other`,
  ]) {
    await primary.query(sql)
  }
  await primary.query(`BEGIN; INSERT INTO money VALUES (2000, 0, 'prepared');
    PREPARE TRANSACTION 'before'`)
  const hba = join(primary.dataDir, 'pg_hba.conf')
  const lines = readFileSync(hba, 'utf8')
  writeFileSync(hba, `host replication replicator 127.0.0.1/32 scram-sha-256\n${lines}`)
  await primary.query('SELECT pg_reload_conf()')
  await zenith.ok('init')
  await zenith.ok('start')
})

afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
  await primary?.[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

function backup(name: string, ...options: string[]): Promise<string> {
  return backupOf(primary, name, ...options)
}

async function backupOf(
  server: VanillaPostgres,
  name: string,
  ...options: string[]
): Promise<string> {
  const target = join(folder, name)
  const words = ['-h', '127.0.0.1', '-p', String(server.port), '-U', 'zenith_admin']
  await server.tool('pg_basebackup', [...words, '-D', target, '-c', 'fast', ...options])
  return target
}

/** A server that runs knows what it has given out of a sequence; WAL has promised more. */
function withoutSequences(text: string): string {
  return text.replaceAll(/^SELECT pg_catalog.setval.*$/gm, '')
}

async function dump(server: VanillaPostgres, port: number): Promise<string> {
  const words = ['-h', '127.0.0.1', '-p', String(port), '-U', 'zenith_admin']
  const { stdout } = await server.tool('pg_dumpall', [...words, '--no-unlogged-table-data'])
  return stdout.replaceAll(/^\\(un)?restrict .*$/gm, '')
}

async function portOf(words: string): Promise<number> {
  return (await zenith.json<{ port: number }>(words)).port
}

async function refused(words: string): Promise<string> {
  const { code, stderr } = await zenith.run(words)
  expect(code).not.toBe(0)
  expect(readdirSync(join(zenith.dir, 'pageserver', 'imports'))).toEqual([])
  return stderr
}

test('a base backup of a server that is written to, as tar', async () => {
  const writer = new Writer(primary)
  await expect.poll(() => writer.moves).toBeGreaterThan(50)
  const { moves } = writer
  const tar = await backup('tar', '-Ft', '-X', 'stream')
  expect(writer.moves).toBeGreaterThan(moves)
  await writer.stop()
  const timelines = () => readdirSync(objects()).length
  const before = timelines()
  await zenith.ok(`import taken --basebackup ${tar}`)
  expect(timelines()).toBe(before + 1)

  const unpacked = join(folder, 'unpacked')
  mkdirSync(unpacked, { mode: 0o700 })
  execFileSync('tar', ['-xf', join(tar, 'base.tar'), '-C', unpacked])
  execFileSync('tar', ['-xf', join(tar, 'pg_wal.tar'), '-C', join(unpacked, 'pg_wal')])
  giveTo(unpacked)
  await using stock = await VanillaPostgres.start({
    dataDir: unpacked,
    settings: { archive_mode: 'off' },
  })
  const port = await portOf('pg start taken')
  expect(await zenith.sql('taken', SUMS)).toEqual([{ money: 0, odd: 0 }])
  // A stock server that has recovered forgets what sequences had promised, and so do we.
  expect(await dump(stock, port)).toBe(await dump(stock, stock.port))
  expect(await zenith.sql('taken', 'SELECT gid FROM pg_prepared_xacts')).toEqual([
    { gid: 'before' },
  ])

  await zenith.sql('taken', `COMMIT PREPARED 'before'`)
  await zenith.sql(
    'taken',
    `INSERT INTO moves SELECT 2000000000 + g, g, g FROM generate_series(1, 3000) g`,
  )
  await zenith.ok(`export taken ${join(folder, 'back')}`)
  await using again = await VanillaPostgres.create({ dataDir: join(folder, 'back') })
  const { stdout } = await again.tool('pg_checksums', ['--check', '-D', again.dataDir])
  expect(stdout).toMatch(/Bad checksums: +0/)
  await again.start()
  expect(await dump(again, again.port)).toBe(await dump(again, port))
  await zenith.ok('pg stop taken')

  // And in again what came out, written to by stock Postgres meanwhile.
  await again.query(`INSERT INTO moves SELECT 2100000000 + g, g, g FROM generate_series(1, 500) g`)
  await zenith.ok(`import second --basebackup ${await backupOf(again, 'second', '-X', 'stream')}`)
  const second = await portOf('pg start second')
  expect(withoutSequences(await dump(again, second))).toBe(
    withoutSequences(await dump(again, again.port)),
  )
  await zenith.sql('second', `UPDATE money SET pad = 'here'`)
  expect(await zenith.sql('second', SUMS)).toEqual([{ money: 0, odd: 3500 }])
  await zenith.ok('pg stop second')
})

function objects(): string {
  return join(zenith.dir, 'object-store', 'tenants', zenith.tenantId, 'timelines')
}

test('a plain backup with WAL from the archive, up to its end', async () => {
  const plain = await backup('plain', '-X', 'none', '--manifest-checksums=SHA256')
  await primary.query(`CREATE TABLE later AS SELECT g FROM generate_series(1, 5000) g`)
  await primary.query(
    `BEGIN; INSERT INTO money VALUES (3000, 0, 'open'); PREPARE TRANSACTION 'late'`,
  )
  const [{ lsn } = {}] = await primary.query('SELECT (pg_switch_wal() - 1)::text AS lsn')
  const archived = `SELECT pg_walfile_name('${String(lsn)}') <= last_archived_wal AS done FROM pg_stat_archiver`
  await expect.poll(() => primary.query(archived), { timeout: 60_000 }).toEqual([{ done: true }])
  const nothing = await refused(`import x --basebackup ${plain}`)
  expect(nothing).toMatch(/there is no WAL at 0\/[0-9A-F]+/)
  await zenith.ok(`import later --basebackup ${plain} --wal ${archive}`)
  await zenith.ok('pg start later')
  expect(await zenith.sql('later', 'SELECT count(*)::int AS n FROM later')).toEqual([{ n: 5000 }])
  expect(await zenith.sql('later', SUMS)).toEqual([{ money: 0, odd: 0 }])
  expect(await zenith.sql('later', 'SELECT gid FROM pg_prepared_xacts ORDER BY 1')).toEqual([
    { gid: 'before' },
    { gid: 'late' },
  ])
  await zenith.ok('pg stop later')
  await primary.query(`ROLLBACK PREPARED 'late'`)
})

test('what is damaged or cannot be held is refused, and nothing is left', async () => {
  const before = readdirSync(objects()).sort()
  const good = join(folder, 'tar')
  const bad = join(folder, 'bad')
  const fresh = () => {
    rmSync(bad, { recursive: true, force: true })
    cpSync(good, bad, { recursive: true })
    return join(bad, 'base.tar')
  }
  truncateSync(fresh(), 9_000_000)
  expect(await refused(`import x --basebackup ${bad}`)).toMatch(
    /base.tar is damaged.*in the middle/,
  )
  const bytes = readFileSync(fresh())
  bytes[12_000_000] = (bytes[12_000_000] as number) ^ 1
  writeFileSync(join(bad, 'base.tar'), bytes)
  expect(await refused(`import x --basebackup ${bad}`)).toMatch(/checksum is wrong|wrong checksum/)
  fresh()
  appendFileSync(join(bad, 'backup_manifest'), ' ')
  writeFileSync(
    join(bad, 'backup_manifest'),
    readFileSync(join(good, 'backup_manifest'), 'utf8').replace('"Size": ', '"Size":  '),
  )
  expect(await refused(`import x --basebackup ${bad}`)).toMatch(/manifest fails its own checksum/)
  copyFileSync(join(good, 'base.tar'), join(bad, '16400.tar'))
  expect(await refused(`import x --basebackup ${bad}`)).toMatch(/has tablespaces/)
  expect(await refused(`import x --basebackup ${folder}/none`)).toMatch(/no base backup at/)
  expect(await refused(`import main --basebackup ${good}`)).toMatch(/branch named "main" already/)
  expect(await refused('import x')).toMatch(/Say what to import/)
  expect(readdirSync(objects()).sort()).toEqual(before)
  expect((await zenith.json<{ name: string }[]>('branch')).map(({ name }) => name)).not.toContain(
    'x',
  )
})

test('a running primary is followed, branched, and left', async () => {
  const url = `postgres://replicator@127.0.0.1:${primary.port}/`
  const denied = await zenith.run(`import prod --from ${url}`, { PGPASSWORD: 'wrong' })
  expect(denied.stderr).toMatch(/password authentication failed/)
  const writer = new Writer(primary)
  const { code, stderr, stdout } = await zenith.run(`import prod --from ${url}`, {
    PGPASSWORD: PASSWORD,
  })
  expect([code, stderr]).toEqual([0, ''])
  expect(stdout).toContain(`Branch prod follows Postgres at 127.0.0.1:${primary.port}`)

  for (const name of ['b1', 'b2']) {
    await zenith.ok(`branch ${name} prod`)
    await zenith.ok(`pg start ${name}`)
    expect(await zenith.sql(name, SUMS)).toEqual([{ money: 0, odd: 0 }])
    await zenith.sql(name, 'UPDATE money SET n = 5; DROP TABLE still')
  }
  const moves = 'SELECT count(*)::int AS n FROM moves'
  const [one] = await zenith.sql('b1', moves)
  const [two] = await zenith.sql('b2', moves)
  expect(Number(two?.['n'])).toBeGreaterThan(Number(one?.['n']))
  expect((await zenith.run('pg start prod')).stderr).toMatch(/nobody else can write to it/)

  // The slot keeps what a page server that was killed has not made safe.
  process.kill(zenith.pidOf(join('pageserver', 'pageserver.pid')), 'SIGKILL')
  await primary.query(`INSERT INTO moves VALUES (1500000000, 1, 1)`)
  await zenith.ok('start')
  await writer.stop()
  await primary.query('DELETE FROM moves WHERE id = 1500000000')
  // The streams that reach the page server have all of it; then so does what it says.
  await expect.poll(() => primary.query(SENT)).toEqual([{ all: true }])
  const caught = async () => (await zenith.json<Imported>('import status prod')).following
  await expect.poll(caught, { timeout: 60_000 }).toMatchObject({ state: 'streaming', lagBytes: 0 })
  const live = await primary.query(moves)
  await zenith.ok('pg start now --branch prod --lsn end')
  expect(await zenith.sql('now', moves)).toEqual(live)
  expect(await zenith.sql('now', SUMS)).toEqual([{ money: 0, odd: 0 }])
  await zenith.ok('pg stop now')
  const list = await zenith.ok('timeline list')
  expect(list).toMatch(new RegExp(`prod .*127\\.0\\.0\\.1:${primary.port}`))

  await zenith.ok('import stop prod')
  expect(await primary.query('SELECT slot_name FROM pg_replication_slots')).toEqual([])
  const port = await portOf('pg start prod')
  expect(await zenith.sql('prod', moves)).toEqual(live)
  const theirs = withoutSequences(await dump(primary, primary.port))
  expect(withoutSequences(await dump(primary, port)) === theirs).toBe(true)
  await zenith.sql('prod', `INSERT INTO moves VALUES (1500000001, 1, 1)`)
  expect(await primary.query(moves)).toEqual(live)
  expect(await zenith.ok('branch')).toMatch(/^ prod\n ┣━ .*b1\n ┗━ .*b2$/m)
})

test('a primary as it is now, to write to at once', async () => {
  const url = `postgres://replicator:${PASSWORD}@127.0.0.1:${primary.port}/`
  await zenith.ok(`import once --from ${url} --no-follow`)
  expect(await primary.query('SELECT slot_name FROM pg_replication_slots')).toEqual([])
  await zenith.ok('pg start once')
  expect(await zenith.sql('once', SUMS)).toEqual([{ money: 0, odd: 0 }])
})

test('a tenant of three shards takes in a backup, gives it out, and follows a primary', async () => {
  await zenith.ok('tenant create --shards 3 --stripe-size 64kB --set-default')
  const tar = await backup('spread-tar', '-Ft', '-X', 'stream')
  const taken = await zenith.json<Imported>(`import taken --basebackup ${tar}`)
  expect(taken).toMatchObject({ state: 'done', error: null })
  const port = await portOf('pg start taken')
  expect(await zenith.sql('taken', SUMS)).toEqual([{ money: 0, odd: 0 }])
  await zenith.sql('taken', `UPDATE money SET pad = 'here' WHERE id < 500`)
  const target = join(folder, 'spread')
  await zenith.ok(`export taken ${target} --no-sync`)
  await using copy = await VanillaPostgres.create({ dataDir: target })
  const { stdout } = await copy.tool('pg_checksums', ['--check', '-D', target])
  expect(stdout).toMatch(/Bad checksums: +0/)
  await copy.start()
  expect((await dump(copy, copy.port)) === (await dump(copy, port))).toBe(true)
  await zenith.ok('pg stop taken')
  expect(await refused(`import x --basebackup ${folder}/none`)).toMatch(
    /shard 0: there is no base backup at/,
  )

  const url = `postgres://replicator:${PASSWORD}@127.0.0.1:${primary.port}/`
  const writer = new Writer(primary)
  await zenith.ok(`import prod --from ${url}`)
  expect(await primary.query('SELECT count(*)::int AS n FROM pg_replication_slots')).toEqual([
    { n: 3 },
  ])
  const split = await zenith.run('tenant split --shards 6')
  expect(split.stderr).toMatch(/"prod" follows a stock server.*zenith import stop prod/s)
  await zenith.ok('branch early prod')
  await zenith.ok('pg start early')
  expect(await zenith.sql('early', SUMS)).toEqual([{ money: 0, odd: 0 }])
  // What they are asked to stop at is in the middle of what is written.
  await zenith.ok('import stop prod')
  await writer.stop()
  expect(await primary.query('SELECT slot_name FROM pg_replication_slots')).toEqual([])
  await zenith.ok('pg start prod')
  expect(await zenith.sql('prod', SUMS)).toEqual([{ money: 0, odd: 0 }])
  const count = 'SELECT count(*)::int AS n FROM moves'
  const [[early], [end], [live]] = [
    await zenith.sql('early', count),
    await zenith.sql('prod', count),
    await primary.query(count),
  ]
  expect(Number(end?.['n'])).toBeGreaterThan(Number(early?.['n']))
  expect(Number(live?.['n'])).toBeGreaterThanOrEqual(Number(end?.['n']))
  const still = `SELECT count(*)::int, md5(string_agg(t, '' ORDER BY id)) FROM still`
  expect(await zenith.sql('prod', still)).toEqual(await primary.query(still))
  await zenith.sql('prod', `INSERT INTO moves VALUES (1500000001, 1, 1)`)
  await zenith.sql('prod', 'VACUUM money')
  await zenith.ok('tenant split --shards 6')
  expect(await zenith.sql('prod', SUMS)).toEqual([{ money: 0, odd: 1 }])
  expect(await zenith.sql('prod', still)).toEqual(await primary.query(still))
})
