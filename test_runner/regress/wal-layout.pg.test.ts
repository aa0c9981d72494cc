/**
 * Goal: WAL whose records lie oddly because of what happened to the server is taken in to its last
 * byte: segments switched at any place, and records that a crash of the server cut off in the middle.
 * Method: a stock server switches segments behind records of random lengths, and is killed while it
 * writes records far larger than its WAL buffers, until its WAL has abandoned records. Then it stops,
 * and pg_control, SLRU files and record lists equal what ingest makes of the WAL.
 */
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Lsn, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { RMGR, XLOG_INFO } from '#libs/wal/format.ts'
import { importLsn } from '../../pageserver/import/data-folder-import.ts'
import { checkpointAt } from '../../pageserver/ingest/checkpoint-state.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { controlOf, importIntoMemory, ingestSegments } from '../oracle/memory-ingest.ts'
import { recordKindsIn } from '../oracle/record-kinds.ts'
import { differentSlruPages } from '../oracle/slru-files.ts'
import { listRecords, type RecordPlace } from '../oracle/wal-segments.ts'

const SWITCHES = 6
const MOST_KILLS = 15
const CUT_RECORDS = 2
const LARGE_BYTES = 30_000_000

let server: VanillaPostgres
let baseDir: string
let endLsn: Lsn
let kinds: Map<string, number>
let records: RecordPlace[]

/** Commits some, and kills the server while it writes one large record after the other. */
async function killInTheMiddle(): Promise<void> {
  const client = await server.connect()
  await client.query('INSERT INTO kept SELECT generate_series(1, 100)')
  const writing = client
    .query(
      `SELECT pg_logical_emit_message(false, 'x', m)
       FROM (SELECT repeat('y', ${LARGE_BYTES}) AS m) AS one, generate_series(1, 1000)`,
    )
    .catch(() => undefined)
  // The insert position moves when a record gets its place, before its bytes are copied there.
  const watcher = await server.connect()
  const from = String(
    (await watcher.query('SELECT pg_current_wal_insert_lsn() AS lsn')).rows[0].lsn,
  )
  const ask = `SELECT pg_current_wal_insert_lsn() - '${from}' > ${LARGE_BYTES} AS moved`
  const deadline = Date.now() + 120_000
  while (!(await watcher.query(ask)).rows[0].moved) {
    if (Date.now() > deadline) throw new Error('no large record was begun')
  }
  await server.stop('SIGQUIT')
  await writing
  await Promise.all([client.end().catch(() => undefined), watcher.end().catch(() => undefined)])
}

beforeAll(async () => {
  server = await VanillaPostgres.start({
    settings: {
      wal_keep_size: "'8GB'",
      wal_buffers: "'64kB'",
      fsync: 'off',
      max_wal_size: "'8GB'",
    },
  })
  await server.query('CREATE TABLE kept (a int)')
  await server.stop()
  baseDir = join(server.dir, 'base')
  cpSync(server.dataDir, baseDir, { recursive: true })
  const startLsn = importLsn(controlOf(baseDir))
  await server.start()
  for (let turn = 0; turn < SWITCHES; turn += 1) {
    const length = Math.floor(Math.random() * 20_000)
    await server.query(`SELECT pg_logical_emit_message(true, 'x', repeat('s', ${length}))`)
    await server.query('SELECT pg_switch_wal()')
  }
  const walDir = join(server.dataDir, 'pg_wal')
  for (let turn = 0; turn < MOST_KILLS; turn += 1) {
    await killInTheMiddle()
    await server.start()
    await server.query('CHECKPOINT')
    await server.stop()
    endLsn = importLsn(controlOf(server.dataDir))
    kinds = await recordKindsIn(server, walDir, startLsn, endLsn)
    if ((kinds.get('XLOG/OVERWRITE_CONTRECORD') ?? 0) >= CUT_RECORDS) break
    await server.start()
  }
  records = listRecords(walDir, startLsn, endLsn)
})

afterAll(async () => {
  await server?.[Symbol.asyncDispose]()
})

function count(info: number): number {
  return records.filter((one) => one.rmid === RMGR.XLOG && (one.info & 0xf0) === info).length
}

test('records are those that pg_waldump sees, switches and abandoned ones among them', () => {
  expect(records.length).toBe([...kinds.values()].reduce((sum, one) => sum + one, 0))
  expect(count(XLOG_INFO.SWITCH)).toBe(SWITCHES)
  expect(count(XLOG_INFO.OVERWRITE_CONTRECORD)).toBeGreaterThanOrEqual(CUT_RECORDS)
  const ends = records
    .filter((one) => one.rmid === RMGR.XLOG && (one.info & 0xf0) === XLOG_INFO.SWITCH)
    .map((one) => one.endLsn % WAL_SEGMENT_SIZE)
  expect(new Set(ends)).toEqual(new Set([0]))
})

test.each([1_000_000, 12_345])(
  'the state after it is that of the server, %i bytes at a time',
  async (slice) => {
    const timeline = await importIntoMemory(baseDir)
    await ingestSegments(timeline, join(server.dataDir, 'pg_wal'), endLsn, slice)
    expect(timeline.lastRecordLsn).toBe(endLsn)
    const { checkpoint } = await checkpointAt(timeline, endLsn)
    const { oldestActiveXid: _, ...expected } = controlOf(server.dataDir).checkpoint
    const { oldestActiveXid: __, ...tracked } = checkpoint
    expect(tracked).toEqual(expected)
    expect((await differentSlruPages(timeline, server.dataDir)).different).toEqual([])
  },
)
