/**
 * What sessions do with and to each other: notifications, advisory locks, queues with SKIP LOCKED,
 * deadlocks, serializable conflicts, timeouts and cancelled statements. Compared with stock Postgres
 * where the outcome is determined, else judged by counting.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Twins } from '../fixtures/twins.ts'

const QUERY_CANCELED = '57014'

let twins: Twins

beforeAll(async () => {
  twins = await Twins.start({ deadlock_timeout: '100ms' })
  await twins.same(`CREATE TABLE item (id int PRIMARY KEY, v int, pad text);
    INSERT INTO item SELECT g, g % 10, repeat('x', 300) FROM generate_series(1, 20000) g;
    CREATE INDEX item_v ON item (v)`)
})

afterAll(async () => {
  await twins?.[Symbol.asyncDispose]()
})

const A = { session: 'a' }
const B = { session: 'b' }

/** What both listeners of a session have heard since the last call. */
async function listener(session: string): Promise<() => Promise<string[]>> {
  const clients = await twins.clients(session)
  const heard = { zenith: [] as string[], stock: [] as string[] }
  const note = (list: string[]) => (message: pg.Notification) => {
    const { channel, payload = '' } = message
    list.push(`${channel}: ${payload.length > 40 ? payload.length : payload}`)
  }
  clients.zenith.on('notification', note(heard.zenith))
  clients.stock.on('notification', note(heard.stock))
  return async () => {
    await twins.same('SELECT 1', { session })
    expect(heard.zenith).toEqual(heard.stock)
    heard.stock.length = 0
    return heard.zenith.splice(0)
  }
}

test('LISTEN and NOTIFY: what was committed, in order, once', async () => {
  const heard = await listener('a')
  await twins.same('LISTEN one; LISTEN two', A)
  await twins.same(`NOTIFY one, 'first'; NOTIFY three, 'nobody'`, B)
  await twins.same(
    `BEGIN; NOTIFY one, 'same'; NOTIFY one, 'same'; SAVEPOINT s; NOTIFY two, 'undone';
    ROLLBACK TO s; NOTIFY two, 'kept'; INSERT INTO item VALUES (0, 0, ''); COMMIT`,
    B,
  )
  await twins.same(`BEGIN; NOTIFY one, 'rolled back'; ROLLBACK`, B)
  await twins.same(`SELECT pg_notify('two', repeat('p', 7999))`, B)
  await twins.same(`SELECT pg_notify('two', repeat('p', 8000))`, { ...B, fails: true })
  expect(await heard()).toEqual(['one: first', 'one: same', 'two: kept', 'two: 7999'])
  // Several pages of the queue.
  await twins.same(
    `SELECT count(pg_notify('one', g || repeat('n', 100))) FROM generate_series(1, 1000) g`,
    B,
  )
  expect(await heard()).toHaveLength(1000)
  await twins.same('UNLISTEN one', A)
  await twins.same(
    `NOTIFY one, 'unheard'; NOTIFY two, 'heard'; SELECT pg_notification_queue_usage()`,
    B,
  )
  expect(await heard()).toEqual(['two: heard'])
  for (const how of ['restart', 'crash'] as const) {
    await twins.same(`LISTEN again`, A)
    await twins.same(`NOTIFY again, 'before'`, B)
    await twins[how]()
    const afterwards = await listener('a')
    await twins.same('SELECT pg_listening_channels()', A)
    await twins.same('LISTEN again', A)
    await twins.same(`NOTIFY again, 'after'`, B)
    expect(await afterwards()).toEqual(['again: after'])
  }
})

test('advisory locks: shared, exclusive, of sessions and of transactions', async () => {
  await twins.same(
    'SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2), pg_advisory_lock(3, 4)',
    A,
  )
  await twins.same(
    'BEGIN; SELECT pg_advisory_xact_lock(5); SAVEPOINT s; SELECT pg_advisory_xact_lock(6); ROLLBACK TO s',
    A,
  )
  const look = `SELECT pg_try_advisory_lock(1), pg_try_advisory_lock(2), pg_try_advisory_lock_shared(2),
    pg_try_advisory_lock(3, 4), pg_try_advisory_lock(3, 5), pg_try_advisory_xact_lock(5),
    pg_try_advisory_xact_lock(6); SELECT pg_advisory_unlock_all()`
  await twins.same(look, B)
  await twins.same(
    `SELECT classid, objid, objsubid, mode FROM pg_locks WHERE locktype = 'advisory'
    ORDER BY 1, 2, 3`,
    B,
  )
  await twins.same('COMMIT; SELECT pg_advisory_unlock(1), pg_advisory_unlock(77)', A)
  await twins.same(look, B)
  await twins.crash()
  await twins.same(look, B)
  const waiting = twins.same('SELECT pg_advisory_lock(9)', A)
  await waiting
  await twins.same(`SET lock_timeout = '100ms'`, B)
  await twins.same('SELECT pg_advisory_lock(9)', { ...B, fails: true })
  await twins.end('a')
  await twins.same(`SET lock_timeout = 0; SELECT pg_advisory_lock(9)`, B)
  await twins.end('b')
})

