/**
 * Goal: whoever waits for another process of Zenith can be stopped at once, without harm for others,
 * and nobody is told COMMIT for what the quorum does not have.
 * Method: pageserver and safekeeper are halted with SIGSTOP, so that they are there and silent, or
 * replaced by a listener that accepts connections and never answers; WAL is kept from the pageserver;
 * the connections to it are torn at random.
 */
import { createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { callControl } from '#libs/api/control-client.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { eventually } from '../fixtures/eventually.ts'
import { FaultProxy } from '../fixtures/fault-proxy.ts'
import { Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'
import type { ServiceProcess } from '../fixtures/service-process.ts'

/** A stop takes milliseconds, and what is not stopped waits for ever; the rest is for a busy machine. */
const PROMPT_MS = 20_000
const PATIENCE_MS = 60_000
const ROWS = 3000

let zenith: Installation
let compute: Compute
/** Looks at sessions and stops them; what it needs is in memory before anything is halted. */
let monitor: pg.Client
const halted = new Set<ServiceProcess>()
/** Between the last compute and the pageserver. */
let link: FaultProxy | null = null

beforeAll(async () => {
  zenith = await Installation.create()
  compute = await zenith.startCompute('main', { settings: { autovacuum: 'off' } })
  await compute.query('CREATE EXTENSION zenith_test_utils')
  await compute.query('CREATE TABLE rows (id int, pad text)')
  await compute.query(
    `INSERT INTO rows SELECT g, repeat('p', 400) FROM generate_series(1, ${ROWS}) g`,
  )
  await compute.query('VACUUM rows')
  await compute.query('CREATE TABLE commits (id int PRIMARY KEY)')
  monitor = await compute.connect()
})

afterEach(() => {
  for (const service of halted) proceed(service)
})

afterAll(async () => {
  await monitor?.end()
  await link?.[Symbol.asyncDispose]()
  await zenith[Symbol.asyncDispose]()
})

function halt(service: ServiceProcess): void {
  process.kill(service.pid as number, 'SIGSTOP')
  halted.add(service)
}

function proceed(service: ServiceProcess): void {
  process.kill(service.pid as number, 'SIGCONT')
  halted.delete(service)
}

interface Session {
  client: pg.Client
  pid: number
  notices: string[]
}

async function open(): Promise<Session> {
  const client = await compute.connect()
  const notices: string[] = []
  client.on('notice', (notice) => notices.push(notice.message ?? ''))
  const { rows } = await client.query('SELECT pg_backend_pid() AS pid')
  return { client, pid: rows[0].pid, notices }
}

const COUNT = 'SELECT count(pad)::int AS n FROM rows'

/** Throws all pages out and brings back those that planning and watching need. */
async function forgetRows({ client }: Session): Promise<void> {
  await monitor.query('SELECT clear_buffer_cache()')
  await client.query(`EXPLAIN ${COUNT}`)
  await warmMonitor()
}

async function warmMonitor(): Promise<void> {
  await waitEvent(0)
  await monitor.query('SELECT pg_cancel_backend(0), pg_terminate_backend(0)')
}

async function waitEvent(pid: number): Promise<string | undefined> {
  const { rows } = await monitor.query(
    'SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = $1',
    [pid],
  )
  return rows[0] && `${rows[0].wait_event_type}/${rows[0].wait_event}`
}

async function untilWaiting(pid: number, event: string): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while ((await waitEvent(pid)) !== event) {
    if (performance.now() > deadline) {
      throw new Error(`${pid} waits for ${await waitEvent(pid)}, not for ${event}`)
    }
    await sleep(5)
  }
}

/** How an attempt ended, and after how many milliseconds. */
async function timed(attempt: Promise<unknown>): Promise<{ code: string; ms: number }> {
  const start = performance.now()
  const code = await attempt.then(
    () => 'done',
    (error: { code?: string }) => error.code ?? 'connection lost',
  )
  return { code, ms: performance.now() - start }
}

describe('a read that waits for the pageserver', () => {
  test('ends at a cancel, a time limit and a termination; others go on', async () => {
    const sessions = [await open(), await open(), await open(), await open()] as const
    const [cancelled, limited, terminated, patient] = sessions
    // A table for each: of those who read the same page only one asks the pageserver.
    const count = ({ client, pid }: Session) =>
      client.query(`SELECT count(pad)::int AS n FROM rows_${pid}`)
    for (const session of sessions) {
      await compute.query(`CREATE TABLE rows_${session.pid} AS SELECT * FROM rows`)
      await monitor.query('SELECT clear_buffer_cache()')
      // Now it has a connection to the pageserver.
      await count(session)
    }
    await monitor.query('SELECT clear_buffer_cache()')
    for (const { client, pid } of sessions) await client.query(`EXPLAIN SELECT * FROM rows_${pid}`)
    await limited.client.query('SET statement_timeout = 300')
    await warmMonitor()
    halt(zenith.pageserver)

    const waiting = count(patient)
    const lost = timed(count(terminated))
    const stopped = timed(count(cancelled))
    for (const { pid } of [patient, terminated, cancelled]) {
      await untilWaiting(pid, 'Extension/ZenithPageRead')
    }
    expect((await timed(count(limited))).code).toBe('57014')
    const asked = performance.now()
    await monitor.query(`SELECT pg_cancel_backend(${cancelled.pid})`)
    expect((await stopped).code).toBe('57014')
    await monitor.query(`SELECT pg_terminate_backend(${terminated.pid})`)
    expect((await lost).code).toBe('57P01')
    expect(performance.now() - asked).toBeLessThan(PROMPT_MS)
    const isGone = async () => (await waitEvent(terminated.pid)) === undefined
    await eventually(isGone, 'the end of the process that was terminated')

    proceed(zenith.pageserver)
    expect((await waiting).rows).toEqual([{ n: ROWS }])
    expect((await count(cancelled)).rows).toEqual([{ n: ROWS }])
    await limited.client.query('RESET statement_timeout')
    expect((await count(limited)).rows).toEqual([{ n: ROWS }])
    await Promise.all(sessions.map(({ client }) => client.end().catch(() => {})))
  })

  test('does not wait for WAL of other tables than its own', async () => {
    const session = await open()
    const count = (table: string) =>
      session.client.query(`SELECT count(pad)::int AS n FROM ${table}`)
    for (const table of ['quiet', 'busy']) {
      await compute.query(`CREATE TABLE ${table} AS SELECT * FROM rows`)
      await count(table)
    }
    const { tenantId, timelineId } = compute.spec
    const params = { tenantId, timelineId }
    const { pageserverUrl: url, safekeeperNodes } = zenith
    const positions = async () => {
      const { rows } = await monitor.query('SELECT pg_current_wal_insert_lsn()::text AS lsn')
      const { lastRecordLsn } = await callPageserver(url, 'getTimeline', { params })
      return { written: parseLsn(rows[0].lsn), taken: parseLsn(lastRecordLsn) }
    }
    const lsn = formatLsn((await positions()).written)
    await monitor.query('SELECT pg_logical_emit_message(true, $1, $1)', ['test'])
    await callPageserver(url, 'waitLsn', { params, body: { lsn, timeoutMs: 30_000 } })
    // From nobody: what is written from now on does not arrive.
    await callPageserver(url, 'setSafekeepers', { params, body: { safekeepers: [] } })
    await compute.query(`UPDATE busy SET pad = repeat('q', 400)`)
    await monitor.query('SELECT clear_buffer_cache()')

    const { taken } = await positions()
    await session.client.query(`SET statement_timeout = '30s'`)
    expect((await count('quiet')).rows).toEqual([{ n: ROWS }])
    const after = await positions()
    expect(after.taken).toBe(taken)
    expect(after.written - after.taken).toBeGreaterThan(1_000_000)
    // The other one waits for its WAL, and for nothing else.
    await session.client.query('SET statement_timeout = 300')
    expect((await timed(count('busy'))).code).toBe('57014')
    await session.client.query('RESET statement_timeout')
    const waiting = count('busy')
    await callPageserver(url, 'setSafekeepers', { params, body: { safekeepers: safekeeperNodes } })
    expect((await waiting).rows).toEqual([{ n: ROWS }])
    await session.client.end()
  })

  test('ends also while it connects to somebody who never answers', async () => {
    const session = await open()
    await forgetRows(session)
    await zenith.pageserver.stop('SIGKILL')
    const deaf = await listenDeaf(zenith.pageserverNode.pgPort)
    const stopped = timed(session.client.query(COUNT))
    await untilWaiting(session.pid, 'Extension/ZenithPageserverConnect')
    const asked = performance.now()
    await monitor.query(`SELECT pg_cancel_backend(${session.pid})`)
    expect((await stopped).code).toBe('57014')
    expect(performance.now() - asked).toBeLessThan(PROMPT_MS)
    await deaf()
    await zenith.pageserver.start()
    expect((await session.client.query(COUNT)).rows).toEqual([{ n: ROWS }])
    await session.client.end()
  })

  test('says after the configured time who is out of reach, and what to do', async () => {
    const session = await open()
    await forgetRows(session)
    await session.client.query("SET zenith.pageserver_outage_timeout = '1s'")
    await zenith.pageserver.stop('SIGKILL')
    const { pgPort } = zenith.pageserverNode
    await expect(session.client.query(COUNT)).rejects.toMatchObject({
      code: '08006',
      message: expect.stringContaining(`could not reach the page server at 127.0.0.1:${pgPort}`),
      detail: expect.stringContaining(compute.spec.timelineId),
      hint: expect.stringContaining('Check that the page server'),
    })
    await zenith.pageserver.start()
    expect((await session.client.query(COUNT)).rows).toEqual([{ n: ROWS }])
    await session.client.end()
  })
})

/** A listener that takes connections and says nothing; the result ends it. */
async function listenDeaf(port: number): Promise<() => Promise<void>> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    socket.on('error', () => {})
    sockets.add(socket)
  })
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  return () =>
    new Promise((resolve) => {
      for (const socket of sockets) socket.destroy()
      server.close(() => resolve())
    })
}

