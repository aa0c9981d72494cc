/**
 * Goal: the pages of the page server at an LSN equal those that stock Postgres has after replaying
 * the same WAL, for every access method, at several LSNs of the past, from the open layer, from
 * delta and image layers, and after a crash of the page server.
 * Method: checkpoints are taken while a workload runs; stock Postgres replays to each of them and
 * stops, which makes it write all pages to files; every page is compared (see oracle/).
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { callPageserver, type PageserverTimeline } from '#libs/api/pageserver.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { giveTo } from '#libs/system-user.ts'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { LonePageserver } from '../fixtures/lone-pageserver.ts'
import { PageClient } from '../fixtures/page-client.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { PRELUDE, WORKLOAD } from '../oracle/access-method-workload.ts'
import { PageMasks } from '../oracle/page-masks.ts'
import { comparePages, type OracleReport } from '../oracle/page-oracle.ts'
import { runStatements } from '../oracle/redo-scenario.ts'
import { StockCopy } from '../oracle/stock-copy.ts'
import { runTransactionWorkload, TRANSACTION_SETTINGS } from '../oracle/transaction-workload.ts'

const CHUNK = 30

let dir: string
let masks: PageMasks

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'zenith-oracle-'))
  giveTo(dir)
  masks = await PageMasks.start()
})

afterAll(async () => {
  await masks?.[Symbol.asyncDispose]()
  if (process.env['ZENITH_TEST_KEEP'] !== '1') rmSync(dir, { recursive: true, force: true })
})

function expectEqual(report: OracleReport, lsn: Lsn): void {
  expect(report.differences, `pages at ${formatLsn(lsn)}`).toEqual([])
  expect(report.pages).toBeGreaterThan(900)
  console.log(
    `at ${formatLsn(lsn)}: ${report.relations} forks, ${report.pages} pages compared, ` +
      `${report.identical} identical, ${report.equalMasked} equal after masking, ` +
      `${report.slruPages} SLRU pages`,
  )
}

describe('WAL of stock Postgres', () => {
  let pageserver: LonePageserver
  let primary: VanillaPostgres
  let stock: StockCopy
  const checkpoints: Lsn[] = []
  const replayed = new Map<Lsn, string>()

  async function compareAt(lsn: Lsn): Promise<void> {
    let dataDir = replayed.get(lsn)
    if (dataDir === undefined) {
      dataDir = await stock.at(lsn, join(primary.dataDir, 'pg_wal'))
      replayed.set(lsn, dataDir)
    }
    const { tenantId, timelineId, pgPort } = pageserver
    await using pages = await PageClient.connect({ port: pgPort, tenantId, timelineId })
    expectEqual(await comparePages({ dataDir, pages, masks, lsn }), lsn)
  }

  beforeAll(async () => {
    pageserver = await LonePageserver.start()
    const { tenantId, timelineId } = pageserver
    const startLsn = parseLsn((await pageserver.info()).startLsn)
    stock = await StockCopy.create({
      dir,
      pagePort: pageserver.pgPort,
      tenantId,
      timelineId,
      startLsn,
      pageserverDir: join(pageserver.dir, 'pageserver'),
    })
    primary = await VanillaPostgres.start({
      dataDir: await pageserver.backup('fullbackup', { lsn: formatLsn(startLsn) }),
      settings: {
        ...TRANSACTION_SETTINGS,
        fsync: 'off',
        full_page_writes: 'off',
        wal_keep_size: "'4GB'",
      },
    })
    await pageserver.follow(primary)
    await runStatements(primary, [...PRELUDE, 'CHECKPOINT'])
    checkpoints.push(await lastCheckpoint(primary))
    for (let at = 0; at < WORKLOAD.length; at += CHUNK) {
      await runStatements(primary, [...WORKLOAD.slice(at, at + CHUNK), 'CHECKPOINT'])
      checkpoints.push(await lastCheckpoint(primary))
    }
    await runTransactionWorkload(primary)
    await runStatements(primary, ['CHECKPOINT'])
    checkpoints.push(await lastCheckpoint(primary))
    await pageserver.waitForLsn(formatLsn(checkpoints.at(-1) as Lsn))
    // Not a clean stop: that would make the page server flush, and layers are to be tested later.
    await primary.stop('SIGQUIT')
  })

  afterAll(async () => {
    await primary?.[Symbol.asyncDispose]()
    await pageserver?.[Symbol.asyncDispose]()
  })

  test('newest pages', async () => {
    await compareAt(checkpoints.at(-1) as Lsn)
  })

  test('the oracle sees differences', async () => {
    const newest = replayed.get(checkpoints.at(-1) as Lsn) as string
    const { tenantId, timelineId, pgPort } = pageserver
    await using pages = await PageClient.connect({ port: pgPort, tenantId, timelineId })
    const lsn = checkpoints[1] as Lsn
    const report = await comparePages({ dataDir: newest, pages, masks, lsn })
    expect(report.differences.length).toBeGreaterThan(50)
  })

  test('pages of the past', async () => {
    for (const lsn of checkpoints.slice(0, -1)) await compareAt(lsn)
  })

  test('pages from delta layers', async () => {
    await pageserver.maintain('checkpoint')
    await compareAt(checkpoints.at(-1) as Lsn)
    await compareAt(checkpoints[1] as Lsn)
  })

  test('pages from image layers, and below them', async () => {
    await pageserver.maintain('compact')
    await compareAt(checkpoints.at(-1) as Lsn)
    await compareAt(checkpoints[2] as Lsn)
  })

  test('pages after kill -9 of the page server', async () => {
    await pageserver.process.stop('SIGKILL')
    await pageserver.process.start()
    await compareAt(checkpoints.at(-1) as Lsn)
    await compareAt(checkpoints[0] as Lsn)
  })
})

/**
 * The same with a compute: its WAL has page images and Generic records for what eviction would lose,
 * and comes from a safekeeper's segments.
 */
