/**
 * Goal: a stock primary, with data checksums, page images in WAL compressed in every way, and every
 * kind of record that 17 has, can be taken over: its stopped folder is imported, then the page
 * server follows its walsender. The primary stops cleanly, and after that every page equals its files.
 * Method: all workloads on one primary; pg_waldump lists the kinds of records, which must be those
 * of the table in docs/wal-ingest.md; pages are compared with the primary's own files and with those
 * of a stock server that replays the same WAL.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { giveTo } from '#libs/system-user.ts'
import { importLsn } from '../../pageserver/import/data-folder-import.ts'
import { LonePageserver } from '../fixtures/lone-pageserver.ts'
import { PageClient } from '../fixtures/page-client.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { PRELUDE, WORKLOAD } from '../oracle/access-method-workload.ts'
import { controlOf } from '../oracle/memory-ingest.ts'
import { PageMasks } from '../oracle/page-masks.ts'
import { comparePages, MOST_DIFFERENCES, type OracleReport } from '../oracle/page-oracle.ts'
import { listRelationFiles, readBlocks } from '../oracle/relation-files.ts'
import { runStatements } from '../oracle/redo-scenario.ts'
import { runRareRecords } from '../oracle/rare-records-workload.ts'
import { allRecordKinds, recordKindsIn } from '../oracle/record-kinds.ts'
import { recoverWithStock } from '../oracle/stock-recovery.ts'
import { runTransactionWorkload, TRANSACTION_SETTINGS } from '../oracle/transaction-workload.ts'

const CODECS = ['pglz', 'lz4', 'zstd', 'off']
const STOP_LIMIT_MS = 60_000

/** Kinds that no workload makes a server write; the test that has them, or why none can. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  'XLOG/NOOP': 'built-wal.pg.test.ts',
  'XLOG/END_OF_RECOVERY': 'wal-ingest.test.ts: refused',
  'XLOG/OVERWRITE_CONTRECORD': 'wal-layout.pg.test.ts',
  'CLOG/TRUNCATE': 'wraparound.pg.test.ts',
  'Tablespace/CREATE': 'tablespaces cannot be imported',
  'Tablespace/DROP': 'tablespaces cannot be imported',
  'Gist/ASSIGN_LSN': 'written with wal_level minimal alone, and names no block',
  'Gist/PAGE_REUSE': 'for snapshots of standbys alone, and names no block',
}

let pageserver: LonePageserver
let primary: VanillaPostgres
let masks: PageMasks
let baseDir: string
const timelineId = newTimelineId()

beforeAll(async () => {
  masks = await PageMasks.start()
  pageserver = await LonePageserver.start()
  primary = await VanillaPostgres.start({
    initdbArgs: ['--data-checksums'],
    settings: {
      ...TRANSACTION_SETTINGS,
      fsync: 'off',
      full_page_writes: 'on',
      wal_keep_size: "'8GB'",
      max_wal_senders: '5',
    },
  })
  await runStatements(primary, [
    ...PRELUDE,
    `CREATE TABLE here_before AS SELECT g AS id, md5(g::text) AS t FROM generate_series(1, 5000) g`,
    `CREATE UNLOGGED TABLE unlogged_before AS SELECT * FROM here_before`,
    `BEGIN; INSERT INTO here_before VALUES (0, 'prepared'); PREPARE TRANSACTION 'before'`,
    `SELECT pg_replication_origin_create('before')`,
    `SELECT pg_replication_origin_advance('before', '0/77')`,
    `SELECT pg_create_physical_replication_slot('zenith', true)`,
  ])
  await primary.stop()
  baseDir = mkdtempSync(join(tmpdir(), 'zenith-import-'))
  giveTo(baseDir)
  cpSync(primary.dataDir, join(baseDir, 'pgdata'), { recursive: true })
  await pageserver.create(timelineId, { kind: 'import', dataDir: join(baseDir, 'pgdata') })
})

afterAll(async () => {
  await primary?.[Symbol.asyncDispose]()
  await pageserver?.[Symbol.asyncDispose]()
  await masks?.[Symbol.asyncDispose]()
  rmSync(baseDir, { recursive: true, force: true })
})

async function compareWith(
  dataDir: string,
  lsn: Lsn,
  mayDiffer: (difference: string) => boolean = () => false,
): Promise<OracleReport> {
  const { tenantId, pgPort } = pageserver
  await using pages = await PageClient.connect({ port: pgPort, tenantId, timelineId })
  const report = await comparePages({ dataDir, pages, masks, lsn, checksums: true })
  expect(report.differences.filter((difference) => !mayDiffer(difference))).toEqual([])
  expect(report.differences.length).toBeLessThan(MOST_DIFFERENCES)
  expect(report.pages).toBeGreaterThan(3000)
  console.log(
    `${report.pages} pages compared, ${report.identical} identical, ` +
      `${report.equalMasked} equal after masking, ${report.slruPages} SLRU pages`,
  )
  return report
}

/** What a primary never logs, so that its own standbys lack it too. */
async function unloggedParts(): Promise<(difference: string) => boolean> {
  const indexes = await primary.query(`SELECT relfilenode::text AS file, relname AS name,
    amname AS kind FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE relkind = 'i'`)
  const pagesOf = (which: (index: Record<string, unknown>) => boolean) =>
    indexes.filter(which).map(({ file }) => `1663/5/${String(file)}.0:`)
  const caches = pagesOf(({ kind }) => kind === 'spgist').map((pages) => `${pages}0 `)
  const pruned = pagesOf(({ name }) => name === 'pointed_p_idx')
  const [copied] = await primary.query(`SELECT oid::text FROM pg_database WHERE datname = 'by_wal'`)
  const copy = `1663/${String(copied?.['oid'])}/`
  const files = listRelationFiles(primary.dataDir)
  return (difference) => {
    // Where SP-GiST last found room, on its first page.
    if (caches.some((page) => difference.startsWith(page))) return true
    // Redo marks a GiST page of which dead entries were removed; the server that does it does not.
    if (pruned.some((pages) => difference.startsWith(pages))) return true
    // Copied through WAL, map pages are logged as if they were empty.
    if (difference.startsWith(copy) && difference.includes('.2:')) return true
    // A map that was made, but in which no bit was ever set.
    const map = /^(\S+\.2) has no blocks/.exec(difference)
    const file = files.get(map?.[1] ?? '')
    if (file === undefined) return false
    return readBlocks(file, 0, file.blocks)
      .subarray(24)
      .every((byte) => byte === 0)
  }
}