describe('a commit that waits for the quorum', () => {
  const visible = async (id: number): Promise<boolean> =>
    (await monitor.query('SELECT 1 FROM commits WHERE id = $1', [id])).rowCount === 1

  test.each([
    ['COMMIT', 1, 'INSERT INTO commits VALUES (1)'],
    ['COMMIT PREPARED', 2, "COMMIT PREPARED 'two'"],
  ])('%s is not acknowledged by a cancel, and shows to nobody before', async (_, id, sql) => {
    const session = await open()
    if (id === 2) {
      await session.client.query("BEGIN; INSERT INTO commits VALUES (2); PREPARE TRANSACTION 'two'")
    }
    // What the statement needs is in memory, so that the limit meets it where it waits.
    await session.client.query('BEGIN; INSERT INTO commits VALUES (-1); ROLLBACK')
    await session.client.query('SET statement_timeout = 600')
    for (const one of zenith.safekeepers) halt(one)
    const ended = timed(session.client.query(sql))
    await untilWaiting(session.pid, 'IPC/SyncRep')
    await sleep(800)
    await monitor.query(`SELECT pg_cancel_backend(${session.pid})`)
    await sleep(200)
    expect(await waitEvent(session.pid)).toBe('IPC/SyncRep')
    expect(await visible(id)).toBe(false)
    for (const one of zenith.safekeepers) proceed(one)
    expect((await ended).code).toBe('done')
    expect(await visible(id)).toBe(true)
    expect(session.notices).toContain('cannot cancel the wait for synchronous replication')
    await session.client.end()
  })

  test('is not acknowledged by a termination either', async () => {
    const session = await open()
    for (const one of zenith.safekeepers) halt(one)
    const ended = timed(session.client.query('INSERT INTO commits VALUES (3)'))
    await untilWaiting(session.pid, 'IPC/SyncRep')
    await monitor.query(`SELECT pg_terminate_backend(${session.pid})`)
    const { code, ms } = await ended
    expect(code).not.toBe('done')
    expect(ms).toBeLessThan(PROMPT_MS)
    for (const one of zenith.safekeepers) proceed(one)
    await compute.query('SELECT 1')
  })

  test.each(['off', 'local'])('is answered at once with synchronous_commit = %s', async (value) => {
    const session = await open()
    await session.client.query(`SET synchronous_commit = ${value}`)
    const id = value === 'off' ? 4 : 5
    for (const one of zenith.safekeepers) halt(one)
    const { code, ms } = await timed(session.client.query(`INSERT INTO commits VALUES (${id})`))
    expect(code).toBe('done')
    expect(ms).toBeLessThan(PROMPT_MS)
    for (const one of zenith.safekeepers) proceed(one)
    await session.client.end()
    // The next commit that waits carries the earlier one with it.
    await compute.query(`INSERT INTO commits VALUES (${id + 10})`)
    await compute.kill()
    compute = await zenith.startCompute('main', { settings: { autovacuum: 'off' } })
    monitor = await compute.connect()
    expect(await visible(id)).toBe(true)
  })
})

