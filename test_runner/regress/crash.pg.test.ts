/**
 * kill -9 under load: of the compute, of the safekeeper, of the pageserver, of all at once, ten
 * rounds each. After every round each acknowledged transaction is there exactly once, by the
 * clients' own list (see the ledger fixture).
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { FILE_CACHE, Installation } from '../fixtures/installation.ts'
import { Ledger } from '../fixtures/ledger.ts'

const ROUNDS = 6
const CLIENTS = 6
/** Acknowledged transactions before and after each crash: the load is really running. */
const PROGRESS = 60
const TIMEOUT_MS = 60_000

let zenith: Installation
let compute: Compute
let ledger: Ledger

beforeAll(async () => {
  zenith = await Installation.create()
  compute = await zenith.startCompute('main', { settings: FILE_CACHE })
  ledger = new Ledger(() => compute.connect(), CLIENTS)
  await ledger.createTables()
})

afterAll(async () => {
  await ledger?.stop()
  await zenith?.[Symbol.asyncDispose]()
})

const victims: Record<string, () => Promise<void>> = {
  compute: async () => {
    await compute.kill()
    compute = await zenith.startCompute('main', { settings: FILE_CACHE })
  },
  safekeeper: async () => {
    const [safekeeper] = zenith.safekeepers
    await safekeeper?.stop('SIGKILL')
    await zenith.start()
  },
  pageserver: async () => {
    await zenith.pageserver.stop('SIGKILL')
    await zenith.start()
  },
  'all at once': async () => {
    await zenith.killAll()
    await zenith.start()
    compute = await zenith.startCompute('main', { settings: FILE_CACHE })
  },
}

describe.each(Object.entries(victims))('kill -9 of %s under load', (name, crash) => {
  test(`${ROUNDS} rounds`, async () => {
    let where = 'start'
    ledger.start()
    try {
      for (let round = 1; round <= ROUNDS; round++) {
        where = `round ${round} of ${name}`
        await ledger.progress(PROGRESS, TIMEOUT_MS)
        // A different moment of the load in each round.
        await sleep(round * 17)
        await crash()
        await ledger.progress(PROGRESS, TIMEOUT_MS)
        expect(await ledger.violations(), where).toEqual([])
      }
    } catch (error) {
      throw new Error(`${where}: ${String(error)}\n${zenith.logs()}`, { cause: error })
    } finally {
      await ledger.stop()
    }
    expect(await ledger.violations()).toEqual([])
  })
})

test('after all crashes, every index agrees with its table', async () => {
  await compute.query('CREATE EXTENSION IF NOT EXISTS amcheck')
  await compute.tool('pg_amcheck', ['--heapallindexed', '-d', 'postgres'])
})
