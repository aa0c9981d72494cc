/**
 * Goal: with wal_consistency_checking, every page that redo rebuilds is compared with the image in
 * its record, and one that is different is never served.
 * Method: a stock Postgres writes such WAL over all access methods; each chain of records goes to the
 * redo processes. Then records are damaged where redo takes the new contents from. Last, a compute
 * writes such WAL, and the pageserver reads pages at so many LSNs that every record is redone.
 */
import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createLogger } from '#libs/log.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { RMGR } from '#libs/wal/format.ts'
import { RedoPool } from '../../pageserver/redo/redo-pool.ts'
import { Installation } from '../fixtures/installation.ts'
import { PageClient } from '../fixtures/page-client.ts'
import { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { PRELUDE, WORKLOAD, WORKLOAD_SETTINGS } from '../oracle/access-method-workload.ts'
import {
  CONSISTENCY_SETTINGS,
  checkReads,
  consistencyOracle,
  describeConsistency,
} from '../oracle/consistency-oracle.ts'
import type { PlannedRead } from '../oracle/consistency-plan.ts'
import { makeRedoScenario, type RedoScenario, runStatements } from '../oracle/redo-scenario.ts'
import { readBlocks, relationKey } from '../oracle/relation-files.ts'
import type { BlockHistory } from '../oracle/wal-history.ts'

const VM_FORK = 2
const log = createLogger('consistency-test')
log.level = 'fatal'

let server: VanillaPostgres
let scenario: RedoScenario
let pool: RedoPool

beforeAll(async () => {
  server = await VanillaPostgres.create({
    settings: {
      ...WORKLOAD_SETTINGS,
      fsync: 'off',
      full_page_writes: 'off',
      wal_compression: 'lz4',
      wal_consistency_checking: "'all'",
      max_wal_size: "'4GB'",
    },
  })
  await server.start()
  scenario = await makeRedoScenario(server)
  const workDir = join(tmpdir(), `zenith-redo-${randomBytes(6).toString('hex')}`)
  pool = new RedoPool({ workDir, log, maxProcesses: 2 })
})

afterAll(async () => {
  await pool?.close()
  await server?.[Symbol.asyncDispose]()
})

/** Chains for the redo processes; the pageserver keeps visibility maps without them. */
function chains(): BlockHistory[] {
  return [...scenario.history.blocks.values()].filter(({ fork }) => fork !== VM_FORK)
}

function baseOf(block: BlockHistory): Buffer | null {
  if (block.startsFresh) return null
  const file = scenario.before.get(relationKey(block))
  return file !== undefined && block.blk < file.blocks
    ? readBlocks(file, block.blk, 1)
    : Buffer.alloc(8192)
}

function rebuild(block: BlockHistory, records = block.records): Promise<Buffer> {
  return pool.apply(block, baseOf(block), block.endLsns, records)
}

test('every image is equal to the page that redo makes', async () => {
  const all = chains()
  for (let at = 0; at < all.length; at += 500) {
    await Promise.all(all.slice(at, at + 500).map((block) => rebuild(block)))
  }
  const { applied, checked, records, failed } = pool.stats
  console.log(`${applied} pages, ${records} records, ${checked} images compared`)
  expect(failed).toBe(0)
  expect(checked).toBeGreaterThan(50_000)
})

test('a record that makes another page than its image says fails, and names the place', async () => {
  const damaged: Record<string, { rmgr: number; block: BlockHistory }> = {}
  const record = new DecodedRecord()
  const wanted = { heap: RMGR.HEAP, btree: RMGR.BTREE, gin: RMGR.GIN, gist: RMGR.GIST }
  for (const block of chains()) {
    const last = block.records.at(-1) as Buffer
    record.decode(last, viewOf(last), 0, last.length, 0)
    const index = referenceTo(record, block)
    for (const [name, rmgr] of Object.entries(wanted)) {
      const long = (record.dataLength[index] as number) >= 16
      if (record.rmid === rmgr && long && !record.appliesImage(index))
        damaged[name] = { rmgr, block }
    }
  }
  expect(Object.keys(damaged).sort()).toEqual(Object.keys(wanted).sort())
  for (const { block } of Object.values(damaged)) {
    const records = [...block.records]
    const bad = Buffer.from(records.at(-1) as Buffer)
    record.decode(bad, viewOf(bad), 0, bad.length, 0)
    const index = referenceTo(record, block)
    const at = (record.dataOffset[index] as number) + (record.dataLength[index] as number) - 2
    bad[at] = (bad[at] as number) ^ 0x40
    records[records.length - 1] = bad
    await expect(rebuild(block, records)).rejects.toMatchObject({
      code: 'corrupt',
      message: expect.stringMatching(/inconsistent page: it differs from the image .* byte \d+ on/),
    })
    await rebuild(block)
  }
})

test('a compute: all records of its WAL', async () => {
  await using zenith = await Installation.create()
  const settings = { ...CONSISTENCY_SETTINGS, shared_buffers: '4MB' }
  let compute = await zenith.startCompute('main', { settings })
  const small = PRELUDE.map((statement) => statement.replace(/\b(\d+)000\) g/, '$100) g'))
  await runStatements(compute, [...small, ...WORKLOAD.slice(0, 16)])
  // The visibility maps of its catalogs come as copies.
  await compute.query('CREATE DATABASE copied')
  await compute.query('CREATE TABLE here (id int PRIMARY KEY, t text, u text)', 'copied')
  await compute.query('COMMENT ON TABLE here IS $$here$$', 'copied')
  await compute.stop()
  compute = await zenith.startCompute('main', { settings })
  await runStatements(compute, [`DELETE FROM heap_t WHERE id % 2 = 1`, 'VACUUM', 'CHECKPOINT'])
  const report = await consistencyOracle(zenith, compute)
  console.log(describeConsistency(report))
  const { plan, faults, mapImages, checked } = report
  expect(faults).toEqual([])
  expect(plan.images).toBeGreaterThan(50_000)
  expect(checked).toBeGreaterThanOrEqual(plan.images)
  expect(mapImages).toBeGreaterThan(100)

  const { tenantId, timelineId } = compute.spec
  const port = zenith.pageserverNode.pgPort
  await using pages = await PageClient.connect({ port, tenantId, timelineId })
  const read = plan.reads.find(({ image }) => image !== null) as PlannedRead
  const image = Buffer.from(read.image as Buffer)
  image[30] = (image[30] as number) ^ 1
  expect(await checkReads(pages, [{ ...read, image }])).toHaveLength(1)
})

function viewOf(buffer: Buffer): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.length)
}

function referenceTo(record: DecodedRecord, block: BlockHistory): number {
  for (let index = 0; index < record.blockCount; index++) {
    const same = record.rel[index] === block.rel && record.block[index] === block.blk
    if (same && record.fork[index] === block.fork) return index
  }
  throw new Error('the record does not name its block')
}
