/**
 * Goal: what ingest derives from WAL beside pages equals what stock Postgres has on disk: counters
 * of pg_control, SLRU pages, relation sizes, visibility map bits, relation maps, databases,
 * prepared transactions, replication origins.
 * Method: run a workload on stock Postgres from a saved base, stop it cleanly, ingest the same WAL
 * into a timeline in memory, compare with the data folder.
 */
import { cpSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseLsn } from '#libs/lsn.ts'
import { type ControlFile, parseControlFile } from '#libs/pg/control-file.ts'
import { crc32c } from '#libs/wal/crc32c.ts'
import { checkpointAt } from '../../pageserver/ingest/checkpoint-state.ts'
import { WalIngest } from '../../pageserver/ingest/wal-ingest.ts'
import { importDataFolder, importLsn } from '../../pageserver/import/data-folder-import.ts'
import { KeyClass } from '../../pageserver/keyspace/key-class.ts'
import type { Timeline } from '../../pageserver/timeline/timeline.ts'
import { MemoryTimeline } from '../fixtures/memory-timeline.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { PRELUDE, WORKLOAD } from '../oracle/access-method-workload.ts'
import { listRelationFiles, readBlocks } from '../oracle/relation-files.ts'
import { runStatements } from '../oracle/redo-scenario.ts'
import { differentSlruPages } from '../oracle/slru-files.ts'
import { runTransactionWorkload, TRANSACTION_SETTINGS } from '../oracle/transaction-workload.ts'
import { readWalSegments } from '../oracle/wal-segments.ts'

const VM_FORK = 2
const INIT_FORK = 3

function ascending(left: number, right: number): number {
  return left - right
}

function control(dataDir: string): ControlFile {
  return parseControlFile(readFileSync(join(dataDir, 'global', 'pg_control')))
}

