/**
 * History is kept as long as asked and no longer: branches, static computes and standbys read what
 * they need through garbage collection; what nobody needs goes, and is refused by name.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import type { HistorySettings } from '#libs/api/pageserver-retention.ts'
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { ZenithCommand } from '../fixtures/zenith-command.ts'

const LEASE_SECONDS = 3
/** Few buffers, so that pages are really asked of the pageserver. */
const SMALL = { shared_buffers: '1MB' }
const NOTHING: HistorySettings = { pitrIntervalMs: 0, pitrBytes: 0 }

describe('history', () => {
  let zenith: Installation
  let primary: Compute
  let main: string
  /** Of the pageserver that has the tenant. */
  let pageserverUrl: string

  beforeAll(async () => {
    zenith = await Installation.create({
      pageservers: 2,
      pageserver: { lease_seconds: LEASE_SECONDS, gc_period_seconds: 3600 },
      control: { lease_renewal_seconds: 0.5, pageserver_lost_after: 0 },
    })
    pageserverUrl = zenith.pageserverUrl
    primary = await zenith.startCompute('main', { settings: SMALL })
    const branches = await callControl(zenith.controlUrl, 'listBranches', {
      params: { tenantId: zenith.tenantId },
    })
    main = branches[0]?.timelineId as string
  })
  afterAll(() => zenith[Symbol.asyncDispose]())

  const timeline = () => ({ tenantId: zenith.tenantId, timelineId: main })
  /** The end of the WAL; on return it has been committed. */
  const lsnNow = async () => {
    const lsn = String(await primary.value('SELECT pg_current_wal_insert_lsn()'))
    await primary.query(`SELECT pg_logical_emit_message(true, 'test', '')`)
    return lsn
  }
  /** Everything durable and imaged, so that only what is needed has a reason to stay. */
  const tidy = async () => {
    await primary.query('CHECKPOINT')
    const lsn = await lsnNow()
    const options = { params: timeline() }
    await callPageserver(pageserverUrl, 'waitLsn', {
      ...options,
      body: { lsn, timeoutMs: 60_000 },
    })
    await callPageserver(pageserverUrl, 'checkpoint', options)
    await callPageserver(pageserverUrl, 'compact', { ...options, timeoutMs: 60_000 })
  }
  /** Waits while the tenant rests after it was attached. */
  const collect = async (body: Partial<HistorySettings> = NOTHING) => {
    for (;;) {
      try {
        return await callPageserver(pageserverUrl, 'collectGarbage', {
          params: timeline(),
          body,
        })
      } catch (error) {
        if (!(error instanceof ZenithError) || error.code !== 'unavailable') throw error
        await sleep(200)
      }
    }
  }
  const branchAt = (name: string, place: { from?: string; lsn?: string; at?: string }) =>
    callControl(zenith.controlUrl, 'createBranch', {
      params: { tenantId: zenith.tenantId },
      body: { name, from: 'main', ...place },
    })
  const countOn = async (branch: string) => {
    const compute = await zenith.startCompute(branch, { settings: SMALL })
    const count = await compute.value('SELECT count(*) FROM rows')
    await compute.stop()
    return Number(count)
  }
  const lsnAt = (time: string, name = 'main') =>
    callControl(zenith.controlUrl, 'lsnAtTime', {
      params: { tenantId: zenith.tenantId, name },
      query: { time },
    })
  /** To another pageserver; resolves when the old one has let go. */
  const moveTo = async (to: number) => {
    const params = { tenantId: zenith.tenantId }
    await callControl(zenith.controlUrl, 'moveTenant', { params, body: { to } })
    await expect
      .poll(() => callControl(zenith.controlUrl, 'listPlacements'), { timeout: 60_000 })
      .toMatchObject([{ pageserverId: to, move: null }])
    const node = zenith.pageserverNodes.find(({ id }) => id === to)
    pageserverUrl = `http://${node?.host}:${node?.httpPort}`
  }
  const timeAt = (lsn: string) =>
    callControl(zenith.controlUrl, 'timeAtLsn', {
      params: { tenantId: zenith.tenantId, name: 'main' },
      query: { lsn },
    })

  const info = (name: string) =>
    callControl(zenith.controlUrl, 'getBranchDetails', {
      params: { tenantId: zenith.tenantId, name },
    })
  /** Archives a branch `rest` that has changed the table; it can be brought back and looked at. */
  const restOn = async (table: string) => {
    const sum = `SELECT count(*) || md5(string_agg(t::text, ',' ORDER BY id)) FROM ${table} t`
    const params = { tenantId: zenith.tenantId, name: 'rest' }
    await branchAt('rest', {})
    const before = await zenith.startCompute('rest', { settings: SMALL })
    await before.query(`DELETE FROM ${table} WHERE id % 3 = 0`)
    const expected = await before.value(sum)
    await before.stop()
    await callControl(zenith.controlUrl, 'archiveBranch', { params, body: {} })
    return {
      expectSame: async () => {
        await callControl(zenith.controlUrl, 'unarchiveBranch', { params, body: {} })
        const after = await zenith.startCompute('rest', { settings: SMALL })
        expect(await after.value(sum)).toBe(expected)
        await after.stop()
      },
    }
  }

  test('branches behind keep their rows when nothing else of the past is kept', async () => {
    await primary.query('CREATE TABLE rows (id int)')
    await primary.query('INSERT INTO rows SELECT generate_series(1, 100)')
    const early = await lsnNow()
    await tidy()
    const noon = String(await primary.value('SELECT clock_timestamp()::text'))
    await primary.query('INSERT INTO rows SELECT generate_series(1, 200000)')
    const middle = await lsnNow()
    await tidy()
    await primary.query('INSERT INTO rows SELECT generate_series(1, 200000)')
    const late = await lsnNow()

    expect((await branchAt('early', { lsn: early })).branchLsn).toBe(early)
    await branchAt('middle', { lsn: middle })
    await branchAt('late', { lsn: late })
    expect(await lsnAt(noon)).toMatchObject({ answer: 'present' })
    await branchAt('noon', { at: noon })
    // A child has no state of its own before it began, whatever its parent still has.
    expect(await lsnAt(noon, 'late')).toMatchObject({ answer: 'past', lsn: late, oldestLsn: late })
    await expect(branchAt('before', { from: 'late', at: noon })).rejects.toMatchObject({
      code: 'out_of_range',
    })
    const boundary = Math.ceil(parseLsn(early) / 2 ** 24) * 2 ** 24
    expect(boundary).toBeLessThan(parseLsn(late))
    await branchAt('boundary', { lsn: formatLsn(boundary) })
    const midPage = parseLsn(middle) + 4099
    await branchAt('mid-page', { lsn: formatLsn(midPage) })

    // Layers that are neither below a branch point nor what is left in the end.
    for (let round = 0; round < 2; round++) {
      await tidy()
      await primary.query('UPDATE rows SET id = id + 1 WHERE id <= 100')
    }
    await tidy()
    const collected = await collect()
    expect(collected.removedLayers).toBeGreaterThan(0)
    expect(parseLsn(collected.cutoffLsn as string)).toBeGreaterThan(parseLsn(late))
    expect(collected.retainedPoints).toEqual(expect.arrayContaining([early, middle]))

    expect(await countOn('early')).toBe(100)
    expect(await countOn('noon')).toBe(100)
    expect(await countOn('middle')).toBe(200_100)
    expect(await countOn('mid-page')).toBeGreaterThanOrEqual(200_100)
    await primary.stop()
    primary = await zenith.startCompute('main', { settings: SMALL })
    expect(Number(await primary.value('SELECT count(*) FROM rows'))).toBe(400_100)

    const cutoff = collected.cutoffLsn as string
    await expect(branchAt('behind', { lsn: late })).rejects.toThrow(
      new RegExp(`"main" at ${late} is gone: the oldest LSN that is kept is ${cutoff}, of 20`),
    )
    await expect(branchAt('nothing', { lsn: '0/100' })).rejects.toMatchObject({
      code: 'out_of_range',
    })
    await expect(branchAt('below', { from: 'middle', lsn: early })).rejects.toMatchObject({
      code: 'out_of_range',
    })
    await branchAt('at-cutoff', { lsn: cutoff })
    expect(await countOn('at-cutoff')).toBe(400_100)

    expect(await lsnAt(noon)).toMatchObject({ answer: 'past', lsn: cutoff, oldestLsn: cutoff })
    await expect(branchAt('afternoon', { at: noon })).rejects.toThrow('is gone: it is kept from')
    expect(await lsnAt('2199-01-01T00:00:00Z')).toMatchObject({ answer: 'future' })
    expect(await timeAt(early)).toMatchObject({ answer: 'past', oldestLsn: cutoff })
    expect(await timeAt('F/0')).toMatchObject({ answer: 'future' })
    const { time, answer } = await timeAt(await lsnNow())
    expect(answer).toBe('present')
    expect(Math.abs(Date.parse(time as string) - Date.now())).toBeLessThan(60_000)
  })

  test('a window of a day keeps 9900 commits, each of which can be branched from', async () => {
    await primary.query('CREATE TABLE commits (id int)')
    const lsn = await lsnNow()
    await primary.query(
      'DO $$ BEGIN FOR i IN 1..9900 LOOP INSERT INTO commits VALUES (i); COMMIT; END LOOP; END $$',
    )
    await tidy()
    const before = await collect({ pitrIntervalMs: 86_400_000, pitrBytes: null })
    expect(before.removedLayers).toBe(0)
    expect(parseLsn(before.cutoffLsn as string)).toBeLessThan(parseLsn(lsn))
    await branchAt('day', { lsn })
    const compute = await zenith.startCompute('day', { settings: SMALL })
    expect(Number(await compute.value('SELECT count(*) FROM commits'))).toBe(0)
    await compute.stop()
  })

  test('a static compute reads on through collections, a restart and a move, until its lease lapses', async () => {
    await primary.query(
      'CREATE TABLE pages AS SELECT g AS id, md5(g::text) AS body FROM generate_series(1, 30000) g',
    )
    const lsn = await lsnNow()
    const SUM = 'SELECT count(*) || md5(string_agg(body, $$,$$ ORDER BY id)) FROM pages'
    const sum = await primary.value(SUM)
    const view = await zenith.startCompute('main', {
      name: 'view',
      mode: 'static',
      lsn,
      settings: SMALL,
    })
    const churn = async () => {
      await primary.query(`UPDATE pages SET body = md5(body)`)
      await primary.query('VACUUM pages')
      await tidy()
    }
    await churn()
    expect((await collect()).retainedPoints).toContain(lsn)
    expect(await view.value(SUM)).toBe(sum)

    await zenith.pageserver.stop('SIGKILL')
    await zenith.start()
    expect(await view.value(SUM)).toBe(sum)
    await churn()
    // The rest after the restart is over; the lease has been renewed meanwhile.
    expect((await collect()).retainedPoints).toContain(lsn)
    expect(await view.value(SUM)).toBe(sum)

    // The next holder reads the lease in the manifest, and keeps what it covers as the last one did.
    const rest = await restOn('pages')
    await moveTo(2)
    expect((await info('rest')).state).toBe('archived')
    const local = join(zenith.dir, 'pageserver2', 'tenants', zenith.tenantId, 'timelines')
    expect(readdirSync(local)).not.toContain((await info('rest')).timelineId)
    await churn()
    const moved = await collect()
    expect(parseLsn(moved.cutoffLsn as string)).toBeGreaterThan(parseLsn(lsn))
    expect(moved.retainedPoints).toContain(lsn)
    expect(await view.value(SUM)).toBe(sum)
    await rest.expectSame()

    await view.stop()
    // When its bytes go is compaction's choice, by what there is to gain; it may not be read any more.
    await expect
      .poll(async () => (await collect()).retainedPoints, { timeout: 60_000, interval: 200 })
      .not.toContain(lsn)
    await expect(zenith.startCompute('main', { name: 'view' })).rejects.toThrow(
      /Endpoint "view" cannot be started: the history of timeline/,
    )
  })

  test('a standby that does not go on keeps what it shows', async () => {
    const SUM = 'SELECT count(*) || md5(string_agg(body, $$,$$ ORDER BY id)) FROM pages'
    await collect()
    const replica = await zenith.startCompute('main', {
      name: 'replica',
      mode: 'replica',
      settings: SMALL,
    })
    const lsn = await lsnNow()
    await expect
      .poll(() => replica.value(`SELECT pg_last_wal_replay_lsn() >= '${lsn}'`), { timeout: 60_000 })
      .toBe(true)
    await replica.query('SELECT pg_wal_replay_pause()')
    await expect
      .poll(() => replica.value('SELECT pg_get_wal_replay_pause_state()'), { timeout: 60_000 })
      .toBe('paused')
    const sum = await replica.value(SUM)
    const shown = String(await replica.value('SELECT pg_last_wal_replay_lsn()'))
    // Two renewals, so that the horizon is where it stands and not where it began.
    await sleep(1500)
    await primary.query(`UPDATE pages SET body = body || 'x'`)
    await tidy()
    const { cutoffLsn } = await collect()
    expect(parseLsn(cutoffLsn as string)).toBeLessThanOrEqual(parseLsn(shown))
    expect(await replica.value(SUM)).toBe(sum)
    await replica.query('SELECT pg_wal_replay_resume()')
    await replica.stop()
  })
})

