/**
 * The page server's choice of a safekeeper, with real processes: the one it reads from falls silent, is
 * killed, falls behind; the page server itself restarts. It goes on from another, without a gap.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { callPageserver } from '#libs/api/pageserver.ts'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'

const SOURCE_TIMEOUT_MS = 60_000
const CATCH_UP_TIMEOUT_MS = 60_000

/** Which safekeepers have a reader of the timeline, by their place in the list; those that answer. */
async function sources(zenith: Installation, timelineId: string): Promise<number[]> {
  const answers = await Promise.all(
    zenith.safekeeperNodes.map(async (node, index) => {
      try {
        const { walReceivers } = await callSafekeeper(
          `http://${node.host}:${node.httpPort}`,
          'getTimeline',
          { params: { tenantId: zenith.tenantId, timelineId }, timeoutMs: 1_000 },
        )
        return walReceivers > 0 ? index : -1
      } catch {
        return -1
      }
    }),
  )
  return answers.filter((index) => index >= 0)
}

/** Waits until the page server reads from a safekeeper other than `old`; returns its place. */
async function newSource(zenith: Installation, timelineId: string, old: number): Promise<number> {
  const deadline = Date.now() + SOURCE_TIMEOUT_MS
  while (Date.now() < deadline) {
    const found = (await sources(zenith, timelineId)).find((index) => index !== old)
    if (found !== undefined) return found
    await sleep(200)
  }
  throw new Error(`the page server reads from no other safekeeper than ${old}`)
}

/** The page server has all that was committed until now. */
async function caughtUp(zenith: Installation, compute: Compute): Promise<void> {
  const lsn = await compute.value('SELECT pg_current_wal_flush_lsn()::text')
  const { host, httpPort } = zenith.pageserverNode
  await callPageserver(`http://${host}:${httpPort}`, 'waitLsn', {
    params: { tenantId: zenith.tenantId, timelineId: compute.spec.timelineId },
    body: { lsn: String(lsn), timeoutMs: CATCH_UP_TIMEOUT_MS },
  })
}

test('a source that is silent, killed or behind is left for another, and nothing is missed', async () => {
  await using zenith = await Installation.create({ safekeepers: 3 })
  let compute = await zenith.startCompute('main')
  const { timelineId } = compute.spec
  const ledger = new Ledger(() => compute.connect(), 3)
  await ledger.createTables()
  ledger.start()

  // Silent: stopped, its connections open.
  const first = await newSource(zenith, timelineId, -1)
  process.kill(zenith.safekeepers[first]?.pid as number, 'SIGSTOP')
  const second = await newSource(zenith, timelineId, first)
  await caughtUp(zenith, compute)

  // Behind: the stopped one wakes up with old WAL; the page server must not go back for it.
  process.kill(zenith.safekeepers[first]?.pid as number, 'SIGCONT')
  await caughtUp(zenith, compute)

  // Killed, and the page server too: it comes back and finds one of those that are left.
  await zenith.safekeepers[second]?.stop('SIGKILL')
  const third = await newSource(zenith, timelineId, second)
  expect(third).not.toBe(second)
  await zenith.pageserver.stop('SIGKILL')
  await zenith.start()
  await newSource(zenith, timelineId, -1)
  await caughtUp(zenith, compute)

  await ledger.stop()
  await caughtUp(zenith, compute)
  // A compute without any page of its own sees what the page server has.
  await compute.stop()
  compute.deleteData()
  compute = await zenith.startCompute('main')
  expect(await ledger.violations()).toEqual([])
})
