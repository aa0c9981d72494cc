/**
 * A stock Postgres standby follows a compute through a safekeeper: everything that our storage
 * adds to the WAL is something that stock redo understands, and starts of computes leave no gap.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { requestJson } from '#libs/http/client.ts'
import { COMPUTE_SETTINGS } from '#libs/pg/compute-settings.ts'
import { connectPgWire } from '#libs/pgwire/client.ts'
import { giveTo } from '#libs/system-user.ts'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

const CATCH_UP_MS = 120_000
/** Contents of all tables of a workload, for comparing two servers. */
const CONTENTS = `SELECT
  (SELECT md5(string_agg(a::text, ',' ORDER BY aid)) FROM pgbench_accounts a) AS accounts,
  (SELECT md5(string_agg(h.tid || ' ' || h.delta, ',' ORDER BY h.mtime, h.tid, h.delta))
     FROM pgbench_history h) AS history,
  (SELECT md5(string_agg(s::text, ',' ORDER BY id)) FROM searched s) AS searched`

function timelineOf(zenith: Installation, compute: Compute): Promise<{ startLsn: string }> {
  const { host, httpPort } = zenith.pageserverNode
  const { tenantId, timelineId } = compute.spec
  const path = `/v1/tenant/${tenantId}/timeline/${timelineId}`
  return requestJson('GET', `http://${host}:${httpPort}${path}`)
}

/** Unpacks all files of the timeline's first LSN for a stock server. */
async function firstBackup(zenith: Installation, compute: Compute, lsn: string): Promise<string> {
  const folder = mkdtempSync(join(zenith.dir, 'standby-'))
  const { tenantId, timelineId } = compute.spec
  const client = await connectPgWire({ port: zenith.pageserverNode.pgPort })
  const tar = spawn('tar', ['-x', '-C', folder], { stdio: ['pipe', 'ignore', 'inherit'] })
  const unpacked = new Promise<number | null>((resolve) => tar.once('exit', resolve))
  const files = client.copyOut(`fullbackup ${tenantId} ${timelineId} ${lsn}`)
  await pipeline(Readable.from(files), tar.stdin)
  await client.close()
  expect(await unpacked).toBe(0)
  writeFileSync(join(folder, 'standby.signal'), '')
  giveTo(folder)
  return folder
}

function standbySettings(zenith: Installation, compute: Compute): Record<string, string> {
  const { tenantId, timelineId } = compute.spec
  const node = zenith.safekeeperNodes[0]
  const options = `-c tenant_id=${tenantId} -c timeline_id=${timelineId}`
  const password = compute.spec.safekeeperAccess?.token ?? ''
  const source = `host=${node?.host} port=${node?.pgPort} user=standby password=${password} options=''${options}''`
  return {
    primary_conninfo: `'${source}'`,
    hot_standby: 'on',
    max_prepared_transactions: String(COMPUTE_SETTINGS.maxPreparedTransactions),
    fsync: 'off',
    wal_retrieve_retry_interval: '100ms',
    log_min_messages: 'warning',
  }
}

async function replayed(standby: VanillaPostgres, lsn: unknown): Promise<void> {
  const deadline = Date.now() + CATCH_UP_MS
  const reached = `SELECT pg_last_wal_replay_lsn() >= '${String(lsn)}'::pg_lsn AS reached`
  while ((await standby.query(reached))[0]?.['reached'] !== true) {
    if (Date.now() > deadline) throw new Error(`no replay of ${String(lsn)}\n${standby.logTail()}`)
    await sleep(100)
  }
}

test('a stock standby replays all of it, across restarts of the compute', async () => {
  await using zenith = await Installation.create()
  const settings = { shared_buffers: '2MB', bgwriter_delay: '10ms', checkpoint_timeout: '30s' }
  const first = await zenith.startCompute('main', { settings })
  const { startLsn } = await timelineOf(zenith, first)
  await using standby = await VanillaPostgres.start({
    dataDir: await firstBackup(zenith, first, startLsn),
    settings: standbySettings(zenith, first),
  })

  await first.pgbench(['-i', '-q', '-s', '2'])
  await first.query(`CREATE TABLE searched AS
    SELECT g AS id, md5(g::text) AS body, ARRAY[g % 50, g % 7] AS tags, point(g, g % 97) AS place
    FROM generate_series(1, 5000) g`)
  await first.query('CREATE INDEX ON searched USING gin (tags)')
  await first.query('CREATE INDEX ON searched USING gist (place)')
  await first.query('CREATE INDEX ON searched USING spgist (place)')
  await first.query('CREATE INDEX ON searched USING brin (id)')
  await first.query('CREATE INDEX ON searched USING hash (body)')
  await first.query('CREATE EXTENSION zenith')
  // Several statements per transaction, so that pages go with command ids in them.
  await first.query(`BEGIN; UPDATE pgbench_accounts SET abalance = 1;
    UPDATE pgbench_accounts SET abalance = 2 WHERE aid % 2 = 0; COMMIT`)
  await first.query('VACUUM pgbench_accounts')
  expect(
    Number(
      await first.value("SELECT value FROM zenith.getpage_stats WHERE name = 'fragment_records'"),
    ),
  ).toBeGreaterThan(0)
  await first.stop()

  // The next compute's first record must follow the last one of this compute.
  const second = await zenith.startCompute('main', { settings })
  await second.pgbench(['-n', '-c', '4', '-T', '5'])
  await second.kill()
  const third = await zenith.startCompute('main', { settings })
  await third.pgbench(['-n', '-c', '2', '-t', '100'])
  await third.query('DELETE FROM searched WHERE id > 4000')
  await third.query('VACUUM searched')

  await replayed(standby, await third.value('SELECT pg_current_wal_flush_lsn()'))
  expect(await standby.query(CONTENTS)).toEqual(await third.query(CONTENTS))
  expect(await standby.query('SELECT count(*)::int AS n FROM searched')).toEqual([{ n: 4000 }])
  expect(standby.logTail(1000)).not.toMatch(/WARNING|PANIC|invalid page/)
})
