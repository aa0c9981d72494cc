/**
 * Goal: at any LSN, not only where a server stopped, the page server has the counters, SLRU pages,
 * prepared transactions and relation sizes that stock Postgres has when it recovers to that LSN.
 * Method: WAL of a workload on stock Postgres is taken in; stock Postgres recovers a copy of the
 * base to LSNs picked at random and is promoted there; its pg_control and files are compared.
 */
import { cpSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { MULTIXACT_INFO, RMGR, XACT_INFO, XLOG_INFO } from '#libs/wal/format.ts'
import type { Checkpoint } from '#libs/pg/checkpoint.ts'
import { importLsn } from '../../pageserver/import/data-folder-import.ts'
import { checkpointAt } from '../../pageserver/ingest/checkpoint-state.ts'
import { KeyClass } from '../../pageserver/keyspace/key-class.ts'
import type { MemoryTimeline } from '../fixtures/memory-timeline.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { controlOf, importIntoMemory, ingestSegments } from '../oracle/memory-ingest.ts'
import { listRelationFiles } from '../oracle/relation-files.ts'
import { differentSlruPages } from '../oracle/slru-files.ts'
import { recoverWithStock } from '../oracle/stock-recovery.ts'
import { runTransactionWorkload, TRANSACTION_SETTINGS } from '../oracle/transaction-workload.ts'
import { listRecords, type RecordPlace } from '../oracle/wal-segments.ts'

/** So few that a batch has one record at most, and nextXid is never told ahead. */
const ONE_RECORD_BYTES = 32
const INIT_FORK = 3
const POINTS = 8

/** Kinds of records after which the state is looked at, beside places picked at random. */
const LANDMARKS: readonly [rmid: number, info: number][] = [
  [RMGR.MULTIXACT, MULTIXACT_INFO.ZERO_OFF_PAGE],
  [RMGR.TRANSACTION, XACT_INFO.PREPARE],
  [RMGR.COMMIT_TS, 0],
  [RMGR.XLOG, XLOG_INFO.CHECKPOINT_ONLINE],
]

let server: VanillaPostgres
let baseDir: string
let walDir: string
let records: RecordPlace[]
let exact: MemoryTimeline
let batched: MemoryTimeline

beforeAll(async () => {
  server = await VanillaPostgres.start({
    settings: { ...TRANSACTION_SETTINGS, wal_keep_size: "'4GB'", full_page_writes: 'off' },
  })
  await server.stop()
  baseDir = join(server.dir, 'base')
  cpSync(server.dataDir, baseDir, { recursive: true })
  await server.start()
  await runTransactionWorkload(server, 2500)
  await server.stop()
  walDir = join(server.dataDir, 'pg_wal')
  const endLsn = importLsn(controlOf(server.dataDir))
  records = listRecords(walDir, importLsn(controlOf(baseDir)), endLsn)
  exact = await importIntoMemory(baseDir)
  await ingestSegments(exact, walDir, endLsn, ONE_RECORD_BYTES)
  batched = await importIntoMemory(baseDir)
  await ingestSegments(batched, walDir, endLsn)
})

afterAll(async () => {
  await server[Symbol.asyncDispose]()
})

function points(): Lsn[] {
  const ends = LANDMARKS.map(
    ([rmid, info]) =>
      records.findLast((record) => record.rmid === rmid && (record.info & 0x70) === (info & 0x70))
        ?.endLsn,
  )
  const picked = Array.from(
    { length: POINTS - ends.length },
    () => records[Math.floor(Math.random() * (records.length - 1))]?.endLsn,
  )
  return [...ends, ...picked].filter((lsn) => lsn !== undefined).toSorted((a, b) => a - b)
}

async function relationSizes(timeline: MemoryTimeline, lsn: Lsn): Promise<Map<string, number>> {
  const live = await timeline.scanBlobs(KeyClass.RelSize, lsn)
  return new Map(live.map((e) => [`${e.spc}/${e.db}/${e.rel}.${e.fork}`, e.value.readUInt32LE(0)]))
}

test('at any LSN the state is that of stock recovery', async () => {
  for (const lsn of points()) {
    const where = `at ${formatLsn(lsn)}`
    await using stock = await recoverWithStock({
      baseDir,
      wal: walDir,
      untilLsn: lsn,
      settings: TRANSACTION_SETTINGS,
    })
    const expected = stock.control.checkpoint
    const one = (await checkpointAt(exact, lsn)).checkpoint
    const many = (await checkpointAt(batched, lsn)).checkpoint
    expect(counters(one), where).toEqual(counters(expected))
    expect(counters(many), where).toEqual(counters(expected))
    expect(one.nextXid, where).toBe(expected.nextXid)
    // A batch of records moves these two to where its last record needs them.
    expect(many.nextXid, where).toBeGreaterThanOrEqual(expected.nextXid)
    for (const { newestCommitTsXid } of [one, many]) {
      expect(newestCommitTsXid, where).toBeGreaterThanOrEqual(expected.newestCommitTsXid)
      expect(newestCommitTsXid, where).toBeLessThan(many.nextXid)
    }
    for (const timeline of [exact, batched]) {
      const { compared, different } = await differentSlruPages(timeline, stock.dataDir, lsn)
      expect(different, where).toEqual([])
      expect(compared, where).toBeGreaterThan(3)
    }
    const prepared = await exact.scanBlobs(KeyClass.TwoPhase, lsn)
    const names = readdirSync(join(stock.dataDir, 'pg_twophase'))
    const hex = (value: number) => value.toString(16).toUpperCase().padStart(8, '0')
    expect(
      prepared.map(({ db, rel }) => hex(db) + hex(rel)),
      where,
    ).toEqual(names)
    for (const [index, name] of names.entries()) {
      const file = readFileSync(join(stock.dataDir, 'pg_twophase', name))
      expect(prepared[index]?.value.equals(file.subarray(0, -4)), `${name} ${where}`).toBe(true)
    }
    const sizes = await relationSizes(exact, lsn)
    const files = listRelationFiles(stock.dataDir)
    for (const [key, size] of sizes) {
      if (size > 0) expect(files.get(key)?.blocks, `${key} ${where}`).toBe(size)
    }
    for (const [key, { blocks, fork }] of files) {
      const unlogged = files.has(key.replace(/\.\d$/, `.${INIT_FORK}`)) && fork !== INIT_FORK
      if (blocks > 0 && fork !== 1 && !unlogged)
        expect(sizes.get(key), `${key} ${where}`).toBe(blocks)
    }
  }
})

/** What stock Postgres recovers to exactly, beside its own times and positions. */
function counters(checkpoint: Checkpoint) {
  const { nextOid, nextMulti, nextMultiOffset, oldestXid, oldestXidDb } = checkpoint
  const { oldestMulti, oldestMultiDb, oldestCommitTsXid } = checkpoint
  return {
    ...{ nextOid, nextMulti, nextMultiOffset, oldestXid, oldestXidDb },
    ...{ oldestMulti, oldestMultiDb, oldestCommitTsXid },
  }
}