test('the commands: how much is kept, what was when, branches and servers of then', async () => {
  await using zenith = new ZenithCommand()
  await zenith.ok('init')
  await zenith.ok('start')
  await zenith.ok('pg start main')
  await zenith.sql('main', 'CREATE TABLE t AS SELECT 1 AS x')
  const [{ then }] = (await zenith.sql('main', 'SELECT clock_timestamp()::text AS then')) as [
    { then: string },
  ]
  const time = then.replace(' ', 'T').replace('+00', 'Z')
  await zenith.sql('main', 'INSERT INTO t VALUES (2)')

  expect(await zenith.ok('tenant show')).toMatch(
    /^Tenant [0-9a-f]{32} keeps history for 7d\.\nThe databases of a branch may have any size\.\nIt is in one piece at pageserver.*\nWith one pageserver .* of more than 64GB is\.\n\nBRANCH +OLDEST LSN .*\nmain +0\/[0-9A-F]+ +20/,
  )
  expect(await zenith.ok('tenant set --history 30d --history-bytes 10GB')).toMatch(
    /^History is kept for 30d, of that 10GB of WAL at most\.\n$/,
  )
  expect(await zenith.json('tenant set --history-bytes none')).toEqual({
    pitrIntervalMs: 30 * 86_400_000,
    pitrBytes: null,
  })
  expect(await zenith.run('tenant set')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('Nothing is to be set'),
  })
  expect((await zenith.run('tenant set --history week')).stderr).toContain('is not a time')

  const lsn = (await zenith.ok(`branch lsn main ${time}`)).trim()
  expect(lsn).toMatch(/^0\/[0-9A-F]+$/)
  expect((await zenith.ok(`branch time main ${lsn}`)).trim() < time).toBe(true)
  expect(await zenith.run('branch lsn main 2000-01-01T00:00:00Z')).toMatchObject({
    code: 3,
    stdout: '',
    stderr: expect.stringContaining('is before what is kept of main: it begins at 0/'),
  })
  expect(await zenith.run('branch lsn main 2199-01-01T00:00:00Z')).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^0\/[0-9A-F]+\n$/),
    stderr: expect.stringContaining('no commit is later'),
  })
  expect(await zenith.run('branch time main F/0')).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(/^[0-9TZ:.-]+\n$/),
    stderr: expect.stringContaining('is after the end of main'),
  })

  expect(await zenith.ok(`branch then main@${time}`)).toBe(`Created branch 'then' at ${lsn}\n`)
  const info = await zenith.json<{ name: string; branch: string }>(`pg start main --at ${time}`)
  expect(info).toMatchObject({ branch: 'main', mode: 'static', readLsn: lsn })
  expect(info.name).toMatch(/^main-at-20/)
  expect(await zenith.sql(info.name, 'SELECT x FROM t')).toEqual([{ x: 1 }])
  expect(await zenith.json(`pg start main --at ${lsn}`)).toMatchObject({
    name: `main-at-${lsn.toLowerCase().replace('/', '-')}`,
    readLsn: lsn,
  })
  expect((await zenith.run('branch old main@2000-01-01T00:00:00Z')).stderr).toContain('began after')
})
