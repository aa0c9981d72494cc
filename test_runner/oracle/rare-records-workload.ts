/**
 * Statements for the kinds of records that the other workloads leave out. No transaction may be
 * open that keeps VACUUM from removing rows. Needs the settings of the transaction workload.
 */
import type { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { freezeAll } from './freeze-all.ts'

const XLOG: readonly string[] = [
  `SELECT pg_create_restore_point('a place to come back to')`,
  `SELECT pg_backup_start('nobody copies', true)`,
  `SELECT pg_backup_stop(false)`,
  `ALTER SYSTEM SET full_page_writes = off`,
  `SELECT pg_reload_conf()`,
  `SELECT pg_sleep(0.2)`,
  `CHECKPOINT`,
  `ALTER SYSTEM RESET full_page_writes`,
  `SELECT pg_reload_conf()`,
  `SELECT pg_replication_origin_create('short-lived')`,
  `SELECT pg_replication_origin_advance('short-lived', '0/99')`,
  `SELECT pg_replication_origin_drop('short-lived')`,
]

/** Rows that a logical slot needs mapped when a catalog is rewritten. */
const REWRITE: readonly string[] = [
  `SELECT pg_create_logical_replication_slot('mapped', 'pgoutput')`,
  `CREATE TABLE mapped (a int)`,
  `VACUUM FULL pg_class`,
  `SELECT pg_drop_replication_slot('mapped')`,
]

const INDEXES: readonly string[] = [
  // Dead entries that a scan has marked make room for new ones.
  `CREATE TABLE hashed (k int, pad text)`,
  `CREATE INDEX ON hashed USING hash (k)`,
  `INSERT INTO hashed SELECT 1, 'p' FROM generate_series(1, 1500)`,
  `DELETE FROM hashed`,
  `SET enable_seqscan = off; SET enable_bitmapscan = off`,
  `SELECT count(*) FROM hashed WHERE k = 1`,
  `SELECT count(*) FROM hashed WHERE k = 1`,
  `INSERT INTO hashed SELECT 1, 'q' FROM generate_series(1, 1500)`,
  `CREATE TABLE pointed (p point, pad text)`,
  `CREATE INDEX ON pointed USING gist (p)`,
  `INSERT INTO pointed SELECT point(1, 1), 'p' FROM generate_series(1, 400)`,
  `DELETE FROM pointed`,
  `SELECT count(*) FROM pointed WHERE p <@ box '((0,0),(2,2))'`,
  `SELECT count(*) FROM pointed WHERE p <@ box '((0,0),(2,2))'`,
  `INSERT INTO pointed SELECT point(1, 1), 'q' FROM generate_series(1, 400)`,
  `RESET enable_seqscan; RESET enable_bitmapscan`,
  // Pages that are emptied, deleted, and used again.
  `CREATE TABLE emptied (p point)`,
  `CREATE INDEX ON emptied USING gist (p)`,
  `INSERT INTO emptied SELECT point(g, g) FROM generate_series(1, 20000) g`,
  `DELETE FROM emptied WHERE p[0] < 19000`,
  `VACUUM emptied`,
  `VACUUM emptied`,
  `INSERT INTO emptied SELECT point(g, -g) FROM generate_series(1, 20000) g`,
  `CREATE TABLE tagged (id int, tags int[])`,
  `CREATE INDEX ON tagged USING gin (tags) WITH (fastupdate = off)`,
  `INSERT INTO tagged SELECT g, '{7}' FROM generate_series(1, 60000) g`,
  `DELETE FROM tagged WHERE id BETWEEN 3000 AND 57000`,
  `VACUUM tagged`,
  `CREATE TABLE few (t text)`,
  `CREATE INDEX ON few USING spgist (t)`,
  `INSERT INTO few SELECT g::text FROM generate_series(1, 20) g`,
  `DELETE FROM few WHERE t > '3'`,
  `VACUUM few`,
  // One range for each page, more than one map page holds.
  `CREATE TABLE ranges (id int, pad text)`,
  `ALTER TABLE ranges ALTER pad SET STORAGE plain`,
  `CREATE INDEX ON ranges USING brin (id, pad) WITH (pages_per_range = 1)`,
  `INSERT INTO ranges SELECT g, repeat('r', 4500) FROM generate_series(1, 1500) g`,
  `VACUUM ranges`,
  `UPDATE ranges SET pad = repeat('z', 4500) WHERE id < 40`,
]

/** Runs all of it, some in two sessions, and freezes at the end; restarts the server once. */
export async function runRareRecords(server: VanillaPostgres): Promise<void> {
  const client = await server.connect()
  const other = await server.connect()
  try {
    await client.query('CREATE SCHEMA rare')
    for (const session of [client, other]) await session.query('SET search_path = rare')
    for (const statement of [...XLOG, ...REWRITE, ...INDEXES]) await client.query(statement)
    await client.query('CREATE TABLE followed AS SELECT 1 AS id, 1 AS v')
    await client.query('ALTER TABLE followed ADD PRIMARY KEY (id)')
    await client.query('BEGIN; UPDATE followed SET v = 2')
    await other.query('BEGIN; SELECT * FROM followed FOR KEY SHARE')
    await client.query('COMMIT')
    await other.query('COMMIT')
    // More transactions than a status page holds, and than a segment of commit times.
    await client.query(`DO $$ BEGIN FOR i IN 1..34000 LOOP
      BEGIN INSERT INTO few VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END;
      END LOOP; END $$`)
  } finally {
    await Promise.all([client.end(), other.end()])
  }
  await freezeAll(server)
  await server.stop()
  server.configure({ max_connections: '60' })
  await server.start()
}
