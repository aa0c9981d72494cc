/**
 * A whole installation whose safekeepers offload: under a load that knows what was acknowledged, WAL
 * leaves three safekeepers as the pageserver has it; idle, the timeline leaves them altogether, and a
 * compute and a branch bring it back with every acknowledged transaction.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { callPageserver } from '#libs/api/pageserver.ts'
import { callSafekeeper, type SafekeeperTimeline } from '#libs/api/safekeeper.ts'
import { parseLsn } from '#libs/lsn.ts'
import { eventually } from '../fixtures/eventually.ts'
import { Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'

test('WAL leaves three safekeepers under load; an idle timeline leaves altogether and wakes', async () => {
  await using installation = await Installation.create({
    safekeepers: 3,
    offload: { tail_after_s: 0.5, evict_after_s: 2, takeover_s: 5 },
  })
  const { tenantId } = installation
  const compute = await installation.startCompute()
  const { timelineId } = compute.spec
  const params = { tenantId, timelineId }
  const status = (): Promise<SafekeeperTimeline[]> =>
    Promise.all(
      installation.safekeeperNodes.map(({ host, httpPort }) =>
        callSafekeeper(`http://${host}:${httpPort}`, 'getTimeline', { params }),
      ),
    )
  const segmentsOf = (index: number) =>
    readdirSync(
      join(installation.dir, `safekeepers/sk${index + 1}/tenants`, tenantId, timelineId),
    ).filter((name) => name.startsWith('0000'))

  const ledger = new Ledger(() => compute.connect(), 3)
  await ledger.createTables()
  ledger.start()
  const { host, httpPort } = installation.pageserverNode
  for (let round = 0; round < 4; round += 1) {
    await ledger.progress(20, 60_000)
    await compute.query('SELECT pg_switch_wal()')
    // The pageserver flushes, and tells the safekeeper that it streams from.
    await callPageserver(`http://${host}:${httpPort}`, 'checkpoint', { params })
  }
  await eventually(async () => {
    await callPageserver(`http://${host}:${httpPort}`, 'checkpoint', { params })
    const all = await status()
    const bound = parseLsn(all[0]?.startLsn as string) + 3 * 16 * 1024 * 1024
    return all.every((one) => parseLsn(one.localStartLsn) >= bound)
  }, 'WAL to leave all three while the load goes on')
  await ledger.stop()
  expect(await ledger.violations()).toEqual([])
  const acknowledged = ledger.acknowledgedCount
  expect(acknowledged).toBeGreaterThan(50)
  await compute.stop()

  await eventually(async () => (await status()).every((one) => one.evicted), 'all three to evict')
  await eventually(async () => [0, 1, 2].every((index) => segmentsOf(index).length === 0), 'files')
  const before = await status()
  // A power cut finds them evicted, and leaves them so.
  await installation.killAll()
  await installation.start()
  expect((await status()).map(({ evicted }) => evicted)).toEqual([true, true, true])
  expect((await status()).map(({ flushLsn }) => flushLsn)).toEqual(
    before.map(({ flushLsn }) => flushLsn),
  )

  const again = await installation.startCompute()
  const later = new Ledger(() => again.connect(), 1)
  const count = 'SELECT count(*)::int FROM ledger'
  expect(await again.value(count)).toBeGreaterThanOrEqual(acknowledged)
  expect(await again.value('SELECT sum(balance)::int FROM account')).toBe(200_000)
  later.start()
  await later.progress(20, 60_000)
  await later.stop()
  expect((await status()).map(({ evicted }) => evicted)).toEqual([false, false, false])
  const branch = await installation.createBranch('child')
  expect(branch.timelineId).not.toBe(timelineId)
  const child = await installation.startCompute('child')
  expect(await child.value(count)).toBeGreaterThanOrEqual(acknowledged + 20)
})