test('row locks: NOWAIT, SKIP LOCKED, strengths, upgrades, after eviction', async () => {
  await twins.same(
    `BEGIN; SELECT id FROM item WHERE id = 1 FOR KEY SHARE;
    SELECT id FROM item WHERE id = 2 FOR SHARE; SELECT id FROM item WHERE id = 3 FOR NO KEY UPDATE;
    SELECT id FROM item WHERE id = 4 FOR UPDATE; UPDATE item SET v = 77 WHERE id = 5;
    SAVEPOINT s; SELECT id FROM item WHERE id = 6 FOR UPDATE; ROLLBACK TO s;
    SELECT id FROM item WHERE id = 6 FOR KEY SHARE`,
    A,
  )
  await twins.evict()
  for (const strength of ['KEY SHARE', 'SHARE', 'NO KEY UPDATE', 'UPDATE']) {
    await twins.same(`SELECT id FROM item WHERE id < 9 ORDER BY id FOR ${strength} SKIP LOCKED`, B)
    await twins.evict()
  }
  await twins.same('SELECT id FROM item WHERE id = 4 FOR KEY SHARE NOWAIT', { ...B, fails: true })
  await twins.same('SELECT id FROM item WHERE id = 3 FOR SHARE NOWAIT', { ...B, fails: true })
  await twins.same('BEGIN; SELECT id FROM item WHERE id = 2 FOR SHARE', B)
  await twins.evict()
  await twins.same('COMMIT', A)
  await twins.same('UPDATE item SET v = 78 WHERE id = 2; COMMIT', B)
  await twins.same('SELECT id, v FROM item WHERE id < 9 ORDER BY id')
})

test('a deadlock is found, and serializable transactions that cannot be ordered fail', async () => {
  await twins.same('BEGIN; UPDATE item SET v = 1 WHERE id = 11', A)
  await twins.same('BEGIN; UPDATE item SET v = 1 WHERE id = 12', B)
  for (const side of ['zenith', 'stock'] as const) {
    const [a, b] = [(await twins.clients('a'))[side], (await twins.clients('b'))[side]]
    const both = await Promise.allSettled([
      a.query('UPDATE item SET v = 2 WHERE id = 12'),
      sleep(20).then(() => b.query('UPDATE item SET v = 2 WHERE id = 11')),
    ])
    const failed = both.filter(({ status }) => status === 'rejected')
    expect(failed.map((one) => (one as PromiseRejectedResult).reason.code)).toEqual(['40P01'])
    await a.query('ROLLBACK')
    await b.query('ROLLBACK')
  }
  const sum = 'SELECT sum(v) FROM item WHERE id BETWEEN 100 AND 120'
  await twins.same(`BEGIN ISOLATION LEVEL SERIALIZABLE; ${sum}`, A)
  await twins.same(`BEGIN ISOLATION LEVEL SERIALIZABLE; ${sum}`, B)
  await twins.evict()
  await twins.same('UPDATE item SET v = v + 100 WHERE id = 100', A)
  await twins.same('UPDATE item SET v = v + 100 WHERE id = 120', B)
  await twins.evict()
  await twins.same('COMMIT', A)
  await twins.same('COMMIT', { ...B, fails: true })
  await twins.same(sum)
})

test('a queue: every job is taken once, by whoever is first', async () => {
  const JOBS = 300
  const { compute } = twins
  await compute.query(`CREATE TABLE job (id int PRIMARY KEY, pad text);
    INSERT INTO job SELECT g, repeat('j', 200) FROM generate_series(1, ${JOBS}) g`)
  const taken: number[] = []
  const workers = Array.from({ length: 5 }, async (_, worker) => {
    const client = await compute.connect()
    for (let turn = 0; ; turn++) {
      const { rows } = await client.query<{ id: number }>(`DELETE FROM job WHERE id = (SELECT id
        FROM job ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id`)
      if (rows[0] === undefined) break
      taken.push(rows[0].id)
      if (turn % 10 === worker) await client.query('SELECT clear_buffer_cache()')
    }
    await client.end()
  })
  await Promise.all(workers)
  expect(taken.toSorted((one, other) => one - other)).toEqual(
    Array.from({ length: JOBS }, (_, index) => index + 1),
  )
})

