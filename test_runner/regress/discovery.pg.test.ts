/**
 * Safekeepers that know of each other: they catch up from one another when no compute is there, and
 * live well without discovery while it is away.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { parseLsn } from '#libs/lsn.ts'
import type { WalProposer } from '../../compute/proposer/wal-proposer.ts'
import { ControlProcess } from '../fixtures/control-process.ts'
import { freePort } from '../fixtures/vanilla-postgres.ts'
import { WalService } from '../fixtures/wal-service.ts'

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
  const deadline = Date.now() + 40_000
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

test('a safekeeper that lags, and one that joins late, catch up from peers without a compute', async () => {
  await using hub = await Hub.start()
  await using service = await WalService.start({
    safekeepers: 5,
    safekeeperSettings: hub.settings,
    lateSafekeepers: 1,
  })
  const proposer = await service.startCompute()
  await writeRows(service, proposer, 100)
  await service.safekeepers[3]?.process.stop('SIGKILL')
  // More than two segments that only three of five have.
  const end = await writeRows(service, proposer, 60_000)
  await killCompute(service, proposer)

  await service.safekeepers[3]?.process.start()
  await service.createTimelineOn(4)
  await expectCaughtUp(service, 3, 0)
  await expectCaughtUp(service, 4, 0)
  const late = await service.timeline(4)
  expect(parseLsn(late.commitLsn)).toBeGreaterThanOrEqual(end)
  expect(parseLsn(late.startLsn)).toBe(service.startLsn)
}, 120_000)
