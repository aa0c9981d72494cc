/**
 * Settings of an endpoint: by the command line and by ALTER SYSTEM. Both belong to the endpoint, so
 * they outlive the compute's data folder; what Zenith rests on cannot be changed by either.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import type { StoredSizeLimit } from '#libs/api/size-limit.ts'
import { Installation } from '../fixtures/installation.ts'
import { until } from '../fixtures/replica.ts'
import { ZenithCommand } from '../fixtures/zenith-command.ts'

interface Shown {
  name: string
  value: string
  source: string
}

const MEGABYTE = 1024 * 1024

describe('ALTER SYSTEM and the limit of a tenant', () => {
  let zenith: Installation
  beforeAll(async () => {
    zenith = await Installation.create()
  })
  afterAll(async () => {
    await zenith[Symbol.asyncDispose]()
  })

  test('survives a kill right after it returned, a clean stop, and lost folders', async () => {
    const first = await zenith.startCompute()
    await first.query("ALTER SYSTEM SET work_mem = '7654kB'")
    await first.query(`ALTER SYSTEM SET log_line_prefix = 'it''s \\ % '`)
    await first.query('ALTER SYSTEM SET max_connections = 61')
    await first.kill()
    first.deleteData()

    const second = await zenith.startCompute()
    expect(await second.value('SHOW work_mem')).toBe('7654kB')
    expect(await second.value('SHOW log_line_prefix')).toBe("it's \\ % ")
    expect(await second.value('SHOW max_connections')).toBe('61')
    expect(
      await second.value("SELECT sourcefile FROM pg_settings WHERE name = 'work_mem'"),
    ).toMatch(/postgresql\.auto\.conf$/)
    await second.query('ALTER SYSTEM RESET max_connections')
    expect(await second.stop()).toBe(0)
    second.deleteData()

    const third = await zenith.startCompute()
    expect(await third.value('SHOW work_mem')).toBe('7654kB')
    expect(await third.value('SHOW max_connections')).toBe('100')
    await third.query('ALTER SYSTEM RESET ALL')
    await third.kill()

    const fourth = await zenith.startCompute()
    expect(await fourth.value('SHOW work_mem')).toBe('4MB')
    expect(await fourth.stop()).toBe(0)
  })

  test('of many sessions at once: everything that was answered is there after a kill', async () => {
    const compute = await zenith.startCompute()
    const names = Array.from({ length: 24 }, (_, index) => `many.setting_${index}`)
    await Promise.all(
      names.map((name, index) => compute.query(`ALTER SYSTEM SET ${name} = 'v${index}'`)),
    )
    await compute.kill()
    const again = await zenith.startCompute()
    for (const [index, name] of names.entries()) {
      expect(await again.value(`SHOW ${name}`)).toBe(`v${index}`)
    }
    await again.query('ALTER SYSTEM RESET ALL')
    expect(await again.stop()).toBe(0)
  })

  test('is refused for what Zenith rests on, and says so', async () => {
    const compute = await zenith.startCompute()
    const refused = [
      "synchronous_standby_names = ''",
      'fsync = on',
      '"FULL_PAGE_WRITES" = on',
      'port = 5432',
      "zenith.tenant_id = ''",
      "zenith.pageserver_connstring = ''",
      "primary_conninfo = 'host=x'",
      'wal_level = minimal',
      'max_wal_senders = 0',
    ]
    for (const setting of refused) {
      const failed = await compute.query(`ALTER SYSTEM SET ${setting}`).then(
        () => null,
        (error: { code: string; hint: string; detail: string }) => error,
      )
      expect([setting, failed?.code]).toEqual([setting, '55P02'])
      expect(failed?.hint).toBeTruthy()
      expect(failed?.detail).toBeTruthy()
    }
    expect(
      await compute.value("SELECT count(*) FROM pg_file_settings WHERE sourcefile ~ 'auto'"),
    ).toBe('0')
    // Back to the default is always possible, and so is what is ours but harmless.
    await compute.query('ALTER SYSTEM RESET fsync')
    await compute.query('ALTER SYSTEM SET zenith.readahead_pages = 64')
    await compute.query('ALTER SYSTEM RESET ALL')
    expect(await compute.stop()).toBe(0)
  })

  test('fails while the control plane is down, and lasts when it is repeated', async () => {
    const compute = await zenith.startCompute()
    await zenith.control.stop('SIGKILL')
    await expect(compute.query("ALTER SYSTEM SET work_mem = '5MB'")).rejects.toMatchObject({
      code: '08006',
      message: 'what ALTER SYSTEM has set could not be kept',
    })
    await zenith.start()
    await compute.query("ALTER SYSTEM SET work_mem = '6MB'")
    await compute.kill()
    const again = await zenith.startCompute()
    expect(await again.value('SHOW work_mem')).toBe('6MB')
    await again.query('ALTER SYSTEM RESET ALL')
    expect(await again.stop()).toBe(0)
  })

  test('beyond the size limit of its tenant nothing grows until something is dropped', async () => {
    const compute = await zenith.startCompute()
    const params = { tenantId: zenith.tenantId }
    const setLimit = (maxBytes: number | null): Promise<StoredSizeLimit> =>
      callControl(zenith.controlUrl, 'setSizeLimit', { params, body: { maxBytes } })
    const size = async () =>
      Number(await compute.value('SELECT sum(pg_database_size(oid)) FROM pg_database'))
    const limited = async (megabytes: number) =>
      until('the limit is in force', async () => {
        const shown = await compute.value(
          `SELECT setting FROM pg_settings WHERE name = 'zenith.max_cluster_size'`,
        )
        return shown === String(megabytes)
      })
    const fill = (table: string, rows: number) =>
      compute.query(
        `INSERT INTO ${table} SELECT n, repeat('x', 1000) FROM generate_series(1, ${rows}) AS n`,
      )
    const refusal = { code: '53100', hint: expect.stringContaining('--max-size') }

    for (const table of ['kept', 'spare']) {
      await compute.query(`CREATE TABLE ${table} (id int, v text, u int UNIQUE)`)
      await fill(`${table} (id, v)`, 3000)
    }
    const limit = Math.ceil((await size()) / MEGABYTE) + 6
    expect(await setLimit(limit * MEGABYTE)).toEqual({ maxBytes: limit * MEGABYTE, behind: [] })
    await limited(limit)

    // Six megabytes are left.
    await fill('kept (id, v)', 3000)
    await expect(fill('kept (id, v)', 6000)).rejects.toMatchObject({
      ...refusal,
      message: `the databases of this branch have reached their size limit of ${limit} MB`,
    })
    expect(await size()).toBeLessThan((limit + 1) * MEGABYTE)
    await expect(compute.query('CREATE DATABASE other')).rejects.toMatchObject(refusal)
    await expect(
      compute.query(`SELECT lo_from_bytea(0, convert_to(repeat('x', 2000000), 'UTF8'))`),
    ).rejects.toMatchObject(refusal)

    // What does not make it larger, is a file of the compute, or describes something, goes on.
    const client = await compute.connect()
    await client.query('CREATE TEMPORARY TABLE own (id int PRIMARY KEY, v text)')
    await client.query(
      `INSERT INTO own SELECT n, repeat('x', 1000) FROM generate_series(1, 2000) AS n`,
    )
    await client.end()
    await compute.query('CREATE UNLOGGED TABLE loose (id int, v text)')
    await fill('loose (id, v)', 2000)
    await compute.query('DELETE FROM kept WHERE id > 2500')
    await compute.query('VACUUM ANALYZE kept')
    await fill('kept (id, v)', 300)
    await compute.query('UPDATE kept SET id = -id WHERE id <= 10')

    // Each of these makes room at once.
    await compute.query('TRUNCATE kept')
    await fill('kept (id, v)', 5000)
    await expect(fill('kept (id, v)', 6000)).rejects.toMatchObject(refusal)
    await compute.query('DROP TABLE spare')
    await fill('kept (id, v)', 2000)

    // A server's own setting comes before that of its tenant, and both outlive it.
    await expect(fill('kept (id, v)', 6000)).rejects.toMatchObject(refusal)
    const endpoint = { params: { ...params, name: 'main' } }
    const setting = { 'zenith.max_cluster_size': '0' }
    await callControl(zenith.controlUrl, 'changeSettings', { ...endpoint, body: { set: setting } })
    await limited(0)
    await fill('kept (id, v)', 1000)
    await compute.kill()
    await callControl(zenith.controlUrl, 'changeSettings', {
      ...endpoint,
      body: { resetAll: true },
    })
    const again = await zenith.startCompute()
    expect(await again.value('SHOW zenith.max_cluster_size')).toBe(`${limit}MB`)
    await expect(
      again.query(`INSERT INTO kept SELECT n, repeat('x', 1000) FROM generate_series(1, 6000) n`),
    ).rejects.toMatchObject(refusal)
    await setLimit(null)
    await until('the limit is gone', async () => {
      return (await again.value('SHOW zenith.max_cluster_size')) === '0'
    })
    await again.query(
      `INSERT INTO kept SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) n`,
    )
    expect(await again.stop()).toBe(0)
  })
})

test('settings by the command line', async () => {
  await using zenith = new ZenithCommand()
  await zenith.ok('init')
  await zenith.ok('start')
  const shown = () => zenith.json<Shown[]>('pg settings main')
  const value = async (name: string) =>
    Object.values((await zenith.sql('main', `SHOW ${name}`))[0] ?? {})[0]

  // Refused with Postgres' own words, and nothing is stored.
  const refusals: [string, number, RegExp][] = [
    ['pg create main --set nonsense=1', 2, /unrecognized configuration parameter "nonsense"/],
    ['pg create main --set work_mem=lots', 2, /invalid value for parameter "work_mem": "lots"/],
    ['pg create main --set fsync=on', 4, /"fsync" cannot be set: commits are made durable by/],
    ['pg create main --set shared_preload_libraries=nosuch', 2, /no library "nosuch"/],
    ['pg create main --set max_wal_senders=0', 4, /"max_wal_senders" cannot be set: WAL is sent/],
    ['pg create main --set work_mem', 2, /name=value/],
  ]
  for (const [words, code, text] of refusals) {
    const result = await zenith.run(words)
    expect([words, result.code]).toEqual([words, code])
    expect(result.stderr).toMatch(text)
  }
  expect(await zenith.json('pg list')).toEqual([])

  await zenith.ok('pg create main --set work_mem=9MB --set max_connections=77')
  await zenith.ok('pg start main')
  expect([await value('work_mem'), await value('max_connections')]).toEqual(['9MB', '77'])

  // While it runs: at once where possible, else with a hint.
  expect(await zenith.ok('pg set main work_mem=10MB')).toMatch(/which runs with them/)
  expect(await value('work_mem')).toBe('10MB')
  const hint = await zenith.ok(
    'pg set main shared_preload_libraries=pg_stat_statements max_connections=78',
  )
  expect(hint).toMatch(/restart is needed for max_connections, shared_preload_libraries/)
  await expect(zenith.ok('pg set main work_mem=1EB')).rejects.toThrow(/invalid value for parameter/)

  // ALTER SYSTEM wins over it, and a later word of the command line over ALTER SYSTEM.
  await zenith.sql('main', "ALTER SYSTEM SET work_mem = '11MB'")
  expect(await shown()).toEqual([
    { name: 'max_connections', value: '78', source: 'zenith pg set' },
    {
      name: 'shared_preload_libraries',
      value: 'pg_stat_statements',
      source: 'zenith pg set',
    },
    { name: 'work_mem', value: '11MB', source: 'ALTER SYSTEM' },
  ])
  await zenith.ok('pg set main work_mem=12MB')
  expect(await value('work_mem')).toBe('12MB')
  await zenith.ok('pg stop main')
  await zenith.ok('pg start main')
  expect([await value('work_mem'), await value('max_connections')]).toEqual(['12MB', '78'])
  expect(await value('shared_preload_libraries')).toBe('zenith,pg_stat_statements')

  // ALTER SYSTEM extends what is preloaded as well; ours stays.
  await zenith.sql('main', "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain'")
  await zenith.ok('pg stop main')
  await zenith.ok('pg start main')
  expect(await value('shared_preload_libraries')).toBe('zenith,auto_explain')

  // A setting that keeps Postgres from starting is named, with the way back.
  await zenith.sql('main', "ALTER SYSTEM SET shared_preload_libraries = 'nosuch_library'")
  await zenith.ok('pg stop main')
  const failed = await zenith.run('pg start main')
  expect(failed.code).toBe(1)
  expect(failed.stderr).toMatch(/could not access file "nosuch_library"/)
  expect(failed.stderr).toMatch(/shared_preload_libraries=nosuch_library/)
  expect(failed.stderr).toMatch(/zenith pg set main --reset <setting>/)
  await zenith.ok('pg set main shared_preload_libraries=default')
  await zenith.ok('pg start main')
  expect(await value('shared_preload_libraries')).toBe('zenith')

  // One that keeps every session out can be put back while the server runs.
  await zenith.sql('main', "ALTER SYSTEM SET session_preload_libraries = 'nosuch_library'")
  await zenith.sql('main', 'SELECT pg_reload_conf()')
  await expect.poll(() => value('work_mem').catch(String)).toMatch(/could not access file/)
  await zenith.ok('pg set main --reset session_preload_libraries')
  expect(await value('session_preload_libraries')).toBe('')
  expect(await zenith.ok('pg set main --reset-all')).toMatch(
    /restart is needed for max_connections/,
  )
  expect(await value('work_mem')).toBe('4MB')
  expect(await zenith.ok('pg settings main')).toBe('Postgres main has the default settings.\n')
})