describe('WAL of a compute', () => {
  let zenith: Installation
  let compute: Compute
  let stock: StockCopy
  let timelineId: string
  const checkpoints: Lsn[] = []

  beforeAll(async () => {
    zenith = await Installation.create()
    compute = await zenith.startCompute('main', {
      settings: { shared_buffers: '8MB', autovacuum: 'off', log_checkpoints: 'off' },
    })
    timelineId = compute.spec.timelineId
    stock = await StockCopy.create({
      dir: join(dir, 'compute'),
      pagePort: zenith.pageserverNode.pgPort,
      tenantId: zenith.tenantId,
      timelineId,
      startLsn: parseLsn((await timeline()).startLsn),
      pageserverDir: join(zenith.dir, 'pageserver'),
    })
    await runStatements(compute, PRELUDE)
    for (let at = 0; at < WORKLOAD.length; at += CHUNK) {
      await runStatements(compute, [...WORKLOAD.slice(at, at + CHUNK), 'CHECKPOINT'])
      checkpoints.push(await lastCheckpoint(compute))
    }
    await waitForLsn(checkpoints.at(-1) as Lsn)
  })

  afterAll(async () => {
    await zenith?.[Symbol.asyncDispose]()
  })

  function timeline(): Promise<PageserverTimeline> {
    return callPageserver(zenith.pageserverUrl, 'getTimeline', {
      params: { tenantId: zenith.tenantId, timelineId },
    })
  }

  async function waitForLsn(lsn: Lsn): Promise<void> {
    await callPageserver(zenith.pageserverUrl, 'waitLsn', {
      params: { tenantId: zenith.tenantId, timelineId },
      body: { lsn: formatLsn(lsn), timeoutMs: 60_000 },
    })
  }

  async function compareAt(lsn: Lsn): Promise<void> {
    const walDir = safekeeperFolder(join(zenith.dir, 'safekeepers'), timelineId)
    const dataDir = await stock.at(lsn, walDir)
    const { tenantId } = zenith
    const port = zenith.pageserverNode.pgPort
    await using pages = await PageClient.connect({ port, tenantId, timelineId })
    expectEqual(await comparePages({ dataDir, pages, masks, lsn }), lsn)
    rmSync(dataDir, { recursive: true })
  }

  test('pages at every checkpoint', async () => {
    for (const lsn of checkpoints) await compareAt(lsn)
  })
})

/** The folder below `root` that holds the segments of a timeline. */
function safekeeperFolder(root: string, timelineId: string): string {
  for (const path of readdirSync(root, { recursive: true }) as string[]) {
    if (path.includes(timelineId) && /[0-9A-F]{24}(\.partial)?$/.test(path)) {
      return dirname(join(root, path))
    }
  }
  throw new Error(`no WAL of ${timelineId} below ${root}`)
}

async function lastCheckpoint(server: {
  query(sql: string): Promise<Record<string, unknown>[]>
}): Promise<Lsn> {
  const [row] = await server.query('SELECT checkpoint_lsn FROM pg_control_checkpoint()')
  return parseLsn(row?.['checkpoint_lsn'] as string)
}
