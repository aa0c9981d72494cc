/** The life of branches with real Postgres: what is kept, what is moved, and what is gone. */
import { existsSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { callControl } from '#libs/api/control-client.ts'
import type { ControlRouteName } from '#libs/api/control.ts'
import { requestText } from '#libs/http/client.ts'
import type { Compute } from '../fixtures/compute.ts'
import { filesBelow, Installation } from '../fixtures/installation.ts'
import { until } from '../fixtures/replica.ts'

/** What a safekeeper keeps of a timeline that was deleted, so that nobody brings it back. */
const isTombstone = (name: string) => /^safekeepers\/sk\d+\/tombstones\//.test(name)

const SUM = `SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM t`

describe('branches', () => {
  let zenith: Installation
  let main: Compute

  beforeAll(async () => {
    zenith = await Installation.create({
      safekeepers: 1,
      offload: {},
    })
    main = await zenith.startCompute('main', { settings: { wal_level: 'logical' } })
    await main.query('CREATE EXTENSION zenith')
    await main.query('CREATE TABLE t (id int PRIMARY KEY, body text)')
    await fill(main, 1, 5000)
  })
  afterAll(() => zenith[Symbol.asyncDispose]())

  const fill = (compute: Compute, from: number, to: number) =>
    compute.query(`INSERT INTO t SELECT g, md5(g::text) FROM generate_series(${from}, ${to}) g`)
  const lsnNow = async (compute: Compute) => {
    const lsn = String(await compute.value('SELECT pg_current_wal_insert_lsn()'))
    await compute.query(`SELECT pg_logical_emit_message(true, 'test', '')`)
    return lsn
  }
  type Change = Extract<ControlRouteName, `${string}Branch`>
  const change = (route: Change, name: string, body: object = {}) =>
    callControl(zenith.controlUrl, route, {
      params: { tenantId: zenith.tenantId, name },
      body: body as never,
      timeoutMs: 120_000,
    }) as Promise<Record<string, unknown>>
  const remove = (name: string, query: Record<string, string> = {}) =>
    callControl(zenith.controlUrl, 'deleteBranch', {
      params: { tenantId: zenith.tenantId, name },
      query,
      timeoutMs: 120_000,
    })
  const details = (name: string) =>
    callControl(zenith.controlUrl, 'getBranchDetails', {
      params: { tenantId: zenith.tenantId, name },
    })
  const timelines = () =>
    callControl(zenith.controlUrl, 'listTimelines', { params: { tenantId: zenith.tenantId } })
  const branches = () =>
    callControl(zenith.controlUrl, 'listBranches', { params: { tenantId: zenith.tenantId } })
  const refusal = (work: Promise<unknown>) =>
    work.then(
      () => 'done',
      (error: { code?: string }) => error.code,
    )
  const traces = (timelineId: string) =>
    ['object-store', 'safekeepers', 'pageserver'].flatMap((folder) =>
      filesBelow(join(zenith.dir, folder)).filter((name) => name.includes(timelineId)),
    )

  test('a branch is detached under writes, and its parent deleted', async () => {
    const slot = `SELECT count(*) FROM pg_replication_slots WHERE slot_name = 's'`
    await main.query(`SELECT pg_create_logical_replication_slot('s', 'pgoutput')`)
    const earlyLsn = await lsnNow(main)
    const earlySum = await main.value(SUM)
    await fill(main, 5001, 9000)
    await zenith.createBranch('early', { lsn: earlyLsn })
    await zenith.createBranch('dev')
    const dev = await zenith.startCompute('dev')
    await fill(main, 9001, 9100)
    await zenith.createBranch('late')
    let written = 9000
    let writing = true
    const write = async () => {
      while (writing) await fill(dev, ++written, written)
    }
    const writer = write()
    expect(await refusal(remove('main', { evenMain: 'true', force: 'true' }))).toBe('conflict')
    const mainId = (await details('main')).timelineId
    const detached = await change('detachBranch', 'dev')
    expect(detached).toMatchObject({ parent: null, branchLsn: null, state: 'active' })
    // Again: it is so already.
    expect(await change('detachBranch', 'dev')).toMatchObject({ parent: null })
    await sleep(300)
    writing = false
    await writer
    await until('the pageserver has all', async () => {
      const { lag } = await details('dev')
      return lag?.bytes === 0 && lag.ms === 0
    })
    const parents = Object.fromEntries((await branches()).map((one) => [one.name, one.parent]))
    expect(parents).toEqual({ main: null, dev: null, early: 'dev', late: 'main' })
    const devSum = await dev.value(SUM)
    expect((await details('dev')).sizes?.adoptedBytes).toBeGreaterThan(0)

    expect(await refusal(remove('main', { evenMain: 'true', force: 'true' }))).toBe('conflict')
    await remove('late')
    expect(await refusal(remove('main'))).toBe('conflict')
    expect(await refusal(remove('main', { evenMain: 'true' }))).toBe('conflict')
    await remove('main', { evenMain: 'true', force: 'true' })
    expect((await timelines()).map(({ branch }) => branch).sort()).toEqual(['dev', 'early'])
    const atSafekeeper = (timelineId: string) =>
      existsSync(join(zenith.dir, 'safekeepers/sk1/tenants', zenith.tenantId, timelineId))
    expect(atSafekeeper(dev.spec.timelineId)).toBe(true)
    expect(atSafekeeper(mainId)).toBe(false)

    // From object storage alone, after a power cut.
    await zenith.killAll()
    rmSync(join(zenith.dir, 'pageserver', 'tenants'), { recursive: true, force: true })
    await zenith.start()
    const again = await zenith.startCompute('dev')
    expect(await again.value(SUM)).toBe(devSum)
    expect(await again.value(slot)).toBe('0')
    await again.query('VACUUM FULL t')
    expect(await again.value(SUM)).toBe(devSum)
    const early = await zenith.startCompute('early')
    expect(await early.value(SUM)).toBe(earlySum)
    await early.stop()
    await again.stop()
  })

  test('a branch is archived and brought back with identical sums', async () => {
    const leaf = await zenith.startCompute('leaf', await branchOf('leaf', 'dev'))
    await fill(leaf, 100_001, 103_000)
    await leaf.query('DELETE FROM t WHERE id % 7 = 0')
    const sum = await leaf.value(SUM)
    expect(await refusal(change('archiveBranch', 'leaf'))).toBe('conflict')
    expect(await refusal(change('archiveBranch', 'dev'))).toBe('conflict')
    await leaf.stop()
    expect(await change('archiveBranch', 'leaf')).toMatchObject({ state: 'archived' })
    expect((await details('leaf')).lag).toBeNull()
    expect(await refusal(zenith.startCompute('leaf'))).toBe('conflict')
    const { timelineId } = await details('leaf')
    const local = () =>
      filesBelow(join(zenith.dir, 'pageserver', 'tenants')).filter((name) =>
        name.includes(timelineId),
      )
    expect(local()).toEqual([])
    await zenith.pageserver.stop('SIGKILL')
    await zenith.pageserver.start()
    await zenith.control.stop('SIGKILL')
    await zenith.control.start()
    expect(local()).toEqual([])
    expect((await details('leaf')).state).toBe('archived')
    expect(await change('unarchiveBranch', 'leaf')).toMatchObject({ state: 'active' })
    const back = await zenith.startCompute('leaf')
    expect(await back.value(SUM)).toBe(sum)
    await fill(back, 200_001, 200_010)
    await back.stop()
    await remove('leaf')
  })

  test('a branch is reset to its parent, and restored in place', async () => {
    const dev = await zenith.startCompute('dev')
    const feature = await zenith.startCompute('feature', await branchOf('feature', 'dev'))
    await feature.query('DELETE FROM t WHERE id > 100')
    const ownSum = await feature.value(SUM)
    await dev.query('UPDATE t SET body = body || id WHERE id % 10 = 0')
    const parentSum = await dev.value(SUM)

    await change('protectBranch', 'feature', { protected: true })
    expect(await refusal(change('resetBranch', 'feature'))).toBe('conflict')
    expect(await refusal(remove('feature', { force: 'true' }))).toBe('conflict')
    await change('protectBranch', 'feature', { protected: false })
    expect(await refusal(change('resetBranch', 'dev'))).toBe('conflict')
    const reset = await change('resetBranch', 'feature', { keepAs: 'feature-before' })
    expect(reset).toMatchObject({ kept: 'feature-before', stopped: ['feature'] })
    const after = await zenith.startCompute('feature')
    expect(await after.value(SUM)).toBe(parentSum)
    const before = await zenith.startCompute('feature-before')
    expect(await before.value(SUM)).toBe(ownSum)
    await before.stop()
    await remove('feature-before')

    // A mistake on the parent, which has children before and after it.
    const good = await lsnNow(dev)
    const goodSum = await dev.value(SUM)
    await dev.query('TRUNCATE t')
    await zenith.createBranch('after_mistake', { from: 'dev' })
    const restored = await change('restoreBranch', 'dev', { lsn: good })
    const kept = String(restored['kept'])
    expect(kept).toMatch(/^dev_old_\d{8}t\d{6}$/)
    expect(restored).toMatchObject({ stopped: ['dev'] })
    const again = await zenith.startCompute('dev')
    expect(await again.value(SUM)).toBe(goodSum)
    await fill(again, 300_001, 300_100)
    const parents = Object.fromEntries((await branches()).map((one) => [one.name, one.parent]))
    expect(parents).toMatchObject({ dev: null, feature: 'dev', after_mistake: kept, [kept]: null })
    // The old state can go, although what is there now was made of it.
    await remove('after_mistake')
    await remove(kept)
    const sum = await again.value(SUM)
    await again.stop()
    await zenith.pageserver.stop('SIGKILL')
    rmSync(join(zenith.dir, 'pageserver', 'tenants'), { recursive: true, force: true })
    await zenith.pageserver.start()
    const last = await zenith.startCompute('dev')
    expect(await last.value(SUM)).toBe(sum)
    expect(await after.value(SUM)).toBe(parentSum)
    await change('renameBranch', 'dev', { to: 'trunk' })
    expect((await last.info()).branch).toBe('trunk')
    await fill(last, 400_001, 400_002)
    await after.stop()
    await last.stop()
  })

  test('a deletion goes on by itself when a service was away, and leaves nothing', async () => {
    const gone = await zenith.startCompute('gone', await branchOf('gone', 'trunk'))
    await fill(gone, 500_001, 503_000)
    const { timelineId } = await details('gone')
    expect(traces(timelineId).length).toBeGreaterThan(0)
    await gone.stop()
    await zenith.pageserver.stop('SIGKILL')
    await remove('gone')
    await zenith.control.stop('SIGKILL')
    await zenith.control.start()
    // The name is free, whoever is away.
    expect((await branches()).some(({ name }) => name === 'gone')).toBe(false)
    await zenith.pageserver.start()
    await zenith.createBranch('gone', { from: 'trunk' })
    expect((await details('gone')).timelineId).not.toBe(timelineId)
    await until('the deletion has gone on', async () => {
      return (await timelines()).every((one) => one.timelineId !== timelineId)
    })
    await zenith.pageserver.stop()
    await zenith.pageserver.start()
    expect((await timelines()).some((one) => one.timelineId === timelineId)).toBe(false)
  })

  test('the tenant is deleted while a service is away, and nothing of it is left', async () => {
    const { tenantId, controlUrl } = zenith
    const params = { tenantId }
    const drop = (query: Record<string, string> = {}) =>
      callControl(controlUrl, 'deleteTenant', { params, query, timeoutMs: 120_000 })
    const tenants = async () =>
      (await callControl(controlUrl, 'listTenants')).map((one) => `${one.tenantId} ${one.state}`)
    await change('protectBranch', 'trunk', { protected: true })
    await expect(drop({ force: 'true' })).rejects.toMatchObject({
      hint: `Lift that first (zenith branch unprotect trunk --tenant ${tenantId}), or add --even-protected.`,
    })
    const sk = zenith.safekeepers[0]
    await sk?.stop('SIGKILL')
    expect(await drop({ force: 'true', evenProtected: 'true' })).toMatchObject({
      state: 'deleting',
      reason: expect.any(String),
    })
    expect(await tenants()).toEqual([`${tenantId} deleting`])
    expect(await refusal(zenith.startCompute('trunk'))).not.toBe('done')
    await zenith.control.stop('SIGKILL')
    await sk?.start()
    await zenith.control.start()
    await expect.poll(tenants, { timeout: 60_000 }).toEqual([])
    expect(await drop()).toMatchObject({ state: 'deleted' })
    const left = filesBelow(zenith.dir).filter(
      (name) => name.includes(tenantId) && !statSync(join(zenith.dir, name)).isDirectory(),
    )
    expect(left.filter((name) => !name.startsWith('pgdatadirs/') && !isTombstone(name))).toEqual([])
    const { text } = await requestText('GET', `${zenith.pageserverUrl}/metrics`)
    expect(text).not.toContain(tenantId)
    await expect(
      callControl(controlUrl, 'createTenant', { body: { tenantId } }),
    ).rejects.toMatchObject({ code: 'conflict' })
  })

  async function branchOf(name: string, from: string): Promise<object> {
    await zenith.createBranch(name, { from })
    return {}
  }
})