test('processes of every kind find the pageserver again after it was restarted', async () => {
  await compute.stop()
  const { id, host, pgPort, httpPort } = zenith.pageserverNode
  link = await FaultProxy.start({ host, port: pgPort })
  await callControl(zenith.controlUrl, 'registerPageserver', {
    params: { id },
    body: { host, pgPort: link.port, httpPort },
  })
  compute = await zenith.startCompute('main', {
    settings: {
      autovacuum_naptime: '1s',
      autovacuum_vacuum_threshold: '10',
      autovacuum_vacuum_scale_factor: '0',
      shared_buffers: '1MB',
    },
  })
  const client = await compute.connect()
  await client.query(
    'CREATE TABLE vacuumed AS SELECT g AS id, repeat($$x$$, 500) AS pad FROM generate_series(1, 3000) g',
  )
  const before = await client.query(COUNT)
  await zenith.pageserver.stop('SIGKILL')
  await zenith.pageserver.start()
  expect((await client.query(COUNT)).rows).toEqual(before.rows)
  await client.query('DELETE FROM vacuumed WHERE id % 2 = 0')
  await client.query('CHECKPOINT')
  await eventually(async () => {
    const { rows } = await client.query(
      "SELECT autovacuum_count::int AS n FROM pg_stat_user_tables WHERE relname = 'vacuumed'",
    )
    return rows[0].n > 0
  }, 'autovacuum')
  // A parallel plan brings workers, each with a connection of its own.
  await client.query(`SET max_parallel_workers_per_gather = 2; SET min_parallel_table_scan_size = 0;
    SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0`)
  expect((await client.query(COUNT)).rows).toEqual(before.rows)
  await client.end()
})

test('connections that are torn at random cost no query, and one that is half-open can be left', async () => {
  const proxy = link as FaultProxy
  const ledger = new Ledger(() => compute.connect(), 2)
  await ledger.createTables()
  ledger.start()
  let reads = 0
  let tearing = true
  const read = async () => {
    const client = await compute.connect()
    while (tearing) {
      expect((await client.query(COUNT)).rows).toEqual([{ n: ROWS }])
      reads += 1
    }
    await client.end()
  }
  const readers = [read(), read(), read()]
  for (let torn = 0; torn < 60; ) {
    await sleep(20 + Math.random() * 80)
    torn += proxy.open
    proxy.cut()
  }
  tearing = false
  await Promise.all(readers)
  await ledger.progress(20, PATIENCE_MS)
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  expect(reads).toBeGreaterThan(0)

  const session = await open()
  await session.client.query(COUNT)
  await session.client.query('SET statement_timeout = 300')
  proxy.stall('to-client')
  expect((await timed(session.client.query(COUNT))).code).toBe('57014')
  await session.client.query('RESET statement_timeout')
  const waiting = timed(session.client.query(COUNT))
  await sleep(200)
  proxy.heal()
  expect((await waiting).code).toBe('done')
  await session.client.end()
})
