/**
 * Another writer comes between the election of a compute and the start of its Postgres. Its base
 * backup is then one of a log that has gone on: it must not write a byte, nor acknowledge a commit.
 */
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, beforeAll, beforeEach, expect, onTestFailed, test } from 'vitest'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import type { Compute } from '../fixtures/compute.ts'
import { FaultProxy } from '../fixtures/fault-proxy.ts'
import { Installation } from '../fixtures/installation.ts'
import { SafekeeperLog } from '../fixtures/safekeeper-log.ts'
import { freePort } from '../fixtures/free-port.ts'

const run = promisify(execFile)
const SOON = { timeout: 60_000 }
const FENCED = 3

let zenith: Installation
let spec: ComputeSpec
/** In front of the page server and of the safekeeper, for the slow compute alone. */
let pages: FaultProxy
let wal: FaultProxy

beforeAll(async () => {
  zenith = await Installation.create({ safekeepers: 1 })
  const first = await zenith.startCompute()
  await first.query('CREATE TABLE t (id int)')
  await first.query('INSERT INTO t VALUES (1)')
  expect(await first.stop()).toBe(0)
  spec = first.spec
  const { host } = zenith.pageserverNode
  const [safekeeper] = zenith.safekeeperNodes
  pages = await FaultProxy.start({ host, port: zenith.pageserverNode.pgPort })
  wal = await FaultProxy.start({ host, port: safekeeper?.pgPort as number })
})

beforeEach(() => {
  onTestFailed(() => console.error(zenith.logs()))
})

afterAll(async () => {
  await zenith?.[Symbol.asyncDispose]()
  await pages?.[Symbol.asyncDispose]()
  await wal?.[Symbol.asyncDispose]()
})

/** Behind the control plane's back, as after a split network. */
async function launch(endpoint: string, changes: Partial<ComputeSpec> = {}): Promise<Compute> {
  const port = await freePort()
  return zenith.launchSpec({ ...spec, endpoint, port, attempt: 0, ...changes })
}

/** A compute that has won its election and waits for its base backup. */
async function launchSlow(endpoint: string): Promise<Compute> {
  const { connections } = pages
  pages.stall('to-client')
  const slow = await launch(endpoint, {
    pageserver: { ...spec.pageserver, host: pages.host, pgPort: pages.port },
    safekeepers: spec.safekeepers.map((node) => ({ ...node, host: wal.host, pgPort: wal.port })),
  })
  await expect.poll(() => pages.connections, SOON).toBe(connections + 1)
  return slow
}

function exitOf(compute: Compute): Promise<number | string> {
  return Promise.race([compute.exited, sleep(60_000, 'still running', { ref: false })])
}

/** What the compute has been through, by its log. */
function phasesOf(compute: Compute): string[] {
  const lines = compute.process.logTail(1000).split('\n')
  return lines.flatMap(
    (line) => /"msg":"(electing|fetching|starting|running|ended)"/.exec(line)?.[1] ?? [],
  )
}

/** All is as the rival left it, and the log has no damage. */
async function checkRows(writer: Compute, ids: number[]): Promise<void> {
  const rows = await writer.query('SELECT id FROM t ORDER BY id')
  expect(rows).toEqual(ids.map((id) => ({ id })))
  const log = new SafekeeperLog(zenith, spec.timelineId)
  await log.check(await log.flushLsn())
}

test('a rival writes before the base backup arrives: fenced without a Postgres', async () => {
  const slow = await launchSlow('slow-1')
  const rival = await launch('rival-1')
  await rival.ready()
  await rival.query('INSERT INTO t VALUES (2)')
  expect(await exitOf(slow)).toBe(FENCED)
  expect(phasesOf(slow)).toEqual(['fetching', 'ended'])
  pages.heal()
  await rival.query('INSERT INTO t VALUES (3)')
  await checkRows(rival, [1, 2, 3])
  expect(await rival.stop()).toBe(0)
})

test('a rival of which it cannot hear: no commit of its stale Postgres is acknowledged', async () => {
  const slow = await launchSlow('slow-2')
  wal.stall()
  const rival = await launch('rival-2')
  await rival.ready()
  await rival.query('INSERT INTO t VALUES (4)')
  pages.heal()
  await slow.ready()
  const client = await slow.connect()
  const stale = client.query('INSERT INTO t VALUES (-1)').then(
    () => 'acknowledged',
    () => 'refused',
  )
  // Longer than a commit takes, shorter than a safekeeper's silence is borne.
  expect(await Promise.race([stale, sleep(1000, 'waiting')])).toBe('waiting')
  wal.heal()
  expect(await exitOf(slow)).toBe(FENCED)
  expect(await stale).toBe('refused')
  expect(phasesOf(slow)).toEqual(['fetching', 'starting', 'running', 'ended'])
  await rival.query('INSERT INTO t VALUES (5)')
  await checkRows(rival, [1, 2, 3, 4, 5])
  expect(await rival.stop()).toBe(0)
})

test('an election without a record in between: fenced, and the next start has everything', async () => {
  const slow = await launchSlow('slow-3')
  const file = join(zenith.dir, 'sync.json')
  writeFileSync(file, JSON.stringify(spec))
  const program = join(import.meta.dirname, '../../compute/sync-main.ts')
  await run(process.execPath, [program, '--spec', file])
  expect(await exitOf(slow)).toBe(FENCED)
  expect(phasesOf(slow)).toEqual(['fetching', 'ended'])
  pages.heal()
  const next = await launch('next')
  await next.ready()
  await next.query('INSERT INTO t VALUES (6)')
  await checkRows(next, [1, 2, 3, 4, 5, 6])
})
