/**
 * Goal: what comes into tenants of shards, and goes out of them, is whole or not there, whoever is
 * killed meanwhile.
 * Method: one stock primary under a writer whose sums must always be zero; its copies are taken in by
 * two shards on two pageservers, with the control plane killed in several phases; a pageserver is
 * killed in the middle of an export; a tenant that was imported in one piece is split.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { giveTo } from '#libs/system-user.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { type CommandResult, ZenithCommand } from '../fixtures/zenith-command.ts'

const PASSWORD = 'let-me_in'
const zenith = new ZenithCommand()
let primary: VanillaPostgres
let folder: string
let url: string

interface Imported {
  state: string
  phase: string
}

interface Named {
  name: string
}

const SUMS = `SELECT (SELECT sum(n)::int FROM money) AS money, (SELECT count(*)::int FROM moves) -
  (SELECT count(*)::int FROM moves WHERE id BETWEEN 1 AND 1000000000) AS odd`
const STILL = `SELECT count(*)::int, md5(string_agg(t, '' ORDER BY id)) FROM still`
const MOVES = 'SELECT count(*)::int AS n FROM moves'
const SLOTS = 'SELECT slot_name FROM pg_replication_slots'

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'zenith-sharded-io-'))
  giveTo(folder)
  primary = await VanillaPostgres.start({ settings: { fsync: 'off' } })
  for (const sql of [
    `CREATE ROLE replicator LOGIN REPLICATION PASSWORD '${PASSWORD}'`,
    `CREATE TABLE money (id int PRIMARY KEY, n int, pad text)`,
    `INSERT INTO money SELECT g, 0, repeat('x', 300) FROM generate_series(0, 996) g`,
    `CREATE TABLE moves (id serial PRIMARY KEY, a int, b int)`,
    // Far more than lies in the buffers of connections.
    `CREATE TABLE still AS SELECT g AS id, repeat(md5(g::text), 20) AS t
      FROM generate_series(1, 20000) g`,
  ]) {
    await primary.query(sql)
  }
  const hba = join(primary.dataDir, 'pg_hba.conf')
  const lines = readFileSync(hba, 'utf8')
  writeFileSync(hba, `host replication replicator 127.0.0.1/32 scram-sha-256\n${lines}`)
  await primary.query('SELECT pg_reload_conf()')
  url = `postgres://replicator:${PASSWORD}@127.0.0.1:${primary.port}/`
  await zenith.ok('init --pageservers 2')
  await zenith.ok('start')
})

afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
  await primary?.[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

/** Moves money around until it is told to stop. */
async function write(signal: AbortSignal): Promise<void> {
  const client = await primary.connect()
  for (let move = 0; !signal.aborted; move++) {
    const [from, to] = [move % 997, (move * 31) % 997]
    await client.query(`BEGIN; UPDATE money SET n = n - 1 WHERE id = ${from};
      UPDATE money SET n = n + 1 WHERE id = ${to};
      INSERT INTO moves (a, b) VALUES (${from}, ${to}); COMMIT`)
    if (move % 200 === 199) await client.query('CHECKPOINT')
    await sleep(2)
  }
  await client.end()
}

async function underWrites<T>(work: () => Promise<T>): Promise<T> {
  const stopping = new AbortController()
  const writing = write(stopping.signal)
  try {
    return await work()
  } finally {
    stopping.abort()
    await writing
  }
}

function kill(pidFile: string, signal: NodeJS.Signals = 'SIGKILL'): void {
  process.kill(zenith.pidOf(pidFile), signal)
}
const CONTROL = join('control', 'control.pid')
const [FIRST, SECOND] = [
  join('pageserver', 'pageserver.pid'),
  join('pageservers', 'ps2', 'pageserver.pid'),
]

const statusOf = (name: string) => zenith.json<Imported>(`import status ${name}`)

/** Staging folders of imports that pageservers have. */
function staged(): string[] {
  return ['pageserver', 'pageservers/ps2'].flatMap((one) => {
    const path = join(zenith.dir, one, 'imports')
    return existsSync(path) ? readdirSync(path) : []
  })
}

/** Folders of timelines in object storage. */
function objects(): string[] {
  const tenants = join(zenith.dir, 'object-store', 'tenants')
  return readdirSync(tenants)
    .flatMap((one) => {
      const path = join(tenants, one, 'timelines')
      return existsSync(path) ? readdirSync(path).map((name) => `${one}/${name}`) : []
    })
    .sort()
}

