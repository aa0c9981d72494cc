/**
 * Goal: the WAL decoder sees in stock WAL exactly what pg_waldump sees: every record with its
 * length, transaction and resource manager, every block reference, and every page image.
 * Method: run workloads over all resource managers, decode the segments in odd slices, compare with
 * the output of pg_waldump and with the images that it saves.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { parseControlFile } from '#libs/pg/control-file.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { giveTo, runAs } from '#libs/system-user.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { rmgrName } from '#libs/wal/format.ts'
import { restoreImage } from '#libs/wal/page-image.ts'
import { RecordFramer } from '#libs/wal/record-framer.ts'
import { importLsn } from '../../pageserver/import/data-folder-import.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { PRELUDE, WORKLOAD } from '../oracle/access-method-workload.ts'
import { runStatements } from '../oracle/redo-scenario.ts'
import { runTransactionWorkload, TRANSACTION_SETTINGS } from '../oracle/transaction-workload.ts'
import { readWalSegments } from '../oracle/wal-segments.ts'

const FORKS = ['main', 'fsm', 'vm', 'init']
const SLICES = [8192, 1, 100_003, 40, 65_536, 7, 300_000]

async function* lines(stream: NodeJS.ReadableStream): AsyncGenerator<string> {
  for await (const line of createInterface({ input: stream })) yield line
}

/** Every record of the range, one after the other, as the framer and decoder give them. */
function decodeAll(
  walDir: string,
  startLsn: Lsn,
  endLsn: Lsn,
  see: (record: DecodedRecord) => void,
): void {
  const framer = new RecordFramer(startLsn)
  const record = new DecodedRecord()
  let turn = 0
  for (const { bytes } of readWalSegments(walDir, startLsn, endLsn)) {
    for (let at = 0; at < bytes.length; ) {
      const step = SLICES[turn % SLICES.length] as number
      turn += 1
      framer.feed(bytes.subarray(at, at + step))
      at += step
      for (let index = 0; index < framer.count; index += 1) {
        framer.decode(index, record)
        see(record)
      }
    }
  }
  expect(framer.recordEndLsn).toBe(endLsn)
}

/** A record as pg_waldump prints it, less the description. */
function describeRecord(record: DecodedRecord): string {
  const parts = [
    `${rmgrName(record.rmid)} ${record.length} tx ${record.xid} ${formatLsn(record.startLsn)}`,
  ]
  for (let index = 0; index < record.blockCount; index += 1) {
    const fork = record.fork[index] as number
    const image =
      record.imageLength[index] === 0
        ? ''
        : record.appliesImage(index)
          ? ' FPW'
          : ' FPW for WAL verification'
    parts.push(
      `#${record.blockId[index]} ${record.spc[index]}/${record.db[index]}/${record.rel[index]}` +
        ` ${FORKS[fork]} ${record.block[index]}${image}`,
    )
  }
  return parts.join(' ')
}

const HEAD =
  /^rmgr: (\S+)\s+len \(rec\/tot\):\s+\d+\/\s*(\d+), tx:\s+(\d+), lsn: ([0-9A-F]+)\/([0-9A-F]+), prev/
const REFERENCE =
  /blkref #(\d+): rel (\d+\/\d+\/\d+)(?: fork (\S+))? blk (\d+)( FPW(?: for WAL verification)?)?/g

function describeLine(line: string): string | null {
  const head = HEAD.exec(line)
  if (!head) return null
  const lsn = `${head[4]}/${Number.parseInt(head[5] as string, 16)
    .toString(16)
    .toUpperCase()}`
  const parts = [`${head[1]} ${head[2]} tx ${head[3]} ${lsn}`]
  const from = line.indexOf(', blkref #')
  for (const match of from < 0 ? [] : line.slice(from).matchAll(REFERENCE)) {
    parts.push(`#${match[1]} ${match[2]} ${match[3] ?? 'main'} ${match[4]}${match[5] ?? ''}`)
  }
  return parts.join(' ')
}

