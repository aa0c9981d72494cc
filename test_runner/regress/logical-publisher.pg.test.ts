/**
 * A compute as the publisher of logical replication: slots and all that they need outlive it, and a
 * subscriber never gets what a quorum lacks.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'
import { caughtUp, conninfo, copied, eventually } from '../fixtures/logical-peers.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

const SETTINGS = { wal_level: 'logical' }
const LEDGER_TABLES = `
  CREATE TABLE ledger (client int, seq bigint, at timestamptz DEFAULT now());
  CREATE INDEX ON ledger (client, seq);
  CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL)`

let zenith: Installation
let compute: Compute

beforeAll(async () => {
  zenith = await Installation.create()
  compute = await zenith.startCompute('main', { settings: SETTINGS })
})

afterAll(async () => {
  await zenith?.[Symbol.asyncDispose]()
})

async function restart(how: 'stop' | 'kill', settings: Record<string, string> = {}): Promise<void> {
  if (how === 'stop') expect(await compute.stop()).toBe(0)
  else await compute.kill()
  compute = await zenith.startCompute('main', { settings: { ...SETTINGS, ...settings } })
}

/** What test_decoding says of a slot's changes, begin and commit lines left out. */
async function changes(slot: string, how: 'get' | 'peek' = 'get'): Promise<string[]> {
  const rows = await compute.query(
    `SELECT data FROM pg_logical_slot_${how}_changes('${slot}', NULL, NULL, 'include-xids', '0')`,
  )
  return rows.map((row) => String(row['data'])).filter((line) => !/^(BEGIN|COMMIT)$/.test(line))
}

function createSlot(name: string, twoPhase = false): Promise<unknown> {
  return compute.query(
    `SELECT pg_create_logical_replication_slot('${name}', 'test_decoding', false, ${twoPhase})`,
  )
}

