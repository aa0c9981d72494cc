/** The command line: the session of the original README, wrong input, crashes, two side by side. */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { eventually } from '../fixtures/eventually.ts'
import { ZenithCommand } from '../fixtures/zenith-command.ts'

const LSN = '[0-9A-F]+/[0-9A-F]+'

interface Status {
  services: { name: string; status: string; pid: number | null; pgPort: number | null }[]
}

test('the session of the original README', async () => {
  await using zenith = new ZenithCommand({ usualPorts: true })
  const init = await zenith.ok('init')
  expect(init).toMatch(/^Created tenant [0-9a-f]{32}$/m)
  expect(init).toMatch(/^Created initial timeline [0-9a-f]{32}$/m)
  expect((await zenith.run('status')).code).toBe(3)

  await zenith.ok('start')
  const status = await zenith.json<Status>('status')
  expect(status.services.map(({ name, status: word }) => [name, word])).toEqual([
    ['control', 'running'],
    ['sk1', 'running'],
    ['pageserver', 'running'],
  ])

  const started = await zenith.ok('pg start main')
  expect(started).toMatch(/^Starting new postgres main on main\.\.\.$/m)
  expect(started).toMatch(/path=\.zenith\/pgdatadirs\/tenants\/[0-9a-f]{32}\/main port=\d+$/m)
  expect(started).toMatch(
    /^Starting postgres node at 'host=127\.0\.0\.1 port=\d+ user=zenith_admin dbname=postgres'$/m,
  )
  expect(await zenith.ok('pg list')).toMatch(
    new RegExp(`^BRANCH +ADDRESS +LSN +STATUS\\nmain +127\\.0\\.0\\.1:\\d+ +${LSN} +running\\n$`),
  )

  await zenith.sql('main', 'CREATE TABLE t (key int PRIMARY KEY, value text)')
  await zenith.sql('main', "INSERT INTO t VALUES (1, '1')")
  const created = await zenith.ok('branch migration_check main')
  expect(created).toMatch(new RegExp(`^Created branch 'migration_check' at ${LSN}\\n$`))
  const lsn = created.trim().split(' ').at(-1)
  expect(await zenith.ok('branch')).toBe(` main\n ┗━ @${lsn}: migration_check\n`)

  await zenith.ok('pg start migration_check')
  await zenith.sql('migration_check', "INSERT INTO t VALUES (2, '2')")
  expect(await zenith.sql('main', 'SELECT * FROM t')).toEqual([{ key: 1, value: '1' }])
  expect(await zenith.sql('migration_check', 'SELECT * FROM t')).toHaveLength(2)

  const stopped = await zenith.ok('stop')
  expect(stopped.split('\n').map((line) => line.replace(/ stopped.*/, ''))).toEqual([
    expect.stringMatching(/^Postgres "/),
    expect.stringMatching(/^Postgres "/),
    'Pageserver',
    'Safekeeper sk1',
    'Control plane',
    '',
  ])
  expect(await zenith.run('status')).toMatchObject({ code: 3 })
  await zenith.ok('start')
  expect(await zenith.ok('pg start migration_check')).toContain('Starting existing postgres')
  expect(await zenith.sql('migration_check', 'SELECT * FROM t')).toHaveLength(2)
  expect(await zenith.ok('timeline list')).toMatch(new RegExp(`migration_check +main@${lsn}`))
})

describe('wrong input', () => {
  test('before init, and another format: a sentence, and nothing is changed', async () => {
    await using zenith = new ZenithCommand({ usualPorts: true })
    for (const command of ['start', 'stop', 'status', 'pg list', 'branch x', 'tenant create']) {
      const { code, stderr } = await zenith.run(command)
      expect(code).toBe(3)
      expect(stderr).toContain('There is no Zenith installation in .zenith.')
      expect(stderr).toMatch(/Make one with ".*zenith init"/)
    }
    expect(existsSync(zenith.dir)).toBe(false)

    mkdirSync(zenith.dir)
    writeFileSync(join(zenith.dir, 'config.toml'), 'pageserver = "old"\n')
    for (const command of ['start', 'init', 'pg start main', 'status']) {
      const { code, stderr } = await zenith.run(command)
      expect(code).toBe(4)
      expect(stderr).toContain('.zenith was made by an older Zenith')
    }
    expect(readFileSync(join(zenith.dir, 'config.toml'), 'utf8')).toBe('pageserver = "old"\n')
    // Put away, so that the end of the test does not try to stop it.
    cpSync(zenith.dir, join(zenith.cwd, 'old'), { recursive: true })
    writeFileSync(join(zenith.dir, 'config.toml'), '')
  })

  test('a folder with other things in it is left alone', async () => {
    await using zenith = new ZenithCommand({ usualPorts: true })
    mkdirSync(zenith.dir)
    writeFileSync(join(zenith.dir, 'precious'), 'data')
    const { code, stderr } = await zenith.run('init')
    expect(code).toBe(4)
    expect(stderr).toContain('is not empty')
    expect(readFileSync(join(zenith.dir, 'precious'), 'utf8')).toBe('data')
  })

  test('wrong usage', async () => {
    await using zenith = new ZenithCommand({ usualPorts: true })
    for (const words of ['pg start --port x', 'init --safekeepers 0', 'nonsense', 'pg stop']) {
      expect(await zenith.run(words)).toMatchObject({ code: 2, stdout: '' })
    }
    expect((await zenith.run('statsu')).stderr).toContain('Did you mean status?')
    const { stderr } = await zenith.run('pg stop --json')
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'invalid_argument' } })
    expect((await zenith.run('--help')).code).toBe(0)
    expect((await zenith.run('pg start --help')).stdout).toContain('Example:')
  })

  test('branches and Postgres servers that are not as the command thinks', async () => {
    await using zenith = new ZenithCommand({ usualPorts: true })
    await zenith.ok('init')
    expect(await zenith.run('pg list')).toMatchObject({ code: 4 })
    await zenith.ok('start')
    const refusals: [string, number, RegExp][] = [
      ['init', 4, /There is a Zenith installation in \.zenith/],
      ['branch dev nosuch', 3, /There is no branch named "nosuch"/],
      ['branch dev main@0/1', 2, /LSN|LSNs|history|0\/1/],
      ['branch dev main@FFFFFFFF/0', 2, /FFFFFFFF\/0/],
      ['branch dev main@yesterday', 2, /"yesterday" is neither an LSN nor a time/],
      ['branch Dev!', 2, /"Dev!" cannot be the name of a branch/],
      ['branch main', 4, /main/],
      ['pg start nosuch', 3, /There is no branch named "nosuch"/],
      ['pg stop nosuch', 3, /There is no endpoint named "nosuch"/],
      ['pg list --tenant abc', 2, /"abc" is not a tenant id/],
      [`pg list --tenant ${'0'.repeat(32)}`, 3, /tenant/],
    ]
    for (const [words, code, sentence] of refusals) {
      const result = await zenith.run(words)
      expect([words, result.code]).toEqual([words, code])
      expect(result.stderr).toMatch(sentence)
    }
    expect(await zenith.ok('branch')).toBe(' main\n')

    await zenith.ok('pg start main')
    const second = await zenith.run('pg start other --branch main')
    expect(second.code).toBe(4)
    expect(second.stderr).toContain('has a writer already')
    expect(await zenith.json<unknown[]>('pg list')).toHaveLength(1)
    const again = await zenith.run('pg start main')
    expect(again.code).toBe(4)
    expect(again.stderr).toContain('running already')
    expect((await zenith.run('pg destroy main')).code).toBe(4)
    await zenith.ok('pg stop main')
    expect(await zenith.ok('pg stop main')).toContain('is not running')
    await zenith.ok('pg destroy main')
    expect(existsSync(join(zenith.dir, 'pgdatadirs', 'tenants', 'main'))).toBe(false)
    // The data were never there.
    await zenith.ok('pg start main')
  })
})

