/** A hot standby goes on, and stays right, when the services around it die and come back. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { callPageserver } from '#libs/api/pageserver.ts'
import { FILE_CACHE, Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'
import { caughtUp, SMALL, until } from '../fixtures/replica.ts'

test('services die one after the other under load', async () => {
  await using zenith = await Installation.create({ safekeepers: 3 })
  const primary = await zenith.startCompute('main', { settings: SMALL })
  const follow = () =>
    zenith.startCompute('main', { name: 'reader', mode: 'replica', settings: SMALL })
  let replica = await follow()
  // Another one with the cache that users have, which must never show an old page either.
  const cached = await zenith.startCompute('main', {
    name: 'cached',
    mode: 'replica',
    settings: { ...SMALL, ...FILE_CACHE },
  })
  const ledger = new Ledger(() => primary.connect(), 3)
  await ledger.createTables()
  ledger.start()
  await caughtUp(replica, primary)
  await caughtUp(cached, primary)

  const total = async (compute = replica) => {
    const [row] = await compute.query(
      `SELECT sum(balance)::int AS sum, (SELECT count(*)::int FROM ledger) AS rows FROM account`,
    )
    expect(row?.['sum']).toBe(200_000)
    return Number(row?.['rows'])
  }
  const goesOn = async (what: string) => {
    const acknowledged = ledger.acknowledgedCount
    await ledger.progress(30, 60_000)
    for (const compute of [replica, cached]) {
      await until(`the replica has what was committed after ${what}`, async () => {
        return (await total(compute)) >= acknowledged
      })
    }
  }
  await goesOn('its start')

  const source = await replica.value('SELECT sender_port::int FROM pg_stat_wal_receiver')
  const index = zenith.safekeeperNodes.findIndex(({ pgPort }) => pgPort === source)
  expect(index).toBeGreaterThanOrEqual(0)
  await zenith.safekeepers[index]?.stop('SIGKILL')
  await goesOn('its safekeeper died')
  expect(await replica.value('SELECT sender_port::int FROM pg_stat_wal_receiver')).not.toBe(source)

  await zenith.pageserver.stop('SIGKILL')
  const during = total()
  await sleep(500)
  await zenith.start()
  expect(await during).toBeGreaterThan(0)
  await goesOn('the pageserver died')

  await replica.kill()
  replica = await follow()
  await goesOn('the replica died')

  await Promise.all(zenith.safekeepers.map((one) => one.stop('SIGKILL')))
  await zenith.start()
  await goesOn('all safekeepers died')

  await primary.query('VACUUM FULL ledger')
  await primary.query('VACUUM account')
  await goesOn('vacuum')
  await ledger.stop()
  const SUM = `SELECT (SELECT md5(string_agg(l::text, ',' ORDER BY client, seq)) FROM ledger l) ||
    (SELECT md5(string_agg(a::text, ',' ORDER BY id)) FROM account a)`
  for (const compute of [replica, cached]) {
    await caughtUp(compute, primary)
    expect(await compute.value(SUM)).toBe(await primary.value(SUM))
  }
})

test('a page that redo has passed over is not shown before the pageserver has its change', async () => {
  await using zenith = await Installation.create()
  const primary = await zenith.startCompute('main')
  await primary.query('CREATE EXTENSION zenith_test_utils')
  await primary.query('CREATE TABLE p (id int PRIMARY KEY, v int)')
  await primary.query('INSERT INTO p SELECT g, 1 FROM generate_series(1, 20000) g')
  const settings = { ...SMALL, ...FILE_CACHE }
  const replica = await zenith.startCompute('main', { name: 'reader', mode: 'replica', settings })
  const sum = async () => Number(await replica.value('SELECT sum(v)::int FROM p'))
  // A cursor that has read ahead, and pages in the file cache: neither may be shown later.
  const slow = await replica.connect()
  await slow.query('BEGIN; DECLARE c CURSOR FOR SELECT v FROM p; FETCH 300 FROM c')
  expect(await sum()).toBe(20_000)
  await replica.query('SELECT clear_buffer_cache()')

  const { tenantId, timelineId } = primary.spec
  const { host, httpPort } = zenith.pageserverNode
  const receiveFrom = (safekeepers: typeof zenith.safekeeperNodes) =>
    callPageserver(`http://${host}:${httpPort}`, 'setSafekeepers', {
      params: { tenantId, timelineId },
      body: { safekeepers },
    })
  await receiveFrom([])
  await primary.query('UPDATE p SET v = 2 WHERE id % 2 = 0')
  await caughtUp(replica, primary)
  let shown: number | null = null
  const answer = sum().then((value) => (shown = value))
  const rest = slow.query('FETCH ALL FROM c')
  await sleep(1500)
  expect(shown).toBeNull()
  await receiveFrom(zenith.safekeeperNodes)
  expect(await answer).toBe(30_000)
  // The cursor's snapshot is from before the update.
  expect((await rest).rows.filter(({ v }) => v !== 1)).toEqual([])
  await slow.end()
})

test('a primary with larger limits does not stop its replicas', async () => {
  await using zenith = await Installation.create()
  const first = await zenith.startCompute('main', { settings: SMALL })
  const replica = await zenith.startCompute('main', {
    name: 'reader',
    mode: 'replica',
    settings: SMALL,
  })
  expect(await replica.value('SHOW max_connections')).toBe('100')
  await first.query('CREATE TABLE t AS SELECT 1 AS n')
  await caughtUp(replica, first)
  await first.stop()
  const second = await zenith.startCompute('main', {
    settings: { ...SMALL, max_connections: '150', max_prepared_transactions: '90' },
  })
  await second.query('INSERT INTO t VALUES (2)')
  await until('the replica follows with limits as large', async () => {
    try {
      return (await replica.value('SELECT count(*)::int FROM t')) === 2
    } catch {
      return false
    }
  })
  expect(await replica.value('SHOW max_connections')).toBe('150')
  await replica.stop()
  const later = await zenith.startCompute('main', {
    name: 'later',
    mode: 'replica',
    settings: SMALL,
  })
  expect(await later.value('SHOW max_prepared_transactions')).toBe('90')
})