describe('a slot read with SQL', () => {
  afterEach(async () => {
    await compute.query(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
      WHERE slot_type = 'logical'`)
  })

  it('goes on exactly after a clean stop, and survives a kill right after its creation', async () => {
    await compute.query('CREATE TABLE numbered (n int)')
    await createSlot('exact')
    await compute.kill()
    compute = await zenith.startCompute('main', { settings: SETTINGS })
    const seen: string[] = []
    for (let round = 0; round < 4; round++) {
      await compute.query(`INSERT INTO numbered VALUES (${2 * round})`)
      seen.push(...(await changes('exact')))
      await compute.query(`INSERT INTO numbered VALUES (${2 * round + 1})`)
      await restart('stop')
    }
    seen.push(...(await changes('exact')))
    expect(seen).toEqual(
      Array.from({ length: 8 }, (_, n) => `table public.numbered: INSERT: n[integer]:${n}`),
    )
  })

  it('loses nothing when the compute is killed, whatever was confirmed just before', async () => {
    await compute.query('CREATE TABLE killed (n int)')
    await createSlot('killed')
    const seen = new Set<string>()
    for (let round = 0; round < 5; round++) {
      await compute.query(`INSERT INTO killed VALUES (${round})`)
      if (round % 2 === 0) await compute.query('CHECKPOINT')
      for (const line of await changes('killed')) seen.add(line)
      await restart('kill')
    }
    expect([...seen]).toEqual(
      Array.from({ length: 5 }, (_, n) => `table public.killed: INSERT: n[integer]:${n}`),
    )
  })

  it('decodes a transaction that was prepared computes ago, by the catalog of that time', async () => {
    await compute.query('CREATE TABLE shape (id int, old text)')
    await createSlot('prepared', true)
    await createSlot('whole')
    const client = await compute.connect()
    await client.query('BEGIN')
    await client.query(`INSERT INTO shape VALUES (1, 'before')`)
    await client.query('ALTER TABLE shape ADD COLUMN new text')
    await client.query(`INSERT INTO shape VALUES (2, 'in', 'side')`)
    await client.query(`PREPARE TRANSACTION 'shaped'`)
    await client.end()
    await restart('stop')
    const inside = [
      "table public.shape: INSERT: id[integer]:1 old[text]:'before'",
      "table public.shape: INSERT: id[integer]:2 old[text]:'in' new[text]:'side'",
    ]
    expect(await changes('prepared')).toEqual([...inside, "PREPARE TRANSACTION 'shaped'"])
    expect(await changes('whole')).toEqual([])
    // What was read with SQL is on record from the next checkpoint on, as in stock Postgres.
    await compute.query('CHECKPOINT')
    await compute.query('CREATE TABLE waits_for_the_quorum ()')
    await restart('kill')
    await compute.query(`COMMIT PREPARED 'shaped'`)
    await compute.query('ALTER TABLE shape DROP COLUMN old')
    await compute.query('VACUUM FULL pg_catalog.pg_attribute')
    await restart('stop')
    expect(await changes('prepared')).toEqual(["COMMIT PREPARED 'shaped'"])
    expect(await changes('whole')).toEqual(inside)
  })

  it('reads catalogs that were rewritten in between, by their mappings', async () => {
    await compute.query(`CREATE TABLE looked_up (id int primary key, body text)
      WITH (user_catalog_table = true)`)
    await createSlot('rewritten')
    const client = await compute.connect()
    await client.query('BEGIN')
    await client.query(`INSERT INTO looked_up VALUES (1, 'one')`)
    await client.query('ALTER TABLE looked_up ADD COLUMN more text')
    await client.query(`INSERT INTO looked_up VALUES (2, 'two', 'more')`)
    await client.query('COMMIT')
    await client.end()
    const before = await changes('rewritten', 'peek')
    await compute.query('VACUUM FULL looked_up')
    await compute.query('VACUUM FULL pg_catalog.pg_class')
    await restart('kill')
    expect(readdirSync(join(compute.dataFolder, 'pg_logical/mappings'))).not.toEqual([])
    expect(await changes('rewritten', 'peek')).toEqual(before)
    expect(before.filter((line) => line.includes('looked_up: INSERT'))).toHaveLength(2)
  })

  it('finds the catalog rows that it needs, although vacuum follows its horizon and kills follow', async () => {
    await compute.query('CREATE TABLE churned (id int)')
    await createSlot('churned')
    const restartLsn = `SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'churned'`
    const slotStart = String(await compute.value(restartLsn))
    const seen = new Set<string>()
    const expected: string[] = []
    for (let round = 0; round < 6; round++) {
      for (let n = round * 4; n < round * 4 + 4; n++) {
        await compute.query(`ALTER TABLE churned ADD COLUMN c${n} int`)
        await compute.query(`INSERT INTO churned VALUES (${n}, ${n})`)
        await compute.query(`ALTER TABLE churned DROP COLUMN c${n}`)
        // With it goes the record of running transactions, at which the horizon can move.
        if (n % 2 === 0) await compute.query('CHECKPOINT')
        expected.push(`table public.churned: INSERT: id[integer]:${n} c${n}[integer]:${n}`)
      }
      for (const line of await changes('churned')) seen.add(line)
      const catalogs = ['pg_attribute', 'pg_class', 'pg_type'].map((name) => `pg_catalog.${name}`)
      await compute.query(`VACUUM ${catalogs.join()}`)
      await restart('kill')
    }
    for (const line of await changes('churned')) seen.add(line)
    expect([...seen]).toEqual(expected)
    expect(await compute.value(`SELECT (${restartLsn}) > '${slotStart}'::pg_lsn`)).toBe(true)
  })

  it('stays dropped, is not on a branch, and hides how it is kept', async () => {
    await createSlot('kept')
    await createSlot('gone')
    await compute.query(`SELECT pg_create_physical_replication_slot('physical', true)`)
    await compute.query(
      `SELECT pg_create_logical_replication_slot('passing', 'test_decoding', true)`,
    )
    await compute.query(`SELECT pg_drop_replication_slot('gone')`)
    await restart('kill')
    const names = `SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots`
    expect(await compute.value(names)).toBe('kept,physical,walproposer')
    expect(await changes('kept')).toEqual([])
    await zenith.createBranch('child', { from: 'main' })
    const child = await zenith.startCompute('child', { settings: SETTINGS })
    expect(await child.value(names)).toBe('walproposer')
    await child.query(`SELECT pg_create_logical_replication_slot('kept', 'test_decoding')`)
    await child.kill()
    const again = await zenith.startCompute('child', { settings: SETTINGS })
    await again.query(`CREATE TABLE on_child AS SELECT 1 AS n`)
    const decoded = await again.query(
      `SELECT data FROM pg_logical_slot_get_changes('kept', NULL, NULL)`,
    )
    expect(decoded.map((row) => row['data']).join()).toContain('on_child: INSERT: n[integer]:1')
    expect(await again.stop()).toBe(0)
    await compute.query(`SELECT pg_drop_replication_slot('physical')`)
  })
})

describe('a stock subscriber', () => {
  let subscriber: VanillaPostgres
  let ledger: Ledger

  beforeAll(async () => {
    subscriber = await VanillaPostgres.start({
      settings: { wal_retrieve_retry_interval: '200ms', fsync: 'off', max_worker_processes: '16' },
    })
    ledger = new Ledger(() => compute.connect(), 3)
    await ledger.createTables()
    await compute.query('CREATE TABLE big (id int PRIMARY KEY, body text)')
    await compute.query('CREATE PUBLICATION everything FOR ALL TABLES')
    await subscriber.query(`${LEDGER_TABLES}; CREATE TABLE big (id int PRIMARY KEY, body text)`)
    // The other tests' tables are published, too, and must exist.
    await subscriber.query(`CREATE TABLE numbered (n int); CREATE TABLE killed (n int);
      CREATE TABLE shape (id int, new text);
      CREATE TABLE looked_up (id int primary key, body text, more text);
      CREATE TABLE waits_for_the_quorum ();
      CREATE TABLE churned (id int)`)
    await subscriber.query(`CREATE SUBSCRIPTION follower CONNECTION '${conninfo(compute)}'
      PUBLICATION everything WITH (streaming = parallel)`)
    await copied(subscriber)
  })

  afterAll(async () => {
    await ledger?.stop()
    await subscriber?.[Symbol.asyncDispose]()
  })

  it('gets every transaction once, across clean stops and kills under load', async () => {
    ledger.start()
    for (const how of ['stop', 'kill', 'kill', 'stop', 'kill', 'stop'] as const) {
      await ledger.progress(60, 60_000)
      await restart(how)
    }
    await ledger.progress(60, 60_000)
    await ledger.stop()
    await caughtUp(compute, 'follower')
    const contents = `SELECT client, seq, at FROM ledger ORDER BY client, seq, at`
    expect(await subscriber.query(contents)).toEqual(await compute.query(contents))
    const accounts = 'SELECT * FROM account ORDER BY id'
    expect(await subscriber.query(accounts)).toEqual(await compute.query(accounts))
    expect(await ledger.violations()).toEqual([])
  })

  it('gets rows of 10 MB and large transactions while they run', async () => {
    await restart('stop', { logical_decoding_work_mem: '64kB' })
    // What does not compress well stays big on the way.
    const body = `(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 327680) i)`
    await compute.query(`INSERT INTO big SELECT g, ${body} FROM generate_series(1, 3) g`)
    const client = await compute.connect()
    await client.query('BEGIN')
    await client.query(`INSERT INTO big SELECT g, md5(g::text) FROM generate_series(10, 20000) g`)
    await eventually(
      compute,
      `SELECT stream_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = 'follower'`,
      'streaming of a transaction that runs',
    )
    await client.query('ROLLBACK TO SAVEPOINT none').catch(() => {})
    await client.query('ROLLBACK')
    await client.query(`INSERT INTO big SELECT g, md5(g::text) FROM generate_series(10, 20000) g`)
    await client.end()
    await restart('kill')
    await caughtUp(compute, 'follower')
    const digest = `SELECT count(*)::int AS n, sum(length(body))::int AS bytes,
      md5(string_agg(body, '' ORDER BY id)) AS digest FROM big`
    const [published] = await compute.query(digest)
    expect(published).toMatchObject({ n: 19_994, bytes: 3 * 10_485_760 + 19_991 * 32 })
    expect(await subscriber.query(digest)).toEqual([published])
  })

  it('is not sent what no quorum has', async () => {
    await caughtUp(compute, 'follower')
    const pids = zenith.safekeepers.map(({ pid }) => pid as number)
    for (const pid of pids) process.kill(pid, 'SIGSTOP')
    const client = await compute.connect()
    try {
      await client.query('SET synchronous_commit = local')
      await client.query(`INSERT INTO big VALUES (0, 'not durable')`)
      await sleep(2_000)
      expect(await subscriber.query('SELECT * FROM big WHERE id = 0')).toEqual([])
    } finally {
      for (const pid of pids) process.kill(pid, 'SIGCONT')
      await client.end()
    }
    await eventually(subscriber, 'SELECT count(*) = 1 FROM big WHERE id = 0', 'the row after all')
  })
})