test('a crashed service is named with the end of its log; start after a power cut works', async () => {
  await using zenith = new ZenithCommand({ usualPorts: true })
  await zenith.ok('init')
  await zenith.ok('start')
  await zenith.ok('pg start main')
  await zenith.sql('main', 'CREATE TABLE t AS SELECT 1 AS one')
  process.kill(zenith.pidOf('pageserver/pageserver.pid'), 'SIGKILL')
  await expect.poll(async () => (await zenith.run('status')).code).toBe(1)
  const { stdout } = await zenith.run('status')
  expect(stdout).toContain('The pageserver has crashed')
  expect(stdout).toContain('Its log, .zenith/pageserver/pageserver.log, ends:')
  expect(await zenith.ok('start')).toContain('Control plane is running already')
  expect((await zenith.run('status')).code).toBe(0)
  expect(await zenith.sql('main', 'SELECT * FROM t')).toEqual([{ one: 1 }])

  const status = await zenith.json<Status>('status')
  for (const { pid } of status.services) if (pid !== null) process.kill(pid, 'SIGKILL')
  process.kill(zenith.pidOf(`pgdatadirs/tenants/${zenith.tenantId}/main/compute.pid`), 'SIGKILL')
  await zenith.ok('start')
  await zenith.ok('pg start main')
  expect(await zenith.sql('main', 'SELECT * FROM t')).toEqual([{ one: 1 }])
})