describe('a stock primary', () => {
  let endLsn: Lsn
  let mayDiffer: (difference: string) => boolean

  test('is taken over while it works', async () => {
    await primary.start()
    await pageserver.follow(primary, { timelineId, slot: 'zenith' })
    await primary.query(`COMMIT PREPARED 'before'`)
    const chunk = Math.ceil(WORKLOAD.length / CODECS.length)
    for (const [index, codec] of CODECS.entries()) {
      await runStatements(primary, [
        `ALTER SYSTEM SET wal_compression = ${codec}`,
        'SELECT pg_reload_conf()',
        'CHECKPOINT',
        ...WORKLOAD.slice(index * chunk, (index + 1) * chunk),
      ])
    }
    await runRareRecords(primary)
    await runTransactionWorkload(primary, 2500)
    const [row] = await primary.query('SELECT pg_current_wal_flush_lsn() AS lsn')
    await pageserver.waitForLsn(String(row?.['lsn']), timelineId)
    const info = await pageserver.info(timelineId)
    expect(info.walReceiver).toMatchObject({ state: 'streaming', lastError: null })
  })

  test('stops cleanly, and all of its WAL has arrived and is safe', async () => {
    mayDiffer = await unloggedParts()
    const startedAt = performance.now()
    await primary.stop('SIGINT')
    expect(performance.now() - startedAt).toBeLessThan(STOP_LIMIT_MS)
    endLsn = importLsn(controlOf(primary.dataDir))
    const info = await pageserver.info(timelineId)
    expect(info.lastRecordLsn).toBe(formatLsn(endLsn))
    expect(info.remoteConsistentLsn).toBe(formatLsn(endLsn))
  })

  test('has written records of every kind', async () => {
    const startLsn = importLsn(controlOf(join(baseDir, 'pgdata')))
    const kinds = await recordKindsIn(primary, join(primary.dataDir, 'pg_wal'), startLsn, endLsn)
    const known = allRecordKinds()
    expect([...kinds.keys()].filter((kind) => !known.includes(kind))).toEqual([])
    const unseen = known.filter((kind) => !kinds.has(kind) && !(kind in ELSEWHERE))
    expect(unseen).toEqual([])
  })

  test('has every page on the page server as in its files', async () => {
    await compareWith(primary.dataDir, endLsn, mayDiffer)
  })

  test('has every page as a stock server that replays its WAL', async () => {
    await using stock = await recoverWithStock({
      baseDir: join(baseDir, 'pgdata'),
      wal: join(primary.dataDir, 'pg_wal'),
      settings: TRANSACTION_SETTINGS,
    })
    const report = await compareWith(stock.dataDir, endLsn)
    // With checksums, redo of "all visible" also moves the LSN of the heap page; ours have none.
    expect(report.identical / report.pages).toBeGreaterThan(0.5)
  })

  test('goes on, and its slot lets go of WAL that is safe', async () => {
    await primary.start()
    await runStatements(primary, ['CREATE TABLE later AS SELECT 1 AS a', 'SELECT pg_switch_wal()'])
    const [row] = await primary.query('SELECT pg_current_wal_flush_lsn() AS lsn')
    await pageserver.waitForLsn(String(row?.['lsn']), timelineId)
    const slotLsn = async () => {
      const [slot] = await primary.query(
        'SELECT restart_lsn::text AS lsn FROM pg_replication_slots',
      )
      return parseLsn(String(slot?.['lsn']))
    }
    await expect.poll(slotLsn).toBeGreaterThanOrEqual(endLsn)
    await primary.stop('SIGINT')
  })

  test('starts from a backup of the page server, with its rows', async () => {
    const dataDir = await pageserver.backup('fullbackup', { timelineId })
    await using copy = await VanillaPostgres.start({ dataDir, settings: TRANSACTION_SETTINGS })
    const count = 'SELECT count(*)::int AS n, min(id) AS first FROM here_before'
    expect(await copy.query(count)).toEqual([{ n: 5001, first: 0 }])
    expect(await copy.query('SELECT a FROM later')).toEqual([{ a: 1 }])
    expect(await copy.query('SELECT count(*)::int AS n FROM unlogged_before')).toEqual([{ n: 0 }])
    const origin = `SELECT remote_lsn::text AS lsn FROM pg_replication_origin_status s
      JOIN pg_replication_origin o ON o.roident = s.local_id WHERE roname = 'before'`
    expect(await copy.query(origin)).toEqual([{ lsn: '0/77' }])
    await copy.query('CREATE EXTENSION IF NOT EXISTS amcheck')
    const [bad] = await copy.query(`SELECT count(*)::int AS n FROM pg_class c,
      verify_heapam(c.oid) WHERE relkind IN ('r', 't') AND relpersistence = 'p'`)
    expect(bad).toEqual({ n: 0 })
  })
})

test('what cannot be imported is refused', async () => {
  const refused = async (dataDir: string) =>
    pageserver.create(newTimelineId(), { kind: 'import', dataDir }).then(
      () => 'taken',
      (error: unknown) => String(error),
    )
  expect(await refused('/nowhere')).toMatch(/no data folder/)
  await primary.start()
  expect(await refused(primary.dataDir)).toMatch(/not shut down cleanly/)
  await primary.stop('SIGQUIT')
  expect(readFileSync(join(primary.dataDir, 'PG_VERSION'), 'utf8').trim()).toBe('17')
})
