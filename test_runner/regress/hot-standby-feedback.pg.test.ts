/** What a hot standby's queries need, and what happens to them when they did not say so. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { caughtUp, quiet, SMALL, until } from '../fixtures/replica.ts'

describe('hot standby feedback', () => {
  let zenith: Installation
  let primary: Compute

  beforeAll(async () => {
    zenith = await Installation.create()
    primary = await zenith.startCompute('main', { settings: SMALL })
  })
  afterAll(() => zenith[Symbol.asyncDispose]())

  const follow = (name: string, settings: Record<string, string>) =>
    zenith.startCompute('main', { name, mode: 'replica', settings })

  test('feedback keeps what its queries need, and lets go when it leaves', async () => {
    await primary.query('CREATE TABLE h AS SELECT generate_series(1, 5000) AS n')
    const replica = await follow('needing', { ...SMALL, wal_receiver_status_interval: '1s' })
    await caughtUp(replica, primary)
    const xmin = () =>
      primary.value(`SELECT xmin::text FROM pg_replication_slots WHERE slot_name = 'walproposer'`)
    await until('the primary knows what the replica needs', async () => (await xmin()) !== null)
    const reader = await replica.connect()
    await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    const count = async () => (await reader.query('SELECT count(*)::int AS n FROM h')).rows[0].n
    expect(await count()).toBe(5000)
    await primary.query('DELETE FROM h WHERE n > 10')
    await primary.query('VACUUM h')
    await quiet(replica, primary)
    expect(await count()).toBe(5000)
    expect(Number(await primary.value(`SELECT pg_relation_size('h') / 8192`))).toBeGreaterThan(10)
    await reader.query('COMMIT')
    await reader.end()
    await replica.stop()
    await until('the primary forgets the replica', async () => (await xmin()) === null)
    await primary.query('VACUUM h')
    expect(Number(await primary.value(`SELECT pg_relation_size('h') / 8192`))).toBe(1)
  })

  test('the oldest need of several replicas counts, and that of one that vanishes no more', async () => {
    const settings = { ...SMALL, wal_receiver_status_interval: '1s' }
    const [old, young] = [await follow('old', settings), await follow('young', settings)]
    const xmin = () =>
      primary.value(`SELECT xmin::text FROM pg_replication_slots WHERE slot_name = 'walproposer'`)
    /** Opens a snapshot on a replica and returns its horizon. */
    const hold = async (replica: Compute) => {
      await caughtUp(replica, primary)
      const reader = await replica.connect()
      await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
      const { rows } = await reader.query(
        'SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS xmin',
      )
      return { reader, xmin: Number(rows[0].xmin) }
    }
    const first = await hold(old)
    for (let at = 0; at < 3; at += 1) await primary.query('SELECT pg_current_xact_id()')
    await primary.query('CREATE TABLE later (n int)')
    const second = await hold(young)
    expect(second.xmin).toBeGreaterThan(first.xmin)
    await until('the older one counts', async () => Number(await xmin()) === first.xmin)
    await old.kill()
    await until('the younger one counts', async () => Number(await xmin()) === second.xmin)
    await first.reader.end().catch(() => undefined)
    await second.reader.query('COMMIT')
    await second.reader.end()
    await young.stop()
    await until('nobody counts', async () => (await xmin()) === null)
  })

  test('without feedback a query is ended when its rows are vacuumed away', async () => {
    await primary.query('CREATE TABLE g AS SELECT generate_series(1, 5000) AS n')
    const replica = await follow('careless', {
      ...SMALL,
      hot_standby_feedback: 'off',
      max_standby_streaming_delay: '200ms',
    })
    await caughtUp(replica, primary)
    const reader = await replica.connect()
    await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    expect((await reader.query('SELECT count(*)::int AS n FROM g')).rows[0].n).toBe(5000)
    await primary.query('DELETE FROM g WHERE n > 10')
    await primary.query('VACUUM g')
    await caughtUp(replica, primary)
    await expect(reader.query('SELECT count(*) FROM g')).rejects.toThrow(
      /conflict with recovery|Connection terminated|not queryable/,
    )
    await reader.end().catch(() => undefined)
    expect(await replica.value('SELECT count(*)::int FROM g')).toBe(10)
    await replica.stop()
  })
})