for (const settings of [
  { wal_compression: 'lz4', full_page_writes: 'on' },
  { wal_compression: 'pglz', full_page_writes: 'on', wal_log_hints: 'on' },
  { wal_compression: 'zstd', full_page_writes: 'on', wal_consistency_checking: "'brin'" },
  { wal_compression: 'off', full_page_writes: 'off' },
]) {
  describe(`decoder and pg_waldump, ${JSON.stringify(settings)}`, () => {
    let server: VanillaPostgres
    let startLsn: Lsn
    let endLsn: Lsn
    let walDir: string

    beforeAll(async () => {
      server = await VanillaPostgres.start({
        settings: { ...TRANSACTION_SETTINGS, wal_keep_size: "'8GB'", ...settings },
      })
      await server.stop()
      startLsn = cleanEnd()
      await server.start()
      await runStatements(server, PRELUDE)
      await runStatements(server, WORKLOAD)
      await runTransactionWorkload(server, 200)
      await server.stop()
      endLsn = cleanEnd()
      walDir = join(server.dataDir, 'pg_wal')
    })

    afterAll(async () => {
      await server[Symbol.asyncDispose]()
    })

    function cleanEnd(): Lsn {
      return importLsn(parseControlFile(readFileSync(join(server.dataDir, 'global', 'pg_control'))))
    }

    function waldump(...extra: string[]) {
      const args = ['-p', walDir, '-s', formatLsn(startLsn), '-e', formatLsn(endLsn), ...extra]
      return spawn(findPostgres().bin('pg_waldump'), args, {
        cwd: server.dir,
        stdio: ['ignore', 'pipe', 'ignore'],
        ...runAs(),
      })
    }

    test('records and block references are the same', async () => {
      const expected: string[] = []
      for await (const line of lines(waldump().stdout)) {
        const described = describeLine(line)
        if (described !== null) expected.push(described)
      }
      let count = 0
      const seen = new Set<string>()
      decodeAll(walDir, startLsn, endLsn, (record) => {
        const described = describeRecord(record)
        if (described !== expected[count]) expect(described).toBe(expected[count])
        seen.add(rmgrName(record.rmid))
        count += 1
      })
      expect(count).toBe(expected.length)
      expect(count).toBeGreaterThan(100_000)
      expect(seen.size).toBeGreaterThanOrEqual(20)
    })

    test('page images are the same', async () => {
      const dir = join(server.dir, 'images')
      mkdirSync(dir)
      giveTo(dir)
      const child = waldump('-q', `--save-fullpage=${dir}`)
      await new Promise((resolve) => child.once('exit', resolve))
      const saved = new Map<string, string>()
      for (const name of readdirSync(dir)) {
        const match =
          /^[0-9A-F]{8}-([0-9A-F]+)-([0-9A-F]+)\.(\d+)\.(\d+)\.(\d+)\.(\d+)_(\S+)$/.exec(name)
        if (!match) continue
        const [, high, low, ...tag] = match
        const lsn =
          Number.parseInt(high as string, 16) * 2 ** 32 + Number.parseInt(low as string, 16)
        saved.set(`${lsn} ${tag.join(' ')}`, join(dir, name))
      }
      const page = Buffer.alloc(8192)
      let compared = 0
      decodeAll(walDir, startLsn, endLsn, (record) => {
        for (let index = 0; index < record.blockCount; index += 1) {
          if (!record.appliesImage(index)) continue
          const tag = [record.spc, record.db, record.rel, record.block].map((c) => c[index])
          const fork = FORKS[record.fork[index] as number]
          const path = saved.get(`${record.startLsn} ${tag.join(' ')} ${fork}`)
          restoreImage(record, index, page)
          const same = path !== undefined && readFileSync(path).subarray(8).equals(page.subarray(8))
          if (!same) expect.fail(`image at ${formatLsn(record.startLsn)}, block ${tag.join('/')}`)
          compared += 1
        }
      })
      expect(compared).toBeGreaterThan(settings.full_page_writes === 'on' ? 2000 : 100)
      rmSync(dir, { recursive: true })
    })
  })
}
