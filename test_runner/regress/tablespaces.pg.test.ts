/**
 * Tablespaces. Their relations are at the pageserver like all others, so what is tested is what
 * Postgres takes from folders: restarts and branches have them, DROP TABLESPACE knows when a
 * tablespace is empty, and stock Postgres replays the WAL and starts from a full backup.
 */
import { existsSync, mkdtempSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'

const ROWS = 2000

let zenith: Installation
let compute: Compute

beforeAll(async () => {
  zenith = await Installation.create()
  compute = await zenith.startCompute('main')
})

afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
})

async function createTablespace(name: string): Promise<number> {
  const client = await compute.connect()
  await client.query('SET allow_in_place_tablespaces = on')
  await client.query(`CREATE TABLESPACE ${name} LOCATION ''`)
  await client.end()
  return Number(await compute.value(`SELECT oid FROM pg_tablespace WHERE spcname = '${name}'`))
}

/** Throws the compute's folder away and starts another one. */
async function restart(how: 'stop' | 'kill' = 'stop'): Promise<void> {
  await compute[how]()
  compute = await zenith.startCompute('main')
}

const folder = (spc: number) => join(compute.dataFolder, 'pg_tblspc', String(spc))

describe('relations in a tablespace', () => {
  test('are there after a restart, with indexes, unlogged and temporary ones', async () => {
    const spc = await createTablespace('fast')
    await compute.query(`CREATE TABLE kept (id int PRIMARY KEY USING INDEX TABLESPACE fast, t text)
      TABLESPACE fast`)
    await compute.query(
      `INSERT INTO kept SELECT g, repeat('x', 500) FROM generate_series(1, ${ROWS}) g`,
    )
    await compute.query('CREATE UNLOGGED TABLE scratch (id int) TABLESPACE fast')
    await compute.query('INSERT INTO scratch SELECT generate_series(1, 100)')
    const path = await compute.value("SELECT pg_relation_filepath('kept')")
    expect(path).toContain(`pg_tblspc/${spc}/PG_17_`)
    expect(await compute.value(`SELECT pg_tablespace_location(${spc})`)).toBe(`pg_tblspc/${spc}`)

    await restart('kill')
    expect(await compute.value('SELECT count(*)::int FROM kept')).toBe(ROWS)
    expect(await compute.value('SELECT id FROM kept WHERE id = 77')).toBe(77)
    expect(await compute.value('SELECT count(*)::int FROM scratch')).toBe(0)
    await compute.query('INSERT INTO scratch VALUES (1)')
    const client = await compute.connect()
    await client.query(
      "SET temp_tablespaces = 'fast'; CREATE TEMP TABLE mine AS SELECT * FROM kept",
    )
    const { rows } = await client.query('SELECT count(*)::int AS n FROM mine')
    expect(rows).toEqual([{ n: ROWS }])
    await client.end()
  })

  test('are told by size, as pg_tablespace_size and psql show it', async () => {
    const size = Number(await compute.value("SELECT pg_tablespace_size('fast')"))
    const table = Number(await compute.value("SELECT pg_total_relation_size('kept')"))
    expect(size).toBeGreaterThanOrEqual(table)
    expect(size).toBeLessThan(table + 200_000)
    const whole = Number(await compute.value("SELECT pg_tablespace_size('pg_default')"))
    expect(whole).toBeGreaterThan(7_000_000)
    expect(Number(await compute.value("SELECT pg_tablespace_size('pg_global')"))).toBeGreaterThan(
      100_000,
    )
    expect(await compute.value('SELECT pg_tablespace_size(4711::oid)')).toBeNull()
    expect(await compute.psql('\\db+')).toMatch(/fast\|zenith_admin\|pg_tblspc\/\d+\|\|\|\d+ kB\|/)
    const [{ databases } = {}] = await compute.query(
      `SELECT array_agg(datname::text) AS databases FROM pg_database WHERE oid IN
        (SELECT pg_tablespace_databases(oid) FROM pg_tablespace WHERE spcname = 'fast')`,
    )
    expect(databases).toEqual(['postgres'])
  })

  test('keep it from being dropped, also after a restart, until the last one is gone', async () => {
    const drop = () => compute.query('DROP TABLESPACE fast')
    await expect(drop()).rejects.toThrow('tablespace "fast" is not empty')
    await compute.query('DROP TABLE scratch')
    await restart()
    await expect(drop()).rejects.toThrow('tablespace "fast" is not empty')
    await compute.query('ALTER TABLE kept SET TABLESPACE pg_default')
    await expect(drop()).rejects.toThrow('tablespace "fast" is not empty')
    await compute.query('ALTER INDEX kept_pkey SET TABLESPACE pg_default')
    expect(await compute.value('SELECT count(*)::int FROM kept')).toBe(ROWS)
    const spc = Number(await compute.value("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'"))
    await drop()
    expect(existsSync(folder(spc))).toBe(false)
    await restart()
    expect(existsSync(folder(spc))).toBe(false)
    expect(await compute.value('SELECT count(*)::int FROM kept')).toBe(ROWS)
  })

  test('that a running transaction creates keep it, too', async () => {
    await createTablespace('busy')
    const client = await compute.connect()
    await client.query('BEGIN; CREATE TABLE pending (id int) TABLESPACE busy')
    await expect(compute.query('DROP TABLESPACE busy')).rejects.toThrow('"busy" is not empty')
    await client.query('ROLLBACK')
    await client.end()
    await compute.query('DROP TABLESPACE busy')
  })
})