for (const settings of [
  { full_page_writes: 'off', wal_compression: 'off' },
  { full_page_writes: 'on', wal_compression: 'pglz' },
  { full_page_writes: 'on', wal_compression: 'zstd', wal_log_hints: 'on' },
]) {
  describe(`ingest of stock WAL, ${JSON.stringify(settings)}`, () => {
    let server: VanillaPostgres
    let timeline: MemoryTimeline
    let end: ControlFile
    let endLsn: number
    let copiedByWal: number

    beforeAll(async () => {
      server = await VanillaPostgres.start({
        settings: { ...TRANSACTION_SETTINGS, wal_keep_size: "'4GB'", ...settings },
      })
      await runStatements(server, PRELUDE)
      await server.stop()
      const baseDir = join(server.dir, 'base')
      cpSync(server.dataDir, baseDir, { recursive: true })

      await server.start()
      await runStatements(server, WORKLOAD)
      await runTransactionWorkload(server)
      const [row] = await server.query(`SELECT oid FROM pg_database WHERE datname = 'by_wal'`)
      copiedByWal = Number(row?.['oid'])
      await server.stop()
      end = control(server.dataDir)
      endLsn = importLsn(end)

      const base = control(baseDir)
      timeline = new MemoryTimeline(importLsn(base))
      await importDataFolder(timeline as unknown as Timeline, baseDir, base)
      const ingest = await WalIngest.open(timeline)
      const walDir = join(server.dataDir, 'pg_wal')
      for (const { lsn, bytes } of readWalSegments(walDir, timeline.lastRecordLsn, endLsn)) {
        for (let at = 0; at < bytes.length; at += 100_000) {
          await ingest.ingest(bytes.subarray(at, at + 100_000), lsn + at)
        }
      }
    })

    afterAll(async () => {
      await server[Symbol.asyncDispose]()
    })

    test('the WAL is taken in to its last byte', () => {
      expect(timeline.lastRecordLsn).toBe(endLsn)
    })

    test('the checkpoint equals pg_control', async () => {
      const state = await checkpointAt(timeline, endLsn)
      const { oldestActiveXid, ...rest } = state.checkpoint
      const { oldestActiveXid: _, ...expected } = end.checkpoint
      expect(rest).toEqual(expected)
      expect(oldestActiveXid).toBeGreaterThan(0)
      expect(state.previousRecordLsn).toBe(end.checkpointLsn)
      expect(state.cleanShutdown).toBe(true)
      expect(state.commitTsActive).toBe(end.trackCommitTimestamp)
      expect(state.maxConnections).toBe(end.maxConnections)
      expect(state.maxPreparedXacts).toBe(end.maxPreparedXacts)
    })

    test('SLRU segments and pages equal the files', async () => {
      const { compared, different } = await differentSlruPages(timeline, server.dataDir)
      expect(different).toEqual([])
      expect(compared).toBeGreaterThan(10)
    })

    test('relation sizes equal the files, but for zero pages that were never logged', async () => {
      const files = listRelationFiles(server.dataDir)
      const live = await timeline.scanBlobs(KeyClass.RelSize, endLsn)
      const sizes = new Map(
        live.map((e) => [`${e.spc}/${e.db}/${e.rel}.${e.fork}`, e.value.readUInt32LE(0)]),
      )
      let compared = 0
      for (const [key, file] of files) {
        if (file.fork === 1) continue
        const unlogged = files.has(`${file.spc}/${file.db}/${file.rel}.${INIT_FORK}`)
        if (unlogged && file.fork !== INIT_FORK) continue
        // A map without bits, and any file without blocks, may exist with nothing logged.
        const mayLack = file.blocks === 0 || file.fork === VM_FORK
        const size = sizes.get(key) ?? (mayLack ? 0 : Number.NaN)
        expect(size, key).toBeLessThanOrEqual(file.blocks)
        for (let block = size; block < file.blocks; block += 1) {
          const rest = readBlocks(file, block, 1).subarray(24)
          expect(
            rest.every((byte) => byte === 0),
            `${key} block ${block}`,
          ).toBe(true)
        }
        compared += 1
      }
      expect(compared).toBeGreaterThan(800)
      for (const [key, size] of sizes) {
        if (!files.has(key) && size > 0) expect.fail(`${key} is not on disk`)
      }
    })

    test('visibility map bits equal the files', async () => {
      let compared = 0
      // A copy through WAL logs map pages as if they were empty, so here bits may be missing.
      for (const [key, file] of listRelationFiles(server.dataDir)) {
        if (file.fork !== VM_FORK) continue
        const { spc, db, rel } = file
        const slot = timeline.slot(KeyClass.RelBlock, spc, db, rel, VM_FORK)
        for (let block = 0; block < file.blocks; block += 1) {
          const expected = readBlocks(file, block, 1).subarray(24)
          const page = timeline.page(slot, block)
          const bits = page?.subarray(24) as Buffer
          const good =
            db === copiedByWal
              ? bits.every((byte, at) => (byte & ~(expected[at] as number)) === 0)
              : bits.equals(expected)
          expect(good, `${key} block ${block}`).toBe(true)
          compared += 1
        }
      }
      expect(compared).toBeGreaterThan(10)
    })

    test('relation maps and databases equal the files', async () => {
      const maps = await timeline.scanBlobs(KeyClass.RelMap, endLsn)
      const databases = readdirSync(join(server.dataDir, 'base')).map(Number).toSorted(ascending)
      expect(
        maps
          .filter((m) => m.db !== 0)
          .map((m) => m.db)
          .toSorted(ascending),
      ).toEqual(databases)
      for (const { db, value } of maps) {
        const dir = db === 0 ? 'global' : `base/${db}`
        const file = readFileSync(join(server.dataDir, dir, 'pg_filenode.map'))
        expect(value.equals(file), dir).toBe(true)
      }
      const directory = (await timeline.blob(KeyClass.DbDir)) as Buffer
      const listed: number[] = []
      for (let at = 0; at < directory.length; at += 8) listed.push(directory.readUInt32LE(at + 4))
      expect(listed.toSorted(ascending)).toEqual(databases)
    })

    test('prepared transactions equal the files', async () => {
      const live = await timeline.scanBlobs(KeyClass.TwoPhase, endLsn)
      const names = readdirSync(join(server.dataDir, 'pg_twophase'))
      expect(names.length).toBe(1)
      const hex = (value: number) => value.toString(16).toUpperCase().padStart(8, '0')
      expect(live.map((e) => hex(e.db) + hex(e.rel))).toEqual(names)
      const file = readFileSync(join(server.dataDir, 'pg_twophase', names[0] as string))
      const body = live[0]?.value as Buffer
      expect(file.subarray(0, -4).equals(body)).toBe(true)
      expect(file.readUInt32LE(file.length - 4)).toBe(crc32c(body))
    })

    test('replication origins are known', async () => {
      const [origin] = await timeline.scanBlobs(KeyClass.ReplOrigin, endLsn)
      expect(origin?.value.readBigUInt64LE(0)).toBe(BigInt(parseLsn('1/5678900')))
    })
  })
}
