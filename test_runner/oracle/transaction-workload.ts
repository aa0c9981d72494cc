/**
 * Statements that exercise what WAL ingest derives beside pages: subtransactions, multixacts,
 * prepared transactions, databases made both ways and dropped, relation maps, truncation, oids,
 * replication origins, commit times. `TRANSACTION_SETTINGS` must be in force.
 */
import type { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

export const TRANSACTION_SETTINGS: Record<string, string> = {
  wal_level: 'logical',
  max_prepared_transactions: '20',
  track_commit_timestamp: 'on',
  max_connections: '50',
  autovacuum: 'off',
  shared_buffers: "'16MB'",
}

const LOOPS: readonly string[] = [
  `CREATE TABLE subs (id int PRIMARY KEY, v int)`,
  // Subtransactions beyond the 64 that fit a snapshot, some rolled back.
  `CREATE FUNCTION sub_storm(n int) RETURNS void LANGUAGE plpgsql AS $$
   BEGIN
     FOR i IN 1..n LOOP
       BEGIN
         INSERT INTO subs VALUES (i, i);
         IF i % 5 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
       EXCEPTION WHEN raise_exception THEN NULL;
       END;
     END LOOP;
   END $$`,
  `SELECT sub_storm(3000)`,
  `BEGIN; SELECT sub_storm(0); SAVEPOINT a; UPDATE subs SET v = v + 1 WHERE id < 50; ROLLBACK TO a; COMMIT`,
  `BEGIN; UPDATE subs SET v = 0 WHERE id < 10; ROLLBACK`,
  // Thousands of transactions: several commit time pages.
  `CREATE PROCEDURE many_commits(n int) LANGUAGE plpgsql AS $$
   BEGIN FOR i IN 1..n LOOP UPDATE subs SET v = i WHERE id = 1; COMMIT; END LOOP; END $$`,
  `CALL many_commits(4000)`,
  `CREATE PROCEDURE many_lockers(n int) LANGUAGE plpgsql AS $$
   BEGIN
     FOR i IN 1..n LOOP PERFORM 1 FROM shared_rows WHERE id = 1 FOR KEY SHARE; COMMIT; END LOOP;
   END $$`,
  `BEGIN; INSERT INTO subs VALUES (100001, 1); SAVEPOINT s; INSERT INTO subs VALUES (100002, 2); PREPARE TRANSACTION 'left open'`,
  `BEGIN; INSERT INTO subs VALUES (100003, 1); CREATE TABLE by_prepared (a int); PREPARE TRANSACTION 'committed'`,
  `COMMIT PREPARED 'committed'`,
  `BEGIN; CREATE TABLE never (a int); INSERT INTO never SELECT generate_series(1, 5000); PREPARE TRANSACTION 'rolled back'`,
  `ROLLBACK PREPARED 'rolled back'`,
  `BEGIN; CREATE TABLE undone (a int); INSERT INTO undone SELECT generate_series(1, 5000); ROLLBACK`,
  `CREATE DATABASE by_wal STRATEGY wal_log`,
  `CREATE DATABASE by_copy STRATEGY file_copy`,
  `CREATE DATABASE doomed STRATEGY wal_log`,
  `DROP DATABASE doomed`,
  `VACUUM FULL pg_class`,
  `VACUUM FULL pg_database`,
  `REINDEX TABLE pg_attribute`,
  `CREATE TABLE cut (id int, t text)`,
  `INSERT INTO cut SELECT g, repeat('t', 200) FROM generate_series(1, 20000) g`,
  `VACUUM (FREEZE) cut`,
  `DELETE FROM cut WHERE id > 7000`,
  `VACUUM (TRUNCATE) cut`,
  `UPDATE cut SET t = 'u' WHERE id % 100 = 0`,
  `SELECT * FROM cut WHERE id BETWEEN 200 AND 220 FOR UPDATE`,
  `INSERT INTO cut SELECT g, 'again' FROM generate_series(1, 9000) g`,
  `VACUUM cut`,
  `DELETE FROM cut WHERE id % 50 = 7`,
  `SELECT pg_replication_origin_create('there')`,
  `SELECT pg_replication_origin_advance('there', '1/2345678')`,
  `SELECT pg_replication_origin_session_setup('there')`,
  `BEGIN; SELECT pg_replication_origin_xact_setup('1/5678900', '2020-02-02'); INSERT INTO subs VALUES (100010, 1); COMMIT`,
  `SELECT pg_replication_origin_session_reset()`,
  `SELECT lo_create(0) FROM generate_series(1, 9000)`,
  `SELECT pg_logical_emit_message(true, 'p', 'c')`,
  `CREATE UNLOGGED TABLE unlogged_here (id int PRIMARY KEY)`,
  `INSERT INTO unlogged_here SELECT generate_series(1, 1000)`,
]

/** Runs everything; about `multixacts` ids with two members each, and some with three. */
export async function runTransactionWorkload(
  server: Pick<VanillaPostgres, 'connect'>,
  multixacts = 3000,
): Promise<void> {
  const client = await server.connect()
  const other = await server.connect()
  const third = await server.connect()
  try {
    for (const statement of LOOPS) await client.query(statement)
    await client.query('CREATE TABLE shared_rows AS SELECT generate_series(1, 20) AS id')
    for (let round = 0; round < 20; round += 1) {
      await client.query('BEGIN; SELECT * FROM shared_rows FOR SHARE')
      await other.query('BEGIN; SELECT * FROM shared_rows FOR KEY SHARE')
      await third.query('BEGIN; SELECT * FROM shared_rows FOR SHARE')
      await Promise.all([client.query('COMMIT'), other.query('ROLLBACK'), third.query('COMMIT')])
    }
    // Each transaction that joins the one still open makes a new id.
    await other.query('BEGIN; SELECT * FROM shared_rows WHERE id = 1 FOR KEY SHARE')
    await client.query(`CALL many_lockers(${multixacts})`)
    await other.query('COMMIT')
    await client.query('SELECT pg_switch_wal()')
    await client.query('CHECKPOINT')
    await client.query('INSERT INTO subs VALUES (200000, 1)')
  } finally {
    await Promise.all([client.end(), other.end(), third.end()])
  }
}
