/**
 * A compute as the subscriber of logical replication: it is applied once what the publisher has
 * sent, and the publisher is told to forget only what a quorum has.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'
import { caughtUp, conninfo, copied, eventually, value } from '../fixtures/logical-peers.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

const SETTINGS = { wal_retrieve_retry_interval: '200ms', max_worker_processes: '16' }
const LEDGER_TABLES = `
  CREATE TABLE ledger (client int, seq bigint, at timestamptz DEFAULT now());
  CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL)`
const LEDGER_CONTENTS = 'SELECT client, seq, at FROM ledger ORDER BY client, seq, at'
/** A slot that is dropped is missing for moments only, unless a crash came just then. */
const CUT_OFF_MS = 5_000
const ORIGIN = `SELECT remote_lsn FROM pg_replication_origin_status
  JOIN pg_subscription s ON external_id = 'pg_' || s.oid`

let zenith: Installation
let compute: Compute
let publisher: VanillaPostgres
let ledger: Ledger

beforeAll(async () => {
  zenith = await Installation.create()
  publisher = await VanillaPostgres.start({
    settings: { wal_level: 'logical', fsync: 'off', max_prepared_transactions: '8' },
  })
  ledger = new Ledger(() => publisher.connect(), 3)
  await ledger.createTables()
  await publisher.query('CREATE TABLE marks (n int)')
  await publisher.query('CREATE PUBLICATION everything FOR ALL TABLES')
  compute = await zenith.startCompute('main', { settings: SETTINGS })
  await compute.query(`${LEDGER_TABLES}; CREATE TABLE marks (n int)`)
})

afterAll(async () => {
  await ledger?.stop()
  await publisher?.[Symbol.asyncDispose]()
  await zenith?.[Symbol.asyncDispose]()
})

async function restart(how: 'stop' | 'kill'): Promise<void> {
  if (how === 'stop') expect(await compute.stop()).toBe(0)
  else await compute.kill()
  compute = await zenith.startCompute('main', { settings: SETTINGS })
}

/**
 * Stock Postgres does not get over a crash between two moments of a copy: its slot is dropped at the
 * publisher, and then the subscriber's commit says that it is done (process_syncing_tables_for_sync in
 * tablesync.c). Nobody makes that slot again. So a copy that stays without one has to begin anew.
 */
async function isCutOff(): Promise<boolean> {
  const deadline = Date.now() + CUT_OFF_MS
  while (Date.now() < deadline) {
    const slots = await value(
      publisher,
      'SELECT array_agg(slot_name)::text FROM pg_replication_slots',
    )
    const lost = await compute.value(`SELECT count(*)::int FROM pg_subscription_rel,
        pg_control_system() WHERE srsubstate = 'f' AND
        format('pg_%s_sync_%s_%s', srsubid, srrelid, system_identifier) <> ALL ('${String(slots)}')`)
    if (lost === 0) return false
    await sleep(100)
  }
  return true
}

it('copies tables although it is killed meanwhile', async () => {
  ledger.start()
  await ledger.progress(100, 60_000)
  for (let attempts = 1; ; attempts++) {
    await compute.query(`CREATE SUBSCRIPTION fed CONNECTION '${conninfo(publisher)}'
      PUBLICATION everything WITH (two_phase = true)`)
    await restart('kill')
    await ledger.progress(50, 60_000)
    await restart('kill')
    if (!(await isCutOff())) break
    expect(attempts).toBeLessThan(3)
    await compute.query('DROP SUBSCRIPTION fed')
    await compute.query('TRUNCATE ledger, account, marks')
  }
  await copied(compute)
  await ledger.stop()
  await caughtUp(publisher, 'fed')
  expect(await compute.query(LEDGER_CONTENTS)).toEqual(await publisher.query(LEDGER_CONTENTS))
})

it('applies every transaction once, across clean stops and kills under load', async () => {
  ledger.start()
  for (const how of ['stop', 'kill', 'kill', 'stop', 'kill', 'kill', 'stop', 'kill'] as const) {
    await ledger.progress(60, 60_000)
    await restart(how)
  }
  await ledger.progress(60, 60_000)
  await ledger.stop()
  await caughtUp(publisher, 'fed')
  expect(await compute.query(LEDGER_CONTENTS)).toEqual(await publisher.query(LEDGER_CONTENTS))
  const accounts = 'SELECT * FROM account ORDER BY id'
  expect(await compute.query(accounts)).toEqual(await publisher.query(accounts))
})

it('keeps its origin over a stop, also one that a prepared transaction moved', async () => {
  const client = await publisher.connect()
  await client.query('BEGIN')
  await client.query('INSERT INTO marks VALUES (1)')
  await client.query(`PREPARE TRANSACTION 'marked'`)
  await client.end()
  await caughtUp(publisher, 'fed')
  await eventually(compute, 'SELECT count(*) = 1 FROM pg_prepared_xacts', 'the transaction here')
  const before = await compute.value(ORIGIN)
  expect(before).toMatch(/^[0-9A-F]+\/[0-9A-F]+$/)
  await publisher.stop('SIGINT')
  await restart('kill')
  expect(await compute.value(ORIGIN)).toBe(before)
  await restart('stop')
  expect(await compute.value(ORIGIN)).toBe(before)
  await publisher.start()
  await publisher.query(`COMMIT PREPARED 'marked'`)
  await caughtUp(publisher, 'fed')
  expect(await compute.query('SELECT n FROM marks')).toEqual([{ n: 1 }])
})

