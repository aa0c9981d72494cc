/**
 * Goal: the byte oracle passes after a workload over all access methods, in several databases and tablespaces, with
 * prepared transactions and unlogged relations; and every one of its comparisons can fail.
 * Method: the right answer first; then one byte is changed on one side of each comparison.
 */
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Compute } from '../fixtures/compute.ts'
import { Installation } from '../fixtures/installation.ts'
import { PRELUDE, WORKLOAD } from '../oracle/access-method-workload.ts'
import { type ByteOracleRun, byteOracle } from '../oracle/byte-oracle.ts'
import { ByteReport } from '../oracle/byte-report.ts'
import { compareFolders } from '../oracle/folder-diff.ts'
import { runStatements } from '../oracle/redo-scenario.ts'
import { listRelationFiles } from '../oracle/relation-files.ts'
import { compareSizes } from '../oracle/size-diff.ts'
import { compareSmallFiles } from '../oracle/small-files.ts'
import { runTransactionWorkload } from '../oracle/transaction-workload.ts'

let zenith: Installation
let compute: Compute
let run: ByteOracleRun

beforeAll(async () => {
  zenith = await Installation.create()
  compute = await zenith.startCompute('main', { settings: { shared_buffers: '8MB' } })
  await runStatements(compute, [...PRELUDE, 'VACUUM', 'CREATE DATABASE other', ...WORKLOAD])
  await runStatements(compute, [
    `BEGIN; INSERT INTO parent_t VALUES (2001); PREPARE TRANSACTION 'left'`,
    'SET allow_in_place_tablespaces = on',
    `CREATE TABLESPACE elsewhere LOCATION ''`,
    'CREATE TABLE placed (id int PRIMARY KEY) TABLESPACE elsewhere',
    'INSERT INTO placed SELECT generate_series(1, 1000)',
    'CREATE DATABASE moved TEMPLATE other TABLESPACE elsewhere STRATEGY wal_log',
    'CREATE DATABASE copied STRATEGY file_copy',
    'CREATE DATABASE gone',
    'DROP DATABASE gone',
  ])
  run = await byteOracle(zenith, compute)
})

afterAll(async () => {
  run?.[Symbol.dispose]()
  await zenith?.[Symbol.asyncDispose]()
})

test('after a workload nothing differs', () => {
  console.log(String(run.report))
  expect(run.report.differences).toEqual([])
  const places = [...listRelationFiles(run.folders.theirs).keys()].map((key) => key.split('/'))
  expect(new Set(places.map(([spc]) => spc)).size).toBe(3)
  const counts = (name: 'buffers' | 'stock replay' | 'local files') => run.report.counts.get(name)
  expect(counts('buffers')?.get('main')?.compared).toBeGreaterThan(300)
  expect(counts('buffers')?.get('vm')?.compared).toBeGreaterThan(5)
  expect(counts('stock replay')?.get('main')?.compared).toBeGreaterThan(5000)
  expect(counts('stock replay')?.get('main')?.masked).toBe(0)
  expect(counts('stock replay')?.get('two-phase')?.compared).toBe(1)
  expect(run.report.sizes).toBeGreaterThan(4000)
  expect(counts('local files')?.get('relmap')?.compared).toBeGreaterThan(12)
})

test('a byte that differs in a relation, an SLRU, a map or a two-phase file is seen', () => {
  const { ours, theirs } = run.folders
  const files = [...listRelationFiles(theirs).values()].filter(({ blocks }) => blocks > 0)
  const relation = (fork: number) => files.find((file) => file.fork === fork)?.path as string
  for (const [path, at] of [
    // The first line pointer, or what a metapage begins with; elsewhere might be free space.
    [relation(0), 24],
    [relation(2), 30],
    [join(theirs, 'pg_xact/0000'), 100],
    [join(theirs, 'global/pg_filenode.map'), 20],
    [join(theirs, 'pg_twophase', readdirSync(join(theirs, 'pg_twophase'))[0] as string), 40],
  ] as const) {
    const bytes = readFileSync(path)
    const old = bytes[at] as number
    bytes[at] = old ^ 1
    writeFileSync(path, bytes)
    const report = new ByteReport(run.report.lsn)
    compareFolders(run.folders, report)
    expect(report.differences, path).toHaveLength(1)
    bytes[at] = old
    writeFileSync(path, bytes)
  }
  const report = new ByteReport(run.report.lsn)
  rmSync(relation(0))
  compareFolders(run.folders, report)
  expect(report.differences[0]?.what).toMatch(/not known to stock Postgres/)
  compareSmallFiles('local files', { ours, theirs: ours }, report)
  expect(report.differences).toHaveLength(1)
})

test('a fork that is longer for the compute than at the pageserver is seen', async () => {
  const report = new ByteReport(run.report.lsn)
  const file = [...listRelationFiles(run.folders.ours).values()].find(
    ({ spc, fork, blocks }) => spc === 1664 && fork === 0 && blocks === 1,
  )
  truncateSync(file?.path as string, 0)
  await compareSizes(compute, run.folders.ours, report)
  const databases = 5
  expect(report.differences).toHaveLength(databases)
  expect(report.differences[0]?.what).toBe('has 1 blocks for the compute, 0 at the pageserver')
})

test('a byte that differs in a buffer is seen', async () => {
  await compute.query(`SELECT scribble_on_buffer('heap_t', 'main', 3, 8000)`)
  await compute.query(`SELECT scribble_on_buffer('heap_t', 'vm', 0, 100)`)
  using second = await byteOracle(zenith, compute)
  const names = second.report.differences.map(({ name }) => name.replace(/^\S+ /, ''))
  expect(names.sort()).toEqual(['main block 3', 'vm block 0'])
  expect(second.report.differences[0]?.what).toMatch(/rmgr: Heap/)
})

test('after crashes with open transactions, commit times and multixacts nothing differs', async () => {
  const settings = { shared_buffers: '4MB', track_commit_timestamp: 'on' }
  await compute.stop()
  compute = await zenith.startCompute('main', { settings })
  await runTransactionWorkload(compute, 1500)
  for (let round = 0; round < 3; round++) {
    const [open, other] = [await compute.connect(), await compute.connect()]
    await open.query(`BEGIN; CREATE TABLE unfinished AS SELECT g AS id FROM generate_series(1, 3000) g;
      CREATE INDEX ON unfinished (id); TRUNCATE heap_t; SAVEPOINT s; DELETE FROM docs; ROLLBACK TO s;
      UPDATE geo SET id = id + 1`)
    await other.query(`INSERT INTO parent_t VALUES (${5000 + round})`)
    await other.query('CHECKPOINT')
    await other.query(
      `BEGIN; INSERT INTO parent_t VALUES (${6000 + round}); PREPARE TRANSACTION 'p${round}'`,
    )
    if (round === 1) await other.query(`COMMIT PREPARED 'p0'`)
    await compute.kill()
    compute = await zenith.startCompute('main', { settings })
  }
  using later = await byteOracle(zenith, compute)
  console.log(String(later.report))
  expect(later.report.differences, String(later.report)).toEqual([])
  expect(later.report.counts.get('stock replay')?.get('two-phase')?.compared).toBe(4)
})