test('statements that are cut off in the middle of reading leave a session that works', async () => {
  const { compute } = twins
  const expected = await twins.same('SELECT count(*), sum(v), sum(length(pad)) FROM item')
  const client = await compute.connect()
  const other = await compute.connect()
  const { rows: pid } = await client.query('SELECT pg_backend_pid() AS pid')
  const long = [
    'SELECT sum(length(pad)) FROM item, generate_series(1, 3)',
    'SELECT count(*) FROM item WHERE v = 3 AND pad > $$a$$',
    'CREATE INDEX cut_off ON item USING gist (box(point(id, v), point(v, id)))',
    'CREATE INDEX cut_off ON item USING gin ((ARRAY[id, v]))',
    'UPDATE item SET v = v + 1',
    'VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) item',
    'REINDEX TABLE item',
  ]
  let cut = 0
  for (let turn = 0; turn < 42; turn++) {
    await other.query('SELECT clear_buffer_cache()')
    const sql = long[turn % long.length] as string
    const byTimeout = turn % 2 === 0
    const afterMs = 1 + ((turn * 7) % 60)
    if (byTimeout) await client.query(`SET statement_timeout = ${afterMs}`)
    const running = client.query(sql).then(
      () => 'done',
      (error: pg.DatabaseError) => error.code,
    )
    if (!byTimeout) {
      await sleep(afterMs)
      await other.query('SELECT pg_cancel_backend($1)', [pid[0].pid])
    }
    const outcome = await running
    // A cancel that came too late may still hit the next statement.
    await client.query('SELECT 1').catch(() => {})
    if (byTimeout) await client.query('SET statement_timeout = 0')
    if (outcome === QUERY_CANCELED) cut++
    else expect(outcome, sql).toBe('done')
    await client.query('DROP INDEX IF EXISTS cut_off')
    const { rows } = await client.query('SELECT count(*), sum(length(pad)) FROM item')
    expect(rows[0].count, `${sql} after ${afterMs} ms`).toBe(expected[0]?.['count'])
  }
  expect(cut).toBeGreaterThan(10)
  // Ended altogether while it reads.
  await other.query('SELECT clear_buffer_cache()')
  const ended = client.query(long[0] as string).catch((error: pg.DatabaseError) => error.code)
  await sleep(5)
  await other.query('SELECT pg_terminate_backend($1, 5000)', [pid[0].pid])
  expect(['57P01', undefined]).toContain(await ended)
  const { rows: left } = await other.query(
    'SELECT count(*)::int AS n FROM pg_stat_activity WHERE pid = $1',
    [pid[0].pid],
  )
  expect(left).toEqual([{ n: 0 }])
  await other.query('CREATE EXTENSION amcheck')
  expect(await compute.query(`SELECT * FROM verify_heapam('item')`)).toEqual([])
  await other.query(`SELECT bt_index_check('item_pkey', true), bt_index_check('item_v', true)`)
  await other.end()
})

test('timeouts of idle transactions and of locks', async () => {
  await twins.same(`SET idle_in_transaction_session_timeout = '50ms'; BEGIN; SELECT 1`, A)
  await sleep(1000)
  for (const side of ['zenith', 'stock'] as const) {
    const client = (await twins.clients('a'))[side]
    await expect(client.query('SELECT 1')).rejects.toThrow()
  }
  await twins.end('a').catch(() => {})
  await twins.same('BEGIN; LOCK TABLE item', B)
  await twins.same(`SET lock_timeout = '50ms'`)
  await twins.same('SELECT count(*) FROM item', { fails: true })
  await twins.same('COMMIT', B)
  await twins.same(`SET lock_timeout = 0; SET transaction_timeout = '100ms'`)
  await twins.same('SELECT pg_sleep(2)', { fails: true })
})

test('a backend that is killed ends the compute, and the next one has what was acknowledged', async () => {
  const client = await twins.compute.connect()
  await client.query('CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)')
  await client.query('BEGIN; INSERT INTO kept SELECT 2 FROM generate_series(1, 1000)')
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')
  process.kill(rows[0]?.pid as number, 'SIGKILL')
  expect(await twins.compute.exited).toBe(1)
  await twins.crash()
  expect(await twins.compute.query('SELECT n FROM kept')).toEqual([{ n: 1 }])
})
