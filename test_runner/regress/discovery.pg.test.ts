/**
 * Safekeepers that know of each other: they catch up from one another when no compute is there, and
 * live well without discovery while it is away.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import pg from 'pg'
import { expect, test, vi } from 'vitest'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { EmbeddedDiscovery } from '#libs/discovery/embedded-discovery.ts'
import { createLogger } from '#libs/log.ts'
import { parseLsn } from '#libs/lsn.ts'
import type { WalProposer } from '../../compute/proposer/wal-proposer.ts'
import { ControlProcess } from '../fixtures/control-process.ts'
import { EtcdServer } from '../fixtures/etcd-server.ts'
import { eventually } from '../fixtures/eventually.ts'
import { freePort } from '../fixtures/free-port.ts'
import { Installation } from '../fixtures/installation.ts'
import { WalService } from '../fixtures/wal-service.ts'
import { ZenithCommand } from '../fixtures/zenith-command.ts'

/** A hub of its own in a folder that goes with it. */
class Hub implements AsyncDisposable {
  readonly #dir = mkdtempSync(join(tmpdir(), 'zenith-hub-'))
  readonly control: ControlProcess

  constructor(port: number) {
    this.control = new ControlProcess(this.#dir, port)
  }

  static async start(): Promise<Hub> {
    const hub = new Hub(await freePort())
    await hub.control.process.start()
    return hub
  }

  get settings(): string[] {
    return [`discovery = { kind = "embedded", url = "${this.control.url}" }`]
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.control.process.stop('SIGKILL')
    rmSync(this.#dir, { recursive: true, force: true })
  }
}

async function writeRows(
  service: WalService,
  proposer: WalProposer,
  rows: number,
): Promise<number> {
  await service.postgres.query('CREATE TABLE IF NOT EXISTS t (a int, b text)')
  await service.postgres.query(
    `INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, ${rows}) i`,
  )
  const [row] = await service.postgres.query('SELECT pg_current_wal_flush_lsn()::text AS lsn')
  const lsn = parseLsn(String(row?.['lsn']))
  await proposer.waitCommitted(lsn)
  return lsn
}

/** The compute is gone in the middle of whatever it did. */
async function killCompute(service: WalService, proposer: WalProposer): Promise<void> {
  proposer.abandon()
  await service.postgres.stop('SIGQUIT')
}

/** Waits until a safekeeper has all WAL of another, and knows that it is committed. */
async function expectCaughtUp(service: WalService, index: number, from: number): Promise<void> {
  const deadline = Date.now() + 120_000
  while (true) {
    const [mine, theirs] = [await service.timeline(index), await service.timeline(from)]
    if (mine.flushLsn === theirs.flushLsn && mine.commitLsn === theirs.commitLsn) {
      const end = parseLsn(mine.flushLsn)
      expect(await service.digest(index, service.startLsn, end)).toBe(
        await service.digest(from, service.startLsn, end),
      )
      expect(mine.lastLogTerm).toBe(theirs.lastLogTerm)
      expect(mine.computeConnected).toBe(false)
      return
    }
    if (Date.now() > deadline) {
      const log = service.safekeepers[index]?.process.logTail()
      throw new Error(`${mine.flushLsn}/${mine.commitLsn} of ${theirs.commitLsn}:\n${log}`)
    }
    await sleep(100)
  }
}

test('safekeepers catch up from peers without a compute; discovery may be away, or lie', async () => {
  await using hub = await Hub.start()
  await using service = await WalService.start({
    safekeepers: 5,
    safekeeperSettings: hub.settings,
    lateSafekeepers: 1,
  })
  const proposer = await service.startCompute()
  await writeRows(service, proposer, 100)
  await service.safekeepers[3]?.process.stop('SIGKILL')
  const behind = parseLsn((await service.timeline(0)).flushLsn)

  // Discovery goes away: what streams goes on. More than two segments that only three of five have.
  await hub.control.process.stop('SIGKILL')
  const end = await writeRows(service, proposer, 40_000)
  await killCompute(service, proposer)
  await service.safekeepers[3]?.process.start()
  await service.createTimelineOn(4)
  await sleep(2_500)
  expect(parseLsn((await service.timeline(3)).flushLsn)).toBeLessThanOrEqual(behind)
  expect(parseLsn((await service.timeline(4)).flushLsn)).toBe(service.startLsn)

  // And comes back, and with it what waited for it.
  await hub.control.process.start()
  await expectCaughtUp(service, 3, 0)
  await expectCaughtUp(service, 4, 0)
  const late = await service.timeline(4)
  expect(parseLsn(late.commitLsn)).toBeGreaterThanOrEqual(end)
  expect(parseLsn(late.startLsn)).toBe(service.startLsn)

  await expectUnmovedByLies(service, hub.control.url)
})

/** Somebody tells the wildest things in the name of every safekeeper. */
async function expectUnmovedByLies(service: WalService, url: string): Promise<void> {
  const states = () => Promise.all(service.safekeepers.map((_, index) => service.timeline(index)))
  // At rest: what they told each other last has come, and streams between them have ended.
  let before = await states()
  await eventually(async () => {
    const earlier = before
    await sleep(300)
    before = await states()
    return isDeepStrictEqual(before, earlier)
  }, 'the safekeepers to rest')
  const log = createLogger('liar')
  log.level = 'fatal'
  const liar = new EmbeddedDiscovery({ url, log })
  const { tenantId, timelineId } = service
  for (let round = 0; round < 30; round += 1) {
    const far = 2 ** 45 + round * 8
    liar.publish(
      service.members.map(({ id, host, pgPort, httpPort }) => ({
        tenantId,
        timelineId,
        nodeId: id,
        generation: round,
        term: round % 2 === 0 ? 2 ** 40 : 1,
        lastLogTerm: round % 2 === 0 ? 2 ** 40 : 1,
        flushLsn: far,
        commitLsn: far,
        backupLsn: far,
        remoteConsistentLsn: far,
        peerHorizonLsn: far,
        localStartLsn: far,
        standbyHorizonLsn: far,
        host,
        pgPort,
        httpPort,
        computeConnected: true,
        sentAtMs: 2 ** 50 + round,
      })),
    )
    await sleep(100)
  }
  await liar.close()
  expect(await states()).toEqual(before)
}

test('with tokens and TLS, peers show who they are and catch up', async () => {
  await using zenith = await Installation.create({ safekeepers: 3, tls: true })
  const compute = await zenith.startCompute('main')
  const client = await compute.connect()
  await client.query('CREATE TABLE t (i int, b text)')
  const { timelineId } = compute.spec
  const state = (index: number) => {
    const node = zenith.safekeeperNodes[index] as NodeInfo
    return callSafekeeper(`http://${node.host}:${node.httpPort}`, 'getTimeline', {
      params: { tenantId: zenith.tenantId, timelineId },
    })
  }
  await zenith.safekeepers[2]?.stop('SIGKILL')
  await client.query(`INSERT INTO t SELECT i, repeat('y', 500) FROM generate_series(1, 5000) i`)
  await client.end()
  await compute.kill()
  await zenith.safekeepers[2]?.start()
  await vi.waitFor(
    async () => {
      const [first, third] = [await state(0), await state(2)]
      expect(third).toMatchObject({
        flushLsn: first.flushLsn,
        commitLsn: first.commitLsn,
        lastLogTerm: first.lastLogTerm,
        computeConnected: false,
      })
    },
    { timeout: 60_000, interval: 200 },
  )
  expect(zenith.safekeepers[2]?.logTail(200)).toContain('catching up from a peer')
})

test('a whole installation in etcd: goes on while etcd is down, and can be changed afterwards', async () => {
  await using etcd = await EtcdServer.start()
  await using zenith = new ZenithCommand()
  await zenith.ok(`init --safekeepers 3 --etcd ${etcd.url}`)
  await zenith.ok('start')
  await zenith.ok('pg start main')
  await zenith.sql('main', 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i')
  const count = async (endpoint: string) =>
    (await zenith.sql(endpoint, 'SELECT count(*)::int AS n FROM t'))[0]?.['n']

  const [main] = await zenith.json<{ uri: string }[]>('pg list')
  const client = new pg.Client({ connectionString: main?.uri })
  await client.connect()
  await etcd.stop()
  for (let round = 0; round < 20; round += 1) await client.query('INSERT INTO t VALUES (0)')
  const refused = await zenith.run('branch dev main')
  expect(refused.code).not.toBe(0)
  expect(refused.stderr).toMatch(/etcd/)
  await client.query('INSERT INTO t VALUES (0)')
  await client.end()

  await etcd.start()
  await zenith.ok('branch dev main')
  await zenith.ok('pg start dev')
  expect(await count('dev')).toBe(1021)
  expect(await count('main')).toBe(1021)
  await zenith.ok('stop')
})
