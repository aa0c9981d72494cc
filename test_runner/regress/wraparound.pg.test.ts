/**
 * Goal: transaction ids, multixact ids and member offsets may pass 2^32 while WAL is taken in, and
 * every counter and SLRU page still equals what stock Postgres has.
 * Method: bring a stock server close to all three limits with pg_resetwal, freezing on the way, run
 * a workload that crosses them, freeze, which cuts what is old, ingest its WAL, compare with
 * pg_control and the files.
 */
import { cpSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ControlFile, parseControlFile } from '#libs/pg/control-file.ts'
import {
  CLOG_XACTS_PER_PAGE,
  MULTIXACT_MEMBERS_PER_PAGE,
  MULTIXACT_OFFSETS_PER_PAGE,
} from '#libs/pg/slru.ts'
import { importDataFolder, importLsn } from '../../pageserver/import/data-folder-import.ts'
import { checkpointAt } from '../../pageserver/ingest/checkpoint-state.ts'
import { WalIngest } from '../../pageserver/ingest/wal-ingest.ts'
import { KeyClass } from '../../pageserver/keyspace/key-class.ts'
import type { Timeline } from '../../pageserver/timeline/timeline.ts'
import { MemoryTimeline } from '../fixtures/memory-timeline.ts'
import { makeSegment } from '../fixtures/near-limits.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { freezeAll } from '../oracle/freeze-all.ts'
import { differentSlruPages } from '../oracle/slru-files.ts'
import { runTransactionWorkload, TRANSACTION_SETTINGS } from '../oracle/transaction-workload.ts'
import { readWalSegments } from '../oracle/wal-segments.ts'

const LIMIT = 2 ** 32
const NEXT_XID = LIMIT - 2500
const NEXT_MULTI = LIMIT - 400
const NEXT_MEMBER = LIMIT - 700

function control(dataDir: string): ControlFile {
  return parseControlFile(readFileSync(join(dataDir, 'global', 'pg_control')))
}

describe('ids pass 2^32', () => {
  let server: VanillaPostgres
  let timeline: MemoryTimeline
  let end: ControlFile

  beforeAll(async () => {
    server = await VanillaPostgres.create({
      settings: { ...TRANSACTION_SETTINGS, wal_keep_size: "'4GB'", full_page_writes: 'off' },
    })
    // At most 2^31 ids at once, and everything older frozen before the next step.
    for (const xid of [1_900_000_000, 3_800_000_000, NEXT_XID]) {
      await server.start()
      await freezeAll(server)
      await server.stop()
      makeSegment(server.dataDir, 'pg_xact', xid, CLOG_XACTS_PER_PAGE)
      await server.tool('pg_resetwal', ['-x', String(xid), '-D', server.dataDir])
    }
    const { dataDir } = server
    makeSegment(dataDir, 'pg_multixact/offsets', NEXT_MULTI, MULTIXACT_OFFSETS_PER_PAGE)
    makeSegment(dataDir, 'pg_multixact/members', NEXT_MEMBER, MULTIXACT_MEMBERS_PER_PAGE)
    const multi = ['-m', `${NEXT_MULTI},${NEXT_MULTI}`, '-O', String(NEXT_MEMBER)]
    await server.tool('pg_resetwal', [...multi, '-D', dataDir])
    await server.start()
    await server.stop()
    const baseDir = join(server.dir, 'base')
    cpSync(dataDir, baseDir, { recursive: true })

    await server.start()
    await runTransactionWorkload(server, 1200)
    await freezeAll(server)
    await server.stop()
    end = control(dataDir)

    const base = control(baseDir)
    timeline = new MemoryTimeline(importLsn(base))
    await importDataFolder(timeline as unknown as Timeline, baseDir, base)
    const ingest = await WalIngest.open(timeline)
    const endLsn = importLsn(end)
    for (const { lsn, bytes } of readWalSegments(
      join(dataDir, 'pg_wal'),
      timeline.lastRecordLsn,
      endLsn,
    )) {
      for (let at = 0; at < bytes.length; at += 30_000) {
        await ingest.ingest(bytes.subarray(at, at + 30_000), lsn + at)
      }
    }
  })

  afterAll(async () => {
    await server[Symbol.asyncDispose]()
  })

  test('the workload crossed all three limits', () => {
    expect(end.checkpoint.nextXid).toBeGreaterThan(LIMIT)
    expect(end.checkpoint.nextMulti).toBeLessThan(NEXT_MULTI)
    expect(end.checkpoint.nextMultiOffset).toBeLessThan(NEXT_MEMBER)
  })

  test('old segments were cut on the way', () => {
    expect(end.checkpoint.oldestXid).toBeLessThan(LIMIT / 2)
    expect(end.checkpoint.oldestMulti).toBeLessThan(LIMIT / 2)
    expect(readdirSync(join(server.dataDir, 'pg_xact'))).toEqual(['0000'])
  })

  test('the counters equal pg_control', async () => {
    const { checkpoint } = await checkpointAt(timeline, importLsn(end))
    const { oldestActiveXid: _, ...expected } = end.checkpoint
    const { oldestActiveXid: __, ...tracked } = checkpoint
    expect(tracked).toEqual(expected)
  })

  test('SLRU segments and pages equal the files', async () => {
    const { compared, different } = await differentSlruPages(timeline, server.dataDir)
    expect(different).toEqual([])
    expect(compared).toBeGreaterThan(10)
  })

  test('a prepared transaction has its epoch', async () => {
    const [prepared] = await timeline.scanBlobs(KeyClass.TwoPhase, timeline.lastRecordLsn)
    expect(prepared?.db).toBe(1)
  })
})