it('reports nothing as flushed that no quorum has', async () => {
  await caughtUp(publisher, 'fed')
  const pids = zenith.safekeepers.map(({ pid }) => pid as number)
  for (const pid of pids) process.kill(pid, 'SIGSTOP')
  try {
    await publisher.query('INSERT INTO marks VALUES (2)')
    const lsn = String(await value(publisher, 'SELECT pg_current_wal_flush_lsn()'))
    await eventually(compute, 'SELECT count(*) = 1 FROM marks WHERE n = 2', 'the row, applied')
    await sleep(2_000)
    const passed = `SELECT confirmed_flush_lsn >= '${lsn}'::pg_lsn FROM pg_replication_slots`
    expect(await value(publisher, passed)).toBe(false)
    // The row is lost with the compute. The publisher must still have it.
    await compute.kill()
  } finally {
    for (const pid of pids) process.kill(pid, 'SIGCONT')
  }
  compute = await zenith.startCompute('main', { settings: SETTINGS })
  await caughtUp(publisher, 'fed')
  expect(await compute.query('SELECT n FROM marks ORDER BY n')).toEqual([{ n: 1 }, { n: 2 }])
})

it('follows a compute of another branch', async () => {
  await compute.query('ALTER SUBSCRIPTION fed DISABLE')
  await compute.query('CREATE TABLE shared (n int)')
  await zenith.createBranch('reader', { from: 'main' })
  const settings = { ...SETTINGS, wal_level: 'logical' }
  await compute.stop()
  compute = await zenith.startCompute('main', { settings })
  await compute.query('CREATE PUBLICATION out FOR TABLE shared')
  let reader = await zenith.startCompute('reader', { settings: SETTINGS })
  // Origins are inherited with the data that came from them.
  expect(await reader.value(ORIGIN)).toBe(await compute.value(ORIGIN))
  await reader.query(`CREATE SUBSCRIPTION branch_feed CONNECTION '${conninfo(compute)}'
    PUBLICATION out`)
  await eventually(
    reader,
    `SELECT srsubstate = 'r' FROM pg_subscription_rel r
    JOIN pg_subscription s ON s.oid = srsubid WHERE subname = 'branch_feed'`,
    'the copy',
  )
  for (let n = 0; n < 6; n++) {
    await compute.query(`INSERT INTO shared VALUES (${n})`)
    if (n % 3 === 1) {
      await reader.kill()
      reader = await zenith.startCompute('reader', { settings: SETTINGS })
    }
    if (n % 3 === 2) {
      await compute.kill()
      compute = await zenith.startCompute('main', { settings })
    }
  }
  await caughtUp(compute, 'branch_feed')
  const rows = 'SELECT n FROM shared ORDER BY n'
  expect(await reader.query(rows)).toEqual(await compute.query(rows))
  expect(await reader.value('SELECT count(*)::int FROM shared')).toBe(6)
  // With a logical slot left, the publisher would not start with a lower wal_level.
  await reader.query('DROP SUBSCRIPTION branch_feed')
  await reader.stop()
})

it('is not followed by its branches when they drop their subscriptions', async () => {
  await compute.query('ALTER SUBSCRIPTION fed ENABLE')
  // A table whose copy can't be complete, with a slot of its own at the publisher.
  await publisher.query('CREATE TABLE copied_later (n int PRIMARY KEY)')
  await publisher.query('INSERT INTO copied_later VALUES (1)')
  await publisher.query('CREATE PUBLICATION later FOR TABLE copied_later')
  await compute.query('CREATE TABLE copied_later (n int PRIMARY KEY)')
  await compute.query('INSERT INTO copied_later VALUES (1)')
  await compute.query(`CREATE SUBSCRIPTION late CONNECTION '${conninfo(publisher)}'
    PUBLICATION later`)
  const slots = `SELECT slot_name FROM pg_replication_slots ORDER BY slot_name`
  await eventually(publisher, 'SELECT count(*) = 3 FROM pg_replication_slots', 'a slot for a copy')
  await zenith.createBranch('alone', { from: 'main', dropSubscriptions: true })
  await zenith.createBranch('alone_too', { from: 'alone' })
  await compute.stop()
  const slotNames = await publisher.query(slots)
  for (const branch of ['alone', 'alone_too']) {
    let child = await zenith.startCompute(branch, { settings: SETTINGS })
    const objects = `SELECT (SELECT count(*) FROM pg_subscription)
      + (SELECT count(*) FROM pg_replication_origin)
      + (SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%worker')`
    expect(await child.value(objects)).toBe('0')
    // Subscriptions of its own it keeps, also over its next start.
    await child.query(`CREATE SUBSCRIPTION own CONNECTION '${conninfo(publisher)}'
      PUBLICATION everything WITH (slot_name = own_${branch}, copy_data = false)`)
    await child.kill()
    child = await zenith.startCompute(branch, { settings: SETTINGS })
    expect(await child.query('SELECT subname FROM pg_subscription')).toEqual([{ subname: 'own' }])
    await publisher.query(`INSERT INTO marks VALUES (3)`)
    await caughtUp(publisher, `own_${branch}`)
    expect(await child.value('SELECT count(*) > 0 FROM marks WHERE n = 3')).toBe(true)
    await child.query('DROP SUBSCRIPTION own')
    await child.stop()
  }
  expect(await publisher.query(slots)).toEqual(slotNames)
  compute = await zenith.startCompute('main', { settings: SETTINGS })
  await compute.query('DELETE FROM copied_later')
  await copied(compute)
  await caughtUp(publisher, 'fed')
  expect(await compute.value('SELECT count(*)::int FROM marks WHERE n = 3')).toBe(2)
})
