/**
 * Tablespaces and whole databases as a replica sees them. It is told of neither copies nor drops but
 * by the WAL, while its caches may know relations of the same names from before.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { FILE_CACHE, Installation } from '../fixtures/installation.ts'
import { caughtUp, SMALL } from '../fixtures/replica.ts'

const SETTINGS = { ...SMALL, ...FILE_CACHE }
const SUM = `SELECT count(*) || ' ' || md5(string_agg(t, ',' ORDER BY id)) || ' ' ||
  pg_relation_size('items') / 8192 FROM items`

let zenith: Installation
let primary: Compute
let replica: Compute

beforeAll(async () => {
  zenith = await Installation.create()
  primary = await zenith.startCompute('main', { settings: SETTINGS })
  replica = await zenith.startCompute('main', { name: 'copy', mode: 'replica', settings: SETTINGS })
  const client = await primary.connect()
  await client.query('SET allow_in_place_tablespaces = on')
  await client.query("CREATE TABLESPACE fast LOCATION ''")
  await client.end()
})

afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
})

async function expectSame(database: string): Promise<void> {
  await caughtUp(replica, primary)
  expect(await replica.value(SUM, database)).toBe(await primary.value(SUM, database))
}

test('copies of databases are there as soon as one can connect', async () => {
  await primary.query('CREATE DATABASE original')
  await primary.query('CREATE TABLE items (id int PRIMARY KEY, t text) TABLESPACE fast', 'original')
  await primary.query(
    'INSERT INTO items SELECT g, md5(g::text) FROM generate_series(1, 5000) g',
    'original',
  )
  await expectSame('original')
  await primary.query('CREATE DATABASE copied TEMPLATE original STRATEGY file_copy')
  await expectSame('copied')
})

test('a database that moves away and back shows what it has, not what it had', async () => {
  await primary.query('CREATE DATABASE mobile')
  await primary.query('CREATE TABLE items (id int PRIMARY KEY, t text)', 'mobile')
  await primary.query(
    'INSERT INTO items SELECT g, md5(g::text) FROM generate_series(1, 5000) g',
    'mobile',
  )
  await expectSame('mobile')
  await primary.query('ALTER DATABASE mobile SET TABLESPACE fast')
  await expectSame('mobile')
  await primary.query('UPDATE items SET t = reverse(t)', 'mobile')
  await primary.query(
    'INSERT INTO items SELECT g, $$new$$ FROM generate_series(5001, 9000) g',
    'mobile',
  )
  await expectSame('mobile')
  await primary.query('ALTER DATABASE mobile SET TABLESPACE pg_default')
  await expectSame('mobile')
})

test('a database with the number of a dropped one shows nothing of that', async () => {
  await primary.query('CREATE DATABASE again TEMPLATE mobile STRATEGY file_copy OID 90001')
  await primary.query(
    'INSERT INTO items SELECT g, $$more$$ FROM generate_series(-9000, -1) g',
    'again',
  )
  await expectSame('again')
  await primary.query('DROP DATABASE again')
  await primary.query('CREATE DATABASE again TEMPLATE mobile STRATEGY file_copy OID 90001')
  await expectSame('again')
})

test('a replica starts with tablespaces, and forgets those that are dropped', async () => {
  await replica.stop()
  replica = await zenith.startCompute('main', { name: 'copy', mode: 'replica', settings: SETTINGS })
  await expectSame('original')
  for (const name of ['original', 'copied']) await primary.query(`DROP DATABASE ${name}`)
  await primary.query('DROP TABLESPACE fast')
  await caughtUp(replica, primary)
  expect(
    await replica.value("SELECT count(*)::int FROM pg_tablespace WHERE spcname = 'fast'"),
  ).toBe(0)
  await expectSame('mobile')
})
