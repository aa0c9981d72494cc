/** The pageserver as a process: its HTTP API, start and stop, and what it says when asked wrongly. */
import { createServer } from 'node:net'
import { describe, expect, test } from 'vitest'
import { callPageserver } from '#libs/api/pageserver.ts'
import { newTimelineId } from '#libs/ids.ts'
import { eventually } from '../fixtures/eventually.ts'
import { LonePageserver } from '../fixtures/lone-pageserver.ts'
import { ServiceProcess } from '../fixtures/service-process.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'

describe('the HTTP API', () => {
  test('creates are idempotent, contradictions are conflicts, errors are sentences', async () => {
    await using pageserver = await LonePageserver.start()
    const { tenantId, timelineId, url } = pageserver
    const made = await pageserver.info()
    expect(await pageserver.create(timelineId, { kind: 'bootstrap' })).toEqual(made)

    const branchId = newTimelineId()
    const origin = { ancestorTimelineId: timelineId, ancestorLsn: made.startLsn }
    const branch = await pageserver.create(branchId, { kind: 'branch', ...origin })
    expect(branch).toMatchObject({ ...origin, startLsn: made.startLsn, systemId: made.systemId })
    // Between the two answers the control plane may have confirmed the branch's generation.
    const remoteConsistentLsn = expect.toBeOneOf(['0/0', made.startLsn])
    expect(await pageserver.create(branchId, { kind: 'branch', ...origin })).toEqual({
      ...branch,
      remoteConsistentLsn,
    })
    await expect(pageserver.create(branchId, { kind: 'bootstrap' })).rejects.toMatchObject({
      code: 'conflict',
    })
    const elsewhere = { kind: 'branch' as const, ...origin, ancestorTimelineId: branchId }
    await expect(pageserver.create(branchId, elsewhere)).rejects.toMatchObject({ code: 'conflict' })
    await expect(
      pageserver.create(newTimelineId(), { kind: 'branch', ...origin, ancestorLsn: '0/8' }),
    ).rejects.toMatchObject({ code: 'out_of_range' })
    await expect(
      pageserver.create(newTimelineId(), { ...elsewhere, ancestorTimelineId: newTimelineId() }),
    ).rejects.toMatchObject({ code: 'not_found' })

    const list = await callPageserver(url, 'listTimelines', { params: { tenantId } })
    expect(list.map((one) => one.timelineId).toSorted()).toEqual([timelineId, branchId].toSorted())
    const sized = await callPageserver(url, 'getTimeline', {
      params: { tenantId, timelineId },
      query: { size: 'true' },
    })
    expect(sized.logicalSizeBytes).toBeGreaterThan(20_000_000)
    await expect(
      callPageserver(url, 'waitLsn', {
        params: { tenantId, timelineId },
        body: { lsn: '0/F000000', timeoutMs: 50 },
      }),
    ).rejects.toMatchObject({ code: 'timeout' })
    await expect(pageserver.call('attachTenant', { generation: 3 })).resolves.toBeDefined()
    await expect(pageserver.call('attachTenant', { generation: 2 })).rejects.toMatchObject({
      code: 'fenced',
    })
    expect((await pageserver.info()).startLsn).toBe(made.startLsn)
    const metrics = await (await fetch(`${url}/metrics`)).text()
    expect(metrics).toContain('zenith_pageserver_last_record_lsn')
  })

  test('a bootstrap that is asked for twice at the same time makes one timeline', async () => {
    await using pageserver = await LonePageserver.start()
    const id = newTimelineId()
    const [first, second] = await Promise.all([
      pageserver.create(id, { kind: 'bootstrap' }),
      pageserver.create(id, { kind: 'bootstrap' }),
    ])
    expect(first).toEqual(second)
    const other = await pageserver.info()
    expect(first.systemId).not.toBe(other.systemId)
  })
})

describe('the process', () => {
  test('stops cleanly with everything in object storage, and a kill loses nothing durable', async () => {
    await using pageserver = await LonePageserver.start()
    await using source = await VanillaPostgres.start({
      dataDir: await pageserver.backup('fullbackup'),
      settings: { fsync: 'off', autovacuum: 'off', wal_keep_size: '1GB' },
    })
    await pageserver.follow(source)
    await source.query('CREATE TABLE t AS SELECT generate_series(1, 50000) AS n')
    const [row] = await source.query('SELECT pg_current_wal_flush_lsn() AS lsn')
    await pageserver.waitForLsn(String(row?.['lsn']))
    const before = await pageserver.info()
    expect(before.walReceiver).toMatchObject({ state: 'streaming', safekeeperId: 1 })
    expect(await pageserver.process.stop('SIGTERM')).toBe(0)
    await pageserver.process.start()
    const after = await pageserver.info()
    expect(after.systemId).toBe(before.systemId)
    expect(after.remoteConsistentLsn >= before.lastRecordLsn).toBe(true)
    await pageserver.process.stop('SIGKILL')
    await pageserver.process.start()
    await pageserver.waitForLsn(after.lastRecordLsn)
  })

  test('WAL of another system is refused and said so', async () => {
    await using pageserver = await LonePageserver.start()
    await using stranger = await VanillaPostgres.start({ settings: { fsync: 'off' } })
    await pageserver.follow(stranger)
    const info = await eventually(async () => {
      const one = await pageserver.info()
      return one.walReceiver?.lastError ? one : null
    }, 'an error')
    expect(info.walReceiver?.lastError).toContain('the timeline belongs to')
    expect(info.lastRecordLsn).toBe(info.startLsn)
  })

  test('a port in use ends the start with a sentence that names it', async () => {
    await using pageserver = await LonePageserver.start()
    await pageserver.process.stop()
    const squatter = createServer().listen(pageserver.pgPort, '127.0.0.1')
    try {
      const { options } = pageserver.process
      const second = new ServiceProcess({ ...options, logFile: `${options.logFile}.second` })
      second.spawn()
      expect(await second.exited).toBe(1)
      expect(second.logTail()).toContain(String(pageserver.pgPort))
    } finally {
      squatter.close()
    }
  })
})
