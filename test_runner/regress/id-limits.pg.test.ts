/**
 * Computes whose transaction ids, multixact ids, member offsets and oids pass 2^31 or 2^32 while
 * they work: with snapshots, prepared transactions and row locks from before, evictions, restarts,
 * crashes and branches after. Compared with stock Postgres that started from the same files.
 */
import { rmSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { clusterAt, TAKEN, templatesFrom } from '../fixtures/near-limits.ts'
import { Twins } from '../fixtures/twins.ts'
import { freezeAll } from '../oracle/freeze-all.ts'

const LOOK = `SELECT count(*), sum(id), sum(v) FROM subs;
  SELECT count(*), sum(id), sum(v) FROM shared_rows;
  SELECT gid FROM pg_prepared_xacts ORDER BY gid`

const SOUND = `SELECT * FROM verify_heapam('subs'); SELECT * FROM verify_heapam('shared_rows');
  SELECT bt_index_check('subs_pkey', true)`

const PREPARE = [
  'CREATE EXTENSION amcheck',
  'CREATE TABLE subs (id int PRIMARY KEY, v int)',
  'CREATE TABLE shared_rows AS SELECT g AS id, 0 AS v FROM generate_series(1, 20) g',
  `CREATE FUNCTION storm(first int, n int) RETURNS void LANGUAGE plpgsql AS $$
   BEGIN
     FOR i IN first..first + n - 1 LOOP
       BEGIN
         INSERT INTO subs VALUES (i, i);
         IF i % 5 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
       EXCEPTION WHEN raise_exception THEN NULL;
       END;
     END LOOP;
   END $$`,
  `CREATE PROCEDURE lockers(n int) LANGUAGE plpgsql AS $$
   BEGIN
     FOR i IN 1..n LOOP PERFORM 1 FROM shared_rows WHERE id = 1 FOR KEY SHARE; COMMIT; END LOOP;
   END $$`,
]

describe.each([
  ['2^31', 2 ** 31],
  ['2^32', 2 ** 32],
])('%s', (_name, limit) => {
  let twins: Twins
  let templates: string

  beforeAll(async () => {
    const near = { xid: limit - 900, multi: limit - 300, member: limit - 500, oid: limit - 50 }
    const cluster = await clusterAt(near)
    templates = await templatesFrom(cluster)
    twins = await Twins.start({}, { stock: cluster, templates })
    await twins.sameEach(...PREPARE)
  })

  afterAll(async () => {
    await twins?.[Symbol.asyncDispose]()
    if (templates) rmSync(templates, { recursive: true, force: true })
  })

  async function sound(on: Twins): Promise<void> {
    await on.evict()
    await on.same(LOOK)
    await on.same(SOUND)
  }

  test('everything that began before goes on after', async () => {
    await twins.same('INSERT INTO subs VALUES (-1, 1), (-2, 2)')
    await twins.same(`BEGIN; UPDATE subs SET v = 3 WHERE id = -1; SAVEPOINT s;
      INSERT INTO subs VALUES (-3, 3); PREPARE TRANSACTION 'from before'`)
    const old = { session: 'old' }
    await twins.same(`BEGIN ISOLATION LEVEL REPEATABLE READ; ${LOOK}`, old)
    const holder = { session: 'holder' }
    await twins.same('BEGIN; SELECT id FROM shared_rows WHERE id <= 5 FOR KEY SHARE', holder)
    await twins.same('BEGIN; SELECT storm(1, 1500)')
    await twins.evict()
    await twins.same(LOOK)
    await twins.same('COMMIT')
    await twins.same('CALL lockers(700)')
    await twins.evict()
    await twins.same(LOOK, old)
    await twins.same('COMMIT', old)
    await twins.same(
      'SELECT id FROM shared_rows WHERE id < 9 ORDER BY id FOR UPDATE SKIP LOCKED',
      old,
    )
    await twins.same('UPDATE shared_rows SET v = v + 1 WHERE id < 4', old)
    await twins.same('COMMIT', holder)
    await sound(twins)
  })

  test('all limits were passed', async () => {
    await twins.same(
      'DO $$ BEGIN FOR i IN 1..70 LOOP EXECUTE format($f$CREATE TABLE made_%s AS SELECT %s AS n$f$, i, i); END LOOP; END $$',
    )
    await twins.both('CHECKPOINT')
    const { zenith, stock } = await twins.both(`SELECT next_xid, next_multixact_id::text::bigint AS
      multi, next_multi_offset::text::bigint AS member, next_oid::bigint AS oid
      FROM pg_control_checkpoint()`)
    for (const [control] of [zenith, stock]) {
      const [epoch, xid] = String(control?.['next_xid']).split(':').map(Number)
      expect((epoch as number) * 2 ** 32 + (xid as number)).toBeGreaterThan(limit)
      for (const counter of ['multi', 'member', 'oid']) {
        const value = Number(control?.[counter])
        if (limit === 2 ** 32) expect(value, counter).toBeLessThan(limit / 2)
        else expect(value, counter).toBeGreaterThan(limit)
      }
    }
    expect({ ...zenith[0], next_xid: '', oid: '' }).toEqual({ ...stock[0], next_xid: '', oid: '' })
    const total = `SELECT count(*)::int AS tables, count(DISTINCT relfilenode)::int AS files,
      count(DISTINCT oid)::int AS oids FROM pg_class WHERE relname LIKE 'made_%'`
    expect(await twins.same(total)).toEqual([{ tables: 70, files: 70, oids: 70 }])
    // Numbers in use are left out, those of oids and those of files alone.
    const files =
      'SELECT count(*)::int - count(DISTINCT relfilenode)::int AS twice FROM pg_class WHERE relfilenode > 0'
    expect(await twins.same(files)).toEqual([{ twice: 0 }])
    if (limit === 2 ** 32) {
      const met = `SELECT count(*)::int > 20 AS met FROM pg_class WHERE relname LIKE 'made_%'
        AND oid < (SELECT max(relfilenode) FROM pg_class WHERE relname LIKE 'taken_%')::int + 100`
      expect(await twins.same(met)).toEqual([{ met: true }])
    }
    await twins.evict()
    for (let n = 1; n <= TAKEN; n++) await twins.same(`SELECT n FROM taken_${n}`)
    for (let n = 1; n <= 70; n += 9) await twins.same(`SELECT n FROM made_${n}`)
  })

  test('restart, crash and branch', async () => {
    await twins.restart()
    await sound(twins)
    await twins.same('SELECT storm(2001, 100)')
    await twins.crash()
    await sound(twins)
    await using branch = await twins.branch(`after-${limit}`)
    await branch.same(`COMMIT PREPARED 'from before'`)
    await twins.same(`ROLLBACK PREPARED 'from before'`)
    for (const on of [branch, twins]) {
      await on.same('BEGIN; SELECT id FROM shared_rows FOR KEY SHARE', { session: 'holder' })
      await on.sameEach('CALL lockers(50)', 'SELECT storm(3001, 50)')
      await on.same('SELECT id FROM shared_rows FOR UPDATE SKIP LOCKED')
      await on.same('COMMIT', { session: 'holder' })
      await sound(on)
    }
  })

  test('what is old can be frozen and cut off', async () => {
    await freezeAll(twins.stock)
    await freezeAll(twins.compute)
    await sound(twins)
    await twins.same(`SELECT datname, age(datfrozenxid) < 50000, mxid_age(datminmxid) < 50000
      FROM pg_database ORDER BY 1`)
    await twins.restart()
    await sound(twins)
    await twins.same(`SELECT folder, name FROM (VALUES ('pg_xact'), ('pg_multixact/offsets'),
      ('pg_multixact/members')) f (folder), pg_ls_dir(folder) name ORDER BY 1, 2`)
    await twins.same('SELECT storm(4001, 100)')
    await sound(twins)
  })
})
