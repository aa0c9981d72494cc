/** A timeline that nobody writes to costs no stream; a compute on it brings the stream back. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { callPageserver } from '#libs/api/pageserver.ts'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { Installation } from '../fixtures/installation.ts'
import { until } from '../fixtures/replica.ts'

test('the stream to a page server that has everything ends, and begins again with a compute', async () => {
  await using zenith = await Installation.create({ safekeepers: 1 })
  const [node] = zenith.safekeeperNodes
  const first = await zenith.startCompute()
  const timeline = () =>
    callSafekeeper(`http://${node?.host}:${node?.httpPort}`, 'getTimeline', {
      params: { tenantId: zenith.tenantId, timelineId: first.spec.timelineId },
    })
  await first.query('CREATE TABLE t AS SELECT generate_series(1, 1000) AS n')
  await until('the page server streams', async () => (await timeline()).walReceivers === 1)
  await first.stop()
  // An idle page server puts the rest in object storage after a while; now it is told to.
  const { host, httpPort } = zenith.pageserverNode
  await callPageserver(`http://${host}:${httpPort}`, 'checkpoint', {
    params: { tenantId: zenith.tenantId, timelineId: first.spec.timelineId },
  })
  await until('the stream has ended', async () => (await timeline()).walReceivers === 0)
  const idle = await timeline()
  expect(idle.remoteConsistentLsn).toBe(idle.commitLsn)
  // The page server asks for news now and then, and there is none.
  for (let at = 0; at < 5; at += 1) {
    await sleep(500)
    expect((await timeline()).walReceivers).toBe(0)
  }
  const second = await zenith.startCompute()
  expect(await second.value('SELECT count(*)::int FROM t')).toBe(1000)
  await second.query('INSERT INTO t VALUES (0)')
  await until('the page server streams', async () => (await timeline()).walReceivers === 1)
})
