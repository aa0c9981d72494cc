/**
 * Goal: multixacts of a compute have their members after stops, crashes and on branches, over the
 * ends of offsets and members pages, and row locks that they stand for still hold.
 * Method: sessions that share row locks on a compute; members of ids are asked before and after, and
 * the pages of both SLRU areas are compared with what stock Postgres recovers from the same WAL in
 * wal-records, built-wal and wraparound (all limits at 2^32).
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freezeAll } from '../oracle/freeze-all.ts'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'

/** More than the 2048 of an offsets page, and of the 1636 members of a members page. */
const MULTIXACTS = 2200

let zenith: Installation
let compute: Compute

async function membersOf(server: Compute): Promise<unknown> {
  const [row] = await server.query(`SELECT count(*)::int AS ids, md5(string_agg(
      x || ':' || m.xid || m.mode, ',' ORDER BY x, m.xid::text::bigint)) AS digest
    FROM seen s, generate_series(s.first, s.last) x, pg_get_multixact_members(x::text::xid) m`)
  return row
}

beforeAll(async () => {
  zenith = await Installation.create()
  compute = await zenith.startCompute('main', { settings: { autovacuum: 'off' } })
  const holder = await compute.connect()
  const locker = await compute.connect()
  await locker.query('CREATE TABLE shared AS SELECT generate_series(1, 3) AS id')
  await locker.query('CREATE TABLE seen (first bigint, last bigint)')
  await locker.query(`CREATE PROCEDURE lockers(n int) LANGUAGE plpgsql AS $$
    BEGIN
      FOR i IN 1..n LOOP PERFORM 1 FROM shared WHERE id = 1 FOR KEY SHARE; COMMIT; END LOOP;
    END $$`)
  await holder.query('BEGIN; SELECT * FROM shared WHERE id < 3 FOR KEY SHARE')
  // Each locker that joins the one still there makes a new id.
  await locker.query('CALL lockers(1)')
  const ask = 'SELECT xmax::text FROM shared WHERE id = 1'
  const first = (await locker.query(ask)).rows[0].xmax as string
  await locker.query(`CALL lockers(${MULTIXACTS})`)
  const last = (await locker.query(ask)).rows[0].xmax as string
  await locker.query(`INSERT INTO seen VALUES (${first}, ${last})`)
  // A lock of two, one of them prepared: it must hold until that one ends.
  await locker.query(`BEGIN; SELECT * FROM shared WHERE id = 2 FOR KEY SHARE`)
  await locker.query(`PREPARE TRANSACTION 'holds a share'`)
  await holder.query('COMMIT')
  await Promise.all([holder.end(), locker.end()])
})

afterAll(async () => {
  await zenith[Symbol.asyncDispose]()
})

describe('multixacts of a compute', () => {
  let before: unknown
  let pastLsn: string

  async function expectAll(server: Compute): Promise<void> {
    expect(await membersOf(server)).toEqual(before)
    await expect(
      server.query('SELECT * FROM shared WHERE id = 2 FOR UPDATE NOWAIT'),
    ).rejects.toThrow(/could not obtain lock/)
  }

  test('pass the ends of pages', async () => {
    before = await membersOf(compute)
    expect((before as { ids: number }).ids).toBeGreaterThanOrEqual(2 * MULTIXACTS)
    pastLsn = String(await compute.value('SELECT pg_current_wal_flush_lsn()'))
    await expectAll(compute)
  })

  test('survive a clean stop and a crash', async () => {
    await compute.stop()
    compute = await zenith.startCompute('main', { settings: { autovacuum: 'off' } })
    await expectAll(compute)
    await compute.query('CALL lockers(10)')
    await compute.kill()
    compute = await zenith.startCompute('main', { settings: { autovacuum: 'off' } })
    await expectAll(compute)
  })

  test('are on a branch of the past, which goes on by itself', async () => {
    await zenith.createBranch('past', { lsn: pastLsn })
    const past = await zenith.startCompute('past')
    await expectAll(past)
    await past.query(`COMMIT PREPARED 'holds a share'`)
    await past.query('SELECT * FROM shared WHERE id = 2 FOR UPDATE NOWAIT')
    await past.stop()
    await expectAll(compute)
  })

  test('are cut when everything is frozen, also for the next compute', async () => {
    await compute.query(`COMMIT PREPARED 'holds a share'`)
    await freezeAll(compute)
    const oldest =
      'SELECT oldest_multi_xid::text, next_multixact_id::text FROM pg_control_checkpoint()'
    await compute.query('CHECKPOINT')
    const frozen = await compute.query(oldest)
    expect(Number(frozen[0]?.['oldest_multi_xid'])).toBeGreaterThan(MULTIXACTS)
    await compute.stop()
    compute = await zenith.startCompute('main', { settings: { autovacuum: 'off' } })
    expect(await compute.query(oldest)).toEqual(frozen)
    await expect(membersOf(compute)).rejects.toThrow(/MultiXactId \d+ does no longer exist/)
    const [row] = await compute.query('SELECT count(*)::int AS n FROM shared')
    expect(row).toEqual({ n: 3 })
  })
})
