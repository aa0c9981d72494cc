import { expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import { PAGE_SIZE } from '#libs/pg/page.ts'
import { DATABASE_INFO, RMGR, XLOG_INFO } from '#libs/wal/format.ts'
import { buildPayload, WalBuilder } from '../../test_runner/fixtures/wal-builder.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import { ScratchServer } from '../tenants/testing/scratch-server.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { encodeCheckpointState } from './checkpoint-state.ts'
import type { IngestTarget } from './ingest-target.ts'
import { exampleState } from './testing/example-state.ts'
import { WalIngest } from './wal-ingest.ts'

const START = 0x4000000 + 64
const SPC = 1663
const DB = 5
const COPY = 77
const REL = 16384
const BLOCKS = 200

/** The timeline, but for reads of pages: the second one fails. */
function failingOnce(timeline: Timeline): IngestTarget {
  let reads = 0
  return new Proxy(timeline, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      return (...values: unknown[]): unknown => {
        if (name === 'readPages' && ++reads === 2) {
          return Promise.reject(new Error('object storage is away'))
        }
        return value.apply(target, values)
      }
    },
  })
}

function builtWal(): WalBuilder {
  const wal = new WalBuilder(START)
  for (let block = 0; block < BLOCKS; block += 1) {
    const page = Buffer.alloc(PAGE_SIZE, block + 1)
    wal.append(
      RMGR.XLOG,
      XLOG_INFO.FPI,
      0,
      buildPayload({
        blocks: [{ id: 0, spc: SPC, db: DB, rel: REL, block, image: { bytes: page } }],
      }),
    )
  }
  const main = Buffer.alloc(16)
  for (const [index, word] of [COPY, SPC, DB, SPC].entries()) main.writeUInt32LE(word, index * 4)
  wal.append(RMGR.DATABASE, DATABASE_INFO.CREATE_FILE_COPY, 0, buildPayload({ main }))
  return wal
}

async function expectCopied(timeline: Timeline, lsn: number): Promise<void> {
  const blockSlot = (db: number) => timeline.slot(KeyClass.RelBlock, SPC, db, REL, 0)
  expect(await timeline.relSize(SPC, COPY, REL, 0, lsn)).toBe(BLOCKS)
  const copy = await timeline.readPages(blockSlot(COPY), 0, BLOCKS, lsn)
  const original = await timeline.readPages(blockSlot(DB), 0, BLOCKS, lsn)
  expect(copy.equals(original)).toBe(true)
}

test('a record that failed half-way leaves nothing behind and goes in later', async () => {
  await using server = await ScratchServer.start({ rollSizeBytes: 1e9 })
  const id = newTimelineId()
  const facts = { startLsn: START, systemId: '7', pgVersion: 170011 }
  const timeline = await server.tenant.createTimeline(id, facts, async (empty) => {
    const slot = empty.slot(KeyClass.Checkpoint, 0, 0, 0, 0)
    const blob = encodeCheckpointState(exampleState)
    empty.put(slot, 0, START, ValueKind.Image, blob, 0, blob.length)
    empty.publish(START)
  })
  const wal = builtWal()
  const bytes = wal.bytes()
  const beforeLsn = wal.records.at(-2)?.endLsn as number

  const failing = await WalIngest.open(failingOnce(timeline))
  await expect(failing.ingest(bytes, START)).rejects.toThrow('object storage is away')
  expect(timeline.lastRecordLsn).toBe(beforeLsn)
  const copySize = timeline.slot(KeyClass.RelSize, SPC, COPY, REL, 0)
  expect(timeline.latestRelSize(copySize)).toBe(BLOCKS)

  timeline.dropUnpublished()
  await timeline.ready()
  expect(timeline.latestRelSize(copySize)).toBeUndefined()
  expect(await timeline.relSize(SPC, DB, REL, 0, beforeLsn)).toBe(BLOCKS)

  const again = await WalIngest.open(timeline)
  expect(again.nextLsn).toBe(beforeLsn)
  await again.ingest(bytes.subarray(beforeLsn - START), beforeLsn)
  expect(timeline.lastRecordLsn).toBe(wal.lsn)
  await expectCopied(timeline, wal.lsn)
  expect(await timeline.relSize(SPC, COPY, REL, 0, beforeLsn)).toBeNull()

  await timeline.flush()
  await server.restart({ wipeLocal: true })
  const reopened = server.tenant.timeline(id)
  await expectCopied(reopened, wal.lsn)
  expect(server.errors).toEqual([])
})