async function isWhole(name: string): Promise<void> {
  expect(await zenith.sql(name, SUMS)).toEqual([{ money: 0, odd: 0 }])
  expect(await zenith.sql(name, STILL)).toEqual(await primary.query(STILL))
  await zenith.sql(name, `INSERT INTO moves VALUES (1500000000, 1, 1)`)
  await zenith.sql(name, `UPDATE still SET t = 'here' WHERE id % 97 = 0`)
  expect(await zenith.sql(name, SUMS)).toEqual([{ money: 0, odd: 1 }])
}

test('imported in one piece, then split', async () => {
  await underWrites(() => zenith.ok(`import single --from ${url}`))
  const refused = await zenith.run('tenant split --shards 2')
  expect(refused.stderr).toMatch(/Branch "single" follows a stock server.*import stop single/s)
  await zenith.ok('import stop single')
  expect(await primary.query(SLOTS)).toEqual([])
  await zenith.ok('pg start single')
  await zenith.ok('tenant split --shards 2')
  await isWhole('single')
  const target = join(folder, 'single')
  await zenith.ok(`export single ${target} --no-sync`)
  await using copy = await VanillaPostgres.start({ dataDir: target })
  expect(await copy.query(SUMS)).toEqual([{ money: 0, odd: 1 }])
  expect(await copy.query(STILL)).toEqual(await zenith.sql('single', STILL))
  await zenith.ok('pg stop single')
})

test('a running primary as it is now, by two shards, the control plane killed twice', async () => {
  const [before] = await primary.query(MOVES)
  await underWrites(async () => {
    await zenith.ok(`import once --from ${url} --no-follow --no-wait`)
    const seen = new Set<string>()
    for (let { state, phase } = await statusOf('once'); state === 'running'; ) {
      if (!seen.has(phase) && seen.size < 2) {
        kill(CONTROL)
        await zenith.ok('start')
      }
      seen.add(phase)
      await sleep(200)
      ;({ state, phase } = await statusOf('once'))
    }
    expect(seen.size).toBeGreaterThan(0)
  })
  expect((await statusOf('once')).state).toBe('done')
  expect(await primary.query(SLOTS)).toEqual([])
  expect(staged()).toEqual([])
  await zenith.ok('pg start once')
  await isWhole('once')
  const [after] = await zenith.sql('once', MOVES)
  expect(Number(after?.['n'])).toBeGreaterThan(Number(before?.['n']))
  await zenith.ok('pg stop once')
})

test('given up, the control plane and a pageserver killed meanwhile: nothing is left', async () => {
  const names = async () => (await zenith.json<Named[]>('branch')).map(({ name }) => name).sort()
  const before = [await names(), objects()]
  await zenith.ok(`import never --from ${url} --no-follow --no-wait`)
  const stop = zenith.run('import stop never')
  await sleep(500)
  kill(CONTROL)
  kill(SECOND)
  await stop
  await zenith.ok('start')
  const { stderr } = await zenith.run('import stop never')
  // On a busy machine it may have been faster.
  if (stderr.includes('follows no server')) await zenith.ok('branch delete never')
  await expect.poll(async () => [await names(), objects()]).toEqual(before)
  await expect.poll(() => primary.query(SLOTS)).toEqual([])
  await expect.poll(staged).toEqual([])
})

test('an export of which a pageserver is killed says so, and leaves nothing', async () => {
  const broken = [/shard 1 of 2 at [\d.:]+: /, /connection to [\d.:]+/]
  for (const [round, victim] of [SECOND, FIRST].entries()) {
    const target = join(folder, `cut${round}`)
    const { code, stderr } = await cutShort(target, victim)
    expect(code).not.toBe(0)
    expect(stderr).toMatch(/The export of "once" at \S+ broke off: .*\nNothing of it is left/)
    expect(stderr).toMatch(broken[round] as RegExp)
    expect(existsSync(target)).toBe(false)
    await zenith.ok('start')
  }
  const target = join(folder, 'whole')
  await zenith.ok(`export once ${target} --no-sync`)
  await using copy = await VanillaPostgres.start({ dataDir: target })
  expect(await copy.query(SUMS)).toEqual([{ money: 0, odd: 1 }])
})

/** An export that is under way when a pageserver is killed; one that was faster is taken back. */
async function cutShort(target: string, victim: string): Promise<CommandResult> {
  for (;;) {
    const exporting = zenith.run(`export once ${target} --no-sync`)
    // Relations come after this.
    await expect.poll(() => existsSync(join(target, 'PG_VERSION')), { interval: 1 }).toBe(true)
    // It reads from the others and gives to the command: what is under way cannot end.
    kill(FIRST, 'SIGSTOP')
    kill(victim)
    if (victim !== FIRST) kill(FIRST, 'SIGCONT')
    const result = await exporting
    if (result.code !== 0) return result
    rmSync(target, { recursive: true })
    await zenith.ok('start')
  }
}
