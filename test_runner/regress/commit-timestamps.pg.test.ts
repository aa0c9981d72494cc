/**
 * Goal: with track_commit_timestamp on, commit times and their origins survive everything that a
 * compute survives: clean stops, crashes, branches now and of the past, and switching them off and on.
 * Method: commits of every kind on a compute; what pg_xact_commit_timestamp_origin says of each
 * transaction is asked before and after; stock Postgres is the judge of what comes after a restart.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { freezeAll } from '../oracle/freeze-all.ts'

const ON = { track_commit_timestamp: 'on', autovacuum: 'off' }
const OFF = { track_commit_timestamp: 'off', autovacuum: 'off' }
/** More than the 26208 transactions of one segment of pg_commit_ts. */
const SEGMENT_XIDS = 27_000
/** All transactions from the first that was noted to the last, with what is known of each. */
const TIMES = `SELECT x AS xid, t.timestamp::text AS time, t.roident AS origin
  FROM generate_series((SELECT min(xid) FROM noted), (SELECT max(xid) FROM noted)) x,
    pg_xact_commit_timestamp_origin(x::text::xid) t ORDER BY x`

type Times = Record<string, unknown>[]

/** Commits of every kind; each notes its transaction id. */
const COMMITS: readonly string[] = [
  `CREATE TABLE noted (xid bigint, what text)`,
  `CREATE FUNCTION note(what text) RETURNS void LANGUAGE sql AS
   $$ INSERT INTO noted VALUES (pg_current_xact_id()::text::bigint, what) $$`,
  `CREATE PROCEDURE storm(n int) LANGUAGE plpgsql AS $$
   BEGIN
     FOR i IN 1..n LOOP
       BEGIN
         PERFORM note('sub');
         IF i % 5 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
       EXCEPTION WHEN raise_exception THEN NULL;
       END;
     END LOOP;
   END $$`,
  `CREATE PROCEDURE many(n int) LANGUAGE plpgsql AS $$
   BEGIN FOR i IN 1..n LOOP PERFORM note('one of many'); COMMIT; END LOOP; END $$`,
  `SELECT note('alone')`,
  `CALL storm(300)`,
  `CALL many(2000)`,
  `BEGIN; SELECT note('rolled back'); ROLLBACK`,
  `BEGIN; SELECT note('prepared'); SAVEPOINT s; SELECT note('prepared sub'); PREPARE TRANSACTION 'p'`,
  `COMMIT PREPARED 'p'`,
  `BEGIN; SELECT note('never'); PREPARE TRANSACTION 'never'`,
  `ROLLBACK PREPARED 'never'`,
  `SELECT pg_replication_origin_create('there')`,
  `SELECT pg_replication_origin_session_setup('there')`,
  `BEGIN; SELECT pg_replication_origin_xact_setup('0/1000', '2001-02-03 04:05:06+00'); SELECT note('from there'); COMMIT`,
  `BEGIN; SELECT pg_replication_origin_xact_setup('0/2000', '2002-02-03 04:05:06+00'); SAVEPOINT s; SELECT note('sub from there'); COMMIT`,
  `BEGIN; SELECT pg_replication_origin_xact_setup('0/3000', '2003-02-03 04:05:06+00'); SELECT note('prepared there'); PREPARE TRANSACTION 'q'`,
  `SELECT pg_replication_origin_xact_setup('0/4000', '2004-02-03 04:05:06+00')`,
  `COMMIT PREPARED 'q'`,
  `BEGIN; SELECT pg_replication_origin_xact_setup('0/5000', '2005-02-03 04:05:06+00'); SELECT note('open there'); PREPARE TRANSACTION 'open there'`,
  `SELECT pg_replication_origin_session_reset()`,
  `BEGIN; SELECT note('left open'); PREPARE TRANSACTION 'left open'`,
  `SELECT note('last')`,
]

let zenith: Installation
let compute: Compute
let stock: VanillaPostgres