test('two installations side by side; ports', async () => {
  await using one = new ZenithCommand({ usualPorts: true })
  await using two = new ZenithCommand({ usualPorts: true })
  await one.ok('init')
  await one.ok('start')
  // Nobody asked for a port, so the second takes the next free ones and says so.
  expect(await two.ok('init')).toMatch(/^Port \d+ \(control plane, HTTP\) is taken; using \d+\.$/m)
  await two.ok('start')
  await one.ok('pg start main')
  await two.ok('pg start main')
  await one.sql('main', 'CREATE TABLE only_in_one ()')
  await expect(two.sql('main', 'SELECT * FROM only_in_one')).rejects.toThrow('does not exist')
  await one.ok('stop')
  expect((await two.run('status')).code).toBe(0)

  const taken = await listen()
  const { port } = taken.address() as { port: number }
  await using three = new ZenithCommand({ usualPorts: true })
  const refused = await three.run(`init --pageserver-port ${port}`)
  expect(refused.code).toBe(4)
  expect(refused.stderr).toContain(`Port ${port} (pageserver, pages) is taken`)
  const busy = await two.run(`pg start dev --branch main --port ${port}`)
  expect(busy.code).toBe(4)
  taken.close()

  // Another program takes the port between the look whether it is free and Postgres' start.
  await two.ok('branch dev')
  const specFile = join(two.dir, 'pgdatadirs', 'tenants', two.tenantId, 'dev', 'spec.json')
  const start = async () => {
    const [text, server] = await Promise.all([two.ok('pg start dev'), takePortOf(specFile)])
    if (server !== null) return { text, ...server }
    await two.ok('pg stop dev')
    await two.ok('pg destroy dev')
    return null
  }
  const thief = await eventually(start, 'the other program to be first')
  expect(thief.text).toContain(`just taken port ${thief.port}`)
  expect(await two.sql('dev', 'SELECT 1 AS one')).toEqual([{ one: 1 }])
  thief.server.close()
})

test('two commands at once on one installation come one after the other', async () => {
  await using zenith = new ZenithCommand({ usualPorts: true })
  await zenith.ok('init')
  const results = await Promise.all([zenith.run('start'), zenith.run('start')])
  expect(results.map(({ code }) => code)).toEqual([0, 0])
  const lines = results.map(({ stdout }) => stdout).join('')
  expect(lines.match(/Pageserver started/g)).toHaveLength(1)
  expect(lines.match(/Pageserver is running already/g)).toHaveLength(1)
})

test('tenants share nothing', async () => {
  await using zenith = new ZenithCommand({ usualPorts: true })
  await zenith.ok('init --pageservers 2')
  await zenith.ok('start')
  const other = 'a'.repeat(32)
  await zenith.ok(`tenant create ${other}`)
  expect(await zenith.ok('tenant list')).toContain(other)
  await zenith.ok('branch dev')
  expect(await zenith.ok(`branch --tenant ${other}`)).toBe(' main\n')

  // One of them is split, over both pageservers.
  expect(await zenith.ok(`tenant set --split-size 1GB --max-shards 4 --tenant ${other}`)).toBe(
    'A shard with more than 1GB is split by itself: up to 4.\n',
  )
  const split = `tenant split --shards 2 --tenant ${other}`
  expect(await zenith.ok(split)).toMatch(
    /^ {2}(hold|attach)[^]* {2}shard 1: ps2 -> pageserver: [^]*The tenant has 2 shards now\.\n/,
  )
  expect(await zenith.ok(split)).toContain('The tenant has 2 shards already.')
  expect(await zenith.run(`tenant split --shards 3 --tenant ${other}`)).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('It has 2 shards; there can be 2, 3 or more times as many'),
  })
  expect(await zenith.ok(`tenant show --tenant ${other}`)).toMatch(
    /^It has 2 shards at pageserver, ps2.*\nA shard .* up to 4\.\nSplit from 1 to 2 at 20/m,
  )
  expect(await zenith.json('tenant show')).toMatchObject({
    sharding: { shards: 1, shardBytes: 64 * 1024 ** 3, maxShards: null, mostShards: 2 },
  })

  // Nor their end: all of the one goes, the other one stays as it is.
  await zenith.ok(`pg start main --tenant ${other}`)
  expect(await zenith.run(`tenant delete ${other}`)).toMatchObject({
    code: 4,
    stderr: expect.stringContaining(`zenith pg stop main --tenant ${other}), or add --force`),
  })
  expect(await zenith.ok(`tenant delete ${other} --force`)).toBe(
    `Deleted tenant ${other}. Nothing of it is left.\n`,
  )
  expect(existsSync(join(zenith.dir, 'pgdatadirs', 'tenants', other))).toBe(false)
  expect(await zenith.ok('tenant list')).not.toContain(other)
  expect(await zenith.ok('branch')).toContain('dev')
  const refused = await zenith.run('tenant delete default')
  expect(refused).toMatchObject({ code: 4, stderr: expect.stringContaining('--even-default') })
  expect(await zenith.json(`tenant delete default --even-default`)).toMatchObject({
    tenantId: zenith.tenantId,
    state: 'deleted',
  })
  expect(await zenith.json('tenant list')).toEqual([])
  expect(await zenith.ok('storage check')).toContain('0 timelines of 0 tenants')
})

function listen(port = 0): Promise<Server> {
  const server = createServer()
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => resolve(server))
  })
}

/**
 * Listens on the port that a compute is told, before its Postgres comes up; null when that was there
 * first, as on a busy machine.
 */
async function takePortOf(specFile: string): Promise<{ server: Server; port: number } | null> {
  for (;;) {
    const spec = existsSync(specFile) ? readFileSync(specFile, 'utf8') : ''
    if (spec.endsWith('}\n')) {
      const { port } = JSON.parse(spec) as { port: number }
      const server = await listen(port).catch(() => null)
      return server && { server, port }
    }
    await sleep(2)
  }
}
