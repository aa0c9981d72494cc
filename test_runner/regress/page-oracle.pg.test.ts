/**
 * Goal: the pages of the page server at an LSN equal those that stock Postgres has after replaying
 * the same WAL, for every access method, at several LSNs of the past, from the open layer, from
 * delta and image layers, and after a crash of the page server.
 * Method: checkpoints are taken while a workload runs; stock Postgres replays to each of them and
 * stops, which makes it write all pages to files; every page is compared (see oracle/).
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { giveTo } from '#libs/system-user.ts'
import { LonePageserver } from '../fixtures/lone-pageserver.ts'
import { PageClient } from '../fixtures/page-client.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { PRELUDE, WORKLOAD } from '../oracle/access-method-workload.ts'
import { PageMasks } from '../oracle/page-masks.ts'
import { comparePages, type OracleReport } from '../oracle/page-oracle.ts'
import { checkpointLsn, runStatements } from '../oracle/redo-scenario.ts'
import { StockCopy } from '../oracle/stock-copy.ts'

const CHUNK = 15

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
      settings: { autovacuum: 'off', full_page_writes: 'off', wal_keep_size: "'4GB'" },
    })
    await pageserver.follow(primary)
    await runStatements(primary, [...PRELUDE, 'CHECKPOINT'])
    checkpoints.push(await lastCheckpoint(primary))
    for (let at = 0; at < WORKLOAD.length; at += CHUNK) {
      await runStatements(primary, [...WORKLOAD.slice(at, at + CHUNK), 'CHECKPOINT'])
      checkpoints.push(await lastCheckpoint(primary))
    }
    await pageserver.waitForLsn(formatLsn(checkpoints.at(-1) as Lsn))
    await primary.stop()
    checkpoints.push(checkpointLsn(primary.dataDir))
    await pageserver.waitForLsn(formatLsn(checkpoints.at(-1) as Lsn))
  })

  afterAll(async () => {
    await primary?.[Symbol.asyncDispose]()
    await pageserver?.[Symbol.asyncDispose]()
  })

  test('newest pages', async () => {
    await compareAt(checkpoints.at(-1) as Lsn)
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
    await compareAt(checkpoints[3] as Lsn)
  })
})

async function lastCheckpoint(server: VanillaPostgres): Promise<Lsn> {
  const [row] = await server.query('SELECT checkpoint_lsn FROM pg_control_checkpoint()')
  return parseLsn(row?.['checkpoint_lsn'] as string)
}