async function run(
  server: Compute | VanillaPostgres,
  statements: readonly string[],
): Promise<void> {
  const client = await server.connect()
  try {
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}

function timesOf(server: Compute | VanillaPostgres): Promise<Times> {
  return server.query(TIMES)
}

async function restart(settings: Record<string, string> = ON): Promise<void> {
  await compute.stop()
  compute = await zenith.startCompute('main', { settings })
}

beforeAll(async () => {
  stock = await VanillaPostgres.start({
    settings: { ...ON, max_prepared_transactions: '10', wal_level: 'replica' },
  })
  zenith = await Installation.create()
  compute = await zenith.startCompute('main', { settings: ON })
  await run(compute, COMMITS)
})

afterAll(async () => {
  await zenith?.[Symbol.asyncDispose]()
  await stock?.[Symbol.asyncDispose]()
})

describe('commit times of a compute', () => {
  let before: Times

  test('are those that stock Postgres keeps', async () => {
    before = await timesOf(compute)
    await run(stock, COMMITS)
    const kinds = `SELECT n.what, t.roident AS origin, t.timestamp IS NOT NULL AS known,
        CASE WHEN t.roident > 0 THEN t.timestamp::text END AS time
      FROM noted n, pg_xact_commit_timestamp_origin(n.xid::text::xid) t ORDER BY n.xid`
    const kept = await compute.query(kinds)
    expect(kept).toEqual(await stock.query(kinds))
    expect(kept.filter(({ origin }) => Number(origin) > 0)).toHaveLength(3)
    expect(before.length).toBeGreaterThan(2300)
    expect(before.filter(({ time }) => time === null).length).toBeGreaterThan(60)
  })

  test('survive a clean stop', async () => {
    await restart()
    expect(await timesOf(compute)).toEqual(before)
  })

  test('and so does how far the origin has come, by a transaction that is only prepared', async () => {
    const ask = 'SELECT external_id, remote_lsn::text FROM pg_show_replication_origin_status()'
    const expected = [{ external_id: 'there', remote_lsn: '0/5000' }]
    expect(await stock.query(ask)).toEqual(expected)
    expect(await compute.query(ask)).toEqual(expected)
    await compute.kill()
    compute = await zenith.startCompute('main', { settings: ON })
    expect(await compute.query(ask)).toEqual(expected)
  })

  test('survive a crash, with what was committed last', async () => {
    await compute.query(`SELECT note('just before the crash')`)
    before = await timesOf(compute)
    await compute.kill()
    compute = await zenith.startCompute('main', { settings: ON })
    expect(await timesOf(compute)).toEqual(before)
  })

  test('right after a restart nobody has committed yet, as with stock Postgres', async () => {
    await restart()
    const ask = 'SELECT xid::text, timestamp::text FROM pg_last_committed_xact()'
    await stock.stop()
    await stock.start()
    expect(await compute.query(ask)).toEqual(await stock.query(ask))
    await compute.query(`SELECT note('after the restart')`)
    const [last] = await compute.query(`SELECT n.xid = l.xid::text::bigint AS same,
      l.timestamp = pg_xact_commit_timestamp(l.xid) AS equal
      FROM pg_last_committed_xact() l, noted n ORDER BY n.xid DESC LIMIT 1`)
    expect(last).toEqual({ same: true, equal: true })
  })

  test('a prepared transaction gets its time when it is committed later', async () => {
    await compute.query(`COMMIT PREPARED 'left open'`)
    await compute.query(`ROLLBACK PREPARED 'open there'`)
    await restart()
    const [row] = await compute.query(`SELECT t.timestamp > now() - interval '1 hour' AS recent
      FROM noted, pg_xact_commit_timestamp_origin(xid::text::xid) t WHERE what = 'left open'`)
    expect(row).toEqual({ recent: true })
  })

  test('are on a branch, now and of the past', async () => {
    const past = await timesOf(compute)
    const pastLsn = String(await compute.value('SELECT pg_current_wal_flush_lsn()'))
    await compute.query('CALL many(1000)')
    const now = await timesOf(compute)
    await zenith.createBranch('tip')
    await zenith.createBranch('past', { lsn: pastLsn })
    const tip = await zenith.startCompute('tip', { settings: ON })
    expect(await timesOf(tip)).toEqual(now)
    await tip.query(`CALL many(900)`)
    await tip.stop()
    const old = await zenith.startCompute('past', { settings: ON })
    expect(await timesOf(old)).toEqual(past)
    await old.stop()
    expect(await timesOf(compute)).toEqual(now)
  })

  test('old ones are cut when everything is frozen', async () => {
    await compute.query(`CALL storm(${SEGMENT_XIDS})`)
    await freezeAll(compute)
    const cut = await timesOf(compute)
    const unknown = cut.filter(({ time }) => time === null).length
    expect(unknown).toBeGreaterThan(before.length)
    await compute.query(`SELECT note('after the cut')`)
    const after = await timesOf(compute)
    await restart()
    expect(await timesOf(compute)).toEqual(after)
    const [old] = await compute.query(
      `SELECT pg_xact_commit_timestamp(min(xid)::text::xid) AS time FROM noted`,
    )
    expect(old).toEqual({ time: null })
  })

  test('switched off they are gone, and on again they begin anew', async () => {
    const [first] = await compute.query(`SELECT max(xid)::text AS xid FROM noted`)
    await restart(OFF)
    await expect(compute.query(TIMES)).rejects.toThrow(/could not get commit timestamp data/)
    await compute.query(`SELECT note('unseen')`)
    await restart(ON)
    await compute.query(`SELECT note('seen')`)
    await compute.kill()
    compute = await zenith.startCompute('main', { settings: ON })
    const rows = await compute.query(`SELECT what, t.timestamp IS NOT NULL AS known
      FROM noted n, pg_xact_commit_timestamp_origin(n.xid::text::xid) t
      WHERE n.xid >= ${String(first?.['xid'])} ORDER BY n.xid`)
    expect(rows).toEqual([
      { what: 'after the cut', known: false },
      { what: 'unseen', known: false },
      { what: 'seen', known: true },
    ])
  })
})