test('a branch inherits tablespaces, and either side may drop its own', async () => {
  const spc = await createTablespace('shared')
  await compute.query('CREATE TABLE in_both TABLESPACE shared AS SELECT 1 AS id')
  await zenith.createBranch('child', { from: 'main' })
  const child = await zenith.startCompute('child')
  expect(await child.value('SELECT id FROM in_both')).toBe(1)
  await child.query('CREATE TABLE more TABLESPACE shared AS SELECT 2 AS id')
  await child.query('DROP TABLE in_both, more; DROP TABLE IF EXISTS kept')
  await child.query('DROP TABLESPACE shared')
  expect(existsSync(join(child.dataFolder, 'pg_tblspc', String(spc)))).toBe(false)
  await child.stop()
  await expect(compute.query('DROP TABLESPACE shared')).rejects.toThrow('is not empty')
  await restart()
  expect(await compute.value('SELECT id FROM in_both')).toBe(1)
  await compute.query('DROP TABLE in_both')
  await compute.query('DROP TABLESPACE shared')
})

describe('a location', () => {
  test('that exists is noted, and not used', async () => {
    const place = mkdtempSync(join(tmpdir(), 'zenith-tablespace-'))
    const client = await compute.connect()
    const notices: string[] = []
    client.on('notice', (notice) => notices.push(notice.message ?? ''))
    await client.query(`CREATE TABLESPACE elsewhere LOCATION '${place}'`)
    await client.end()
    expect(notices).toEqual([`location "${place}" is not used`])
    await compute.query('CREATE TABLE there TABLESPACE elsewhere AS SELECT 5 AS id')
    rmdirSync(place)
    await restart()
    expect(await compute.value('SELECT id FROM there')).toBe(5)
    expect(await compute.value('SHOW allow_in_place_tablespaces')).toBe('off')
    const { stdout } = await compute.tool('pg_dumpall', ['--tablespaces-only'])
    expect(stdout).toContain("CREATE TABLESPACE elsewhere OWNER zenith_admin LOCATION '';")
    await compute.query('DROP TABLE there')
    await compute.query('DROP TABLESPACE elsewhere')
  })

  test.each([
    ["'relative'", '42P17', 'must be an absolute path'],
    ["''", '42P17', 'must be an absolute path'],
    ["'/no/such/location'", '58P01', 'directory "/no/such/location" does not exist'],
    ["'/with''quote'", '42602', 'cannot contain single quotes'],
  ])('%s is refused as by stock Postgres', async (location, code, message) => {
    await expect(
      compute.query(`CREATE TABLESPACE wrong LOCATION ${location}`),
    ).rejects.toMatchObject({ code, message: expect.stringContaining(message) })
  })

  test('is for superusers', async () => {
    await compute.query('CREATE ROLE plain LOGIN')
    const client = await compute.connect()
    await client.query('SET ROLE plain')
    await expect(client.query("CREATE TABLESPACE mine LOCATION '/tmp'")).rejects.toMatchObject({
      code: '42501',
      hint: 'Must be superuser to create a tablespace.',
    })
    await client.end()
  })
})
