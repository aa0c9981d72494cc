import { zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { beforeEach, describe, expect, it } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import { writeCheckpoint } from '#libs/pg/checkpoint.ts'
import { initPage, PAGE_SIZE, pageLsn } from '#libs/pg/page.ts'
import {
  BKPIMAGE_COMPRESS_ZSTD,
  DATABASE_INFO,
  FSM_FORK,
  HEAP_INFO,
  MULTIXACT_INFO,
  RMGR,
  SLRU_INFO,
  SMGR_INFO,
  VM_FORK,
  XACT_HAS_INFO,
  XACT_INFO,
  XLOG_INFO,
} from '#libs/wal/format.ts'
import { MemoryTimeline } from '../../test_runner/fixtures/memory-timeline.ts'
import { buildPayload, type BuiltRecord, words } from '../../test_runner/fixtures/wal-builder.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import { checkpointAt } from './checkpoint-state.ts'
import {
  BuiltIngest,
  DB,
  FIRST_XID,
  heapBlock,
  REL,
  SPC,
  START_LSN,
} from '../../test_runner/fixtures/built-ingest.ts'
import { exampleState } from './testing/example-state.ts'
import { WalIngest } from './wal-ingest.ts'

const EMPTY = Buffer.alloc(0)

let built: BuiltIngest

beforeEach(() => {
  built = new BuiltIngest()
})

describe('blocks', () => {
  it('stores records at their end, with the initialising ones marked', async () => {
    const first = built.insert(0, { init: true })
    const second = built.insert(0)
    await built.ingest()
    expect(built.kinds(KeyClass.RelBlock, 0)).toEqual([
      [first.endLsn, ValueKind.RecordInit],
      [second.endLsn, ValueKind.Record],
    ])
    const [, version] = built.timeline.versions(built.slot(KeyClass.RelBlock, SPC, DB, REL), 0)
    expect(version?.bytes.equals(second.bytes)).toBe(true)
    expect(built.size()).toBe(1)
  })

  it('puts zero pages under skipped blocks and under a new block whose record needs a page', async () => {
    const { endLsn } = built.insert(3)
    await built.ingest()
    for (const block of [0, 1, 2]) {
      expect(built.kinds(KeyClass.RelBlock, block)).toEqual([[endLsn - 8, ValueKind.ZeroPage]])
    }
    expect(built.kinds(KeyClass.RelBlock, 3)).toEqual([
      [endLsn - 8, ValueKind.ZeroPage],
      [endLsn, ValueKind.Record],
    ])
    expect(built.size()).toBe(4)
  })

  it('lets nothing of before a truncation show through', async () => {
    built.insert(0, { init: true })
    built.insert(1, { init: true })
    built.insert(2, { init: true })
    built.record(RMGR.STORAGE, SMGR_INFO.TRUNCATE, words(1, SPC, DB, REL, 7))
    const again = built.insert(2, { init: true })
    await built.ingest()
    expect(built.kinds(KeyClass.RelBlock, 1).at(-1)).toEqual([again.endLsn - 8, ValueKind.ZeroPage])
    expect(built.size()).toBe(3)
  })

  it('stores images as pages with the LSN of the record, and new pages as zeros', async () => {
    const page = Buffer.alloc(PAGE_SIZE)
    initPage(page)
    page.fill(7, 8000)
    const holed = Buffer.concat([page.subarray(0, 24), page.subarray(8000)])
    const image = {
      bytes: zstdCompressSync(holed),
      holeOffset: 24,
      holeLength: 8000 - 24,
      compression: BKPIMAGE_COMPRESS_ZSTD,
    }
    const zeros = { bytes: zstdCompressSync(Buffer.alloc(PAGE_SIZE)), compression: 16 }
    const fpi = built.record(RMGR.XLOG, XLOG_INFO.FPI, EMPTY, [
      heapBlock(0, { data: EMPTY, image }),
      heapBlock(1, { id: 1, data: EMPTY, image: zeros, sameRel: true }),
    ])
    await built.ingest()
    expect(built.kinds(KeyClass.RelBlock, 0)).toEqual([[fpi.endLsn, ValueKind.Image]])
    expect(built.kinds(KeyClass.RelBlock, 1)).toEqual([[fpi.endLsn, ValueKind.ZeroPage]])
    const stored = built.timeline.page(built.slot(KeyClass.RelBlock, SPC, DB, REL), 0) as Buffer
    expect(pageLsn(stored)).toBe(fpi.endLsn)
    expect(stored.subarray(8).equals(page.subarray(8))).toBe(true)
    expect(built.size()).toBe(2)
  })

  it('ignores images for checks only, and hints without an image', async () => {
    const image = { bytes: Buffer.alloc(PAGE_SIZE, 1), apply: false }
    const checked = built.record(RMGR.HEAP, HEAP_INFO.INSERT, Buffer.from([1, 0, 0]), [
      heapBlock(0, { image }),
    ])
    built.record(RMGR.XLOG, XLOG_INFO.FPI_FOR_HINT, EMPTY, [heapBlock(9, { data: EMPTY })])
    await built.ingest()
    expect(built.kinds(KeyClass.RelBlock, 0).at(-1)).toEqual([checked.endLsn, ValueKind.Record])
    expect(built.size()).toBe(1)
  })
})

describe('maps of relations that are gone', () => {
  it('are no forks of anything; those of others are kept', async () => {
    const image = { bytes: Buffer.alloc(PAGE_SIZE, 9) }
    const map = (rel: number, fork: number) =>
      built.record(RMGR.XLOG, XLOG_INFO.FPI, EMPTY, [
        heapBlock(2, { data: EMPTY, image, rel, fork }),
      ])
    built.record(RMGR.XLOG, XLOG_INFO.FPI, EMPTY, [heapBlock(0, { data: EMPTY, image })])
    map(REL, FSM_FORK)
    map(REL + 1, FSM_FORK)
    map(REL + 1, VM_FORK)
    await built.ingest()
    expect(built.size(FSM_FORK)).toBe(3)
    expect([built.size(FSM_FORK, REL + 1), built.size(VM_FORK, REL + 1)]).toEqual([
      undefined,
      undefined,
    ])
    expect(
      built.timeline.versions(built.slot(KeyClass.RelBlock, SPC, DB, REL + 1, FSM_FORK), 2),
    ).toEqual([])
  })
})

describe('the stream', () => {
  const steps = fc.array(fc.tuple(fc.nat(6), fc.nat(30), fc.boolean()), { maxLength: 80 })

  it('gives the same versions however it is cut, also over restarts', async () => {
    await fc.assert(
      fc.asyncProperty(
        steps,
        fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 5 }),
        async (plan, cuts) => {
          const build = () => {
            built = new BuiltIngest()
            for (const [block, xid, init] of plan)
              built.insert(block, { init, xid: FIRST_XID + xid })
          }
          build()
          await built.ingest()
          const whole = built.timeline
          build()
          const bytes = built.wal.bytes()
          let walIngest = await WalIngest.open(built.timeline)
          for (let turn = 0; walIngest.nextLsn < built.wal.lsn; turn += 1) {
            const at = walIngest.nextLsn - START_LSN
            await walIngest.ingest(
              bytes.subarray(at, at + (cuts[turn % cuts.length] as number)),
              walIngest.nextLsn,
            )
            if (turn % 4 === 3) {
              // A source may change in the middle of a record; a process may start anew.
              const before = walIngest.lastRecordLsn
              if (turn % 8 === 3) walIngest.restart()
              else walIngest = await WalIngest.open(built.timeline)
              expect(walIngest.nextLsn).toBe(before)
              if (turn > 300) break
            }
          }
          const done = built.timeline.lastRecordLsn
          for (let block = 0; block < 7; block += 1) {
            const key = [KeyClass.RelBlock, SPC, DB, REL, 0] as const
            expect(built.timeline.versions(built.timeline.slot(...key), block, done)).toEqual(
              whole.versions(whole.slot(...key), block, done),
            )
          }
        },
      ),
      { numRuns: 40 },
    )
  })

  it('publishes once for a slice, at a record end', async () => {
    for (let index = 0; index < 50; index += 1) built.insert(0, { init: index === 0 })
    const walIngest = await WalIngest.open(built.timeline)
    await walIngest.ingest(built.wal.bytes().subarray(0, 1000), START_LSN)
    expect(built.timeline.publishCount).toBe(1)
    expect(built.wal.records.map((r: BuiltRecord) => r.endLsn)).toContain(
      built.timeline.lastRecordLsn,
    )
    expect(walIngest.nextLsn).toBe(START_LSN + 1000)
  })

  it('names the last record for base backups', async () => {
    built.insert(0, { init: true })
    const last = built.insert(0)
    await built.ingest()
    const state = await checkpointAt(built.timeline, last.endLsn)
    expect(state.previousRecordLsn).toBe(last.startLsn)
  })

  it('refuses a custom resource manager by name, after what came before is readable', async () => {
    const good = built.insert(0, { init: true })
    built.wal.append(130, 0x10, 0, buildPayload({ main: Buffer.alloc(4) }))
    const failure = await built.ingest().catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(ZenithError)
    expect((failure as ZenithError).code).toBe('unsupported')
    expect((failure as ZenithError).message).toMatch(/custom130 at 0\/40000\w\w belongs to/)
    expect(built.timeline.lastRecordLsn).toBe(good.endLsn)
  })

  it('refuses a switch to another WAL built.timeline, as a promoted server makes it', async () => {
    const checkpoint = Buffer.alloc(88)
    writeCheckpoint(
      { ...exampleState.checkpoint, walTimeline: 2, previousWalTimeline: 1 },
      checkpoint,
    )
    const endOfRecovery = Buffer.concat([Buffer.alloc(8), words(2, 1, 1, 0)])
    for (const [info, main] of [
      [XLOG_INFO.CHECKPOINT_SHUTDOWN, checkpoint],
      [XLOG_INFO.END_OF_RECOVERY, endOfRecovery],
    ] as const) {
      built = new BuiltIngest()
      const good = built.insert(0, { init: true })
      built.record(RMGR.XLOG, info, main)
      await expect(built.ingest()).rejects.toThrow(
        /XLOG at 0\/40000\w\w switches to WAL timeline 2/,
      )
      expect(built.timeline.lastRecordLsn).toBe(good.endLsn)
    }
  })

  it('lets an end of recovery without such a switch pass', async () => {
    const last = built.record(
      RMGR.XLOG,
      XLOG_INFO.END_OF_RECOVERY,
      Buffer.concat([Buffer.alloc(8), words(1, 1, 2, 0)]),
    )
    await built.ingest()
    const { checkpoint } = await checkpointAt(built.timeline, last.endLsn)
    expect(checkpoint).toEqual({ ...exampleState.checkpoint, walLevel: 2 })
  })

  it('refuses records whose contents are cut, with a typed error', async () => {
    for (const [rmid, info] of [
      [RMGR.STORAGE, SMGR_INFO.TRUNCATE],
      [RMGR.MULTIXACT, MULTIXACT_INFO.CREATE_ID],
      [RMGR.XLOG, XLOG_INFO.CHECKPOINT_ONLINE],
      [RMGR.TRANSACTION, XACT_INFO.COMMIT | XACT_HAS_INFO],
      [RMGR.TRANSACTION, XACT_INFO.PREPARE],
      [RMGR.CLOG, SLRU_INFO.ZEROPAGE],
      [RMGR.RELMAP, 0],
      [RMGR.DATABASE, DATABASE_INFO.DROP],
    ] as const) {
      built = new BuiltIngest()
      built.record(rmid, info, words(1))
      const failure = await built.ingest().catch((error: unknown) => error)
      expect((failure as ZenithError).code, `${rmid}/${info}`).toBe('corrupt')
    }
  })

  it('takes any record with a good checksum or refuses it with a typed error', async () => {
    const blocks = fc.uniqueArray(
      fc.tuple(fc.nat(3), fc.constantFrom(0, 1, 3), fc.nat(20), fc.boolean()),
      {
        selector: ([id]) => id,
        maxLength: 3,
      },
    )
    const main = fc.oneof(
      fc.uint8Array({ maxLength: 120 }),
      fc.array(fc.integer({ min: 0, max: 12 }), { maxLength: 30 }).map((list) => words(...list)),
    )
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(21), fc.nat(15), main, blocks), { minLength: 1, maxLength: 6 }),
        async (plan) => {
          built = new BuiltIngest()
          for (const [rmid, info, bytes, list] of plan) {
            if (rmid === RMGR.XLOG && info === 4) continue
            const references = list
              .toSorted(([left], [right]) => left - right)
              .map(([id, fork, block, willInit]) =>
                heapBlock(block * 4 + id, { id, fork, willInit }),
              )
            built.record(rmid, info << 4, Buffer.from(bytes), references, rmid + 3)
          }
          const failure = await built.ingest().catch((error: unknown) => error)
          if (failure !== undefined) {
            expect(failure).toBeInstanceOf(ZenithError)
            expect((failure as ZenithError).code).not.toBe('internal')
          }
        },
      ),
      { numRuns: 1500 },
    )
  })

  it('refuses a timeline without a checkpoint', async () => {
    await expect(WalIngest.open(new MemoryTimeline(START_LSN))).rejects.toThrow(/no checkpoint/)
  })
})
