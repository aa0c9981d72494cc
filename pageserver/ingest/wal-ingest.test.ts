import { zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { beforeEach, describe, expect, it } from 'vitest'
import { ZenithError } from '#libs/errors.ts'
import { HEAP_BLOCKS_PER_VM_PAGE, initPage, PAGE_SIZE, pageLsn } from '#libs/pg/page.ts'
import { writeCheckpoint } from '#libs/pg/checkpoint.ts'
import { memberXidOffset, SLRU } from '#libs/pg/slru.ts'
import {
  BKPIMAGE_COMPRESS_ZSTD,
  DATABASE_INFO,
  HEAP2_INFO,
  FSM_FORK,
  HEAP_INFO,
  MULTIXACT_INFO,
  RMGR,
  SLRU_INFO,
  SMGR_INFO,
  TABLESPACE_INFO,
  VM_FORK,
  XACT_HAS_INFO,
  XACT_INFO,
  XLOG_INFO,
} from '#libs/wal/format.ts'
import { MemoryTimeline } from '../../test_runner/fixtures/memory-timeline.ts'
import {
  type BuiltBlock,
  type BuiltRecord,
  buildPayload,
  WalBuilder,
} from '../../test_runner/fixtures/wal-builder.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import { checkpointAt, encodeCheckpointState } from './checkpoint-state.ts'
import { exampleState } from './testing/example-state.ts'
import { WalIngest } from './wal-ingest.ts'

const START = 0x4000000 + 64
const SPC = 1663
const DB = 5
const REL = 16384
const EMPTY = Buffer.alloc(0)
const FIRST_XID = exampleState.checkpoint.nextXid % 2 ** 32

let timeline: MemoryTimeline
let wal: WalBuilder

function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4)
  values.forEach((value, index) => bytes.writeUInt32LE(value >>> 0, index * 4))
  return bytes
}

function slot(cls: number, spc = 0, db = 0, rel = 0, fork = 0): number {
  return timeline.slot(cls, spc, db, rel, fork)
}

function putBlob(cls: number, value: Buffer, ...key: number[]): void {
  const [spc = 0, db = 0, rel = 0, fork = 0] = key
  timeline.put(slot(cls, spc, db, rel, fork), 0, START, ValueKind.Image, value, 0, value.length)
}

beforeEach(() => {
  timeline = new MemoryTimeline(START)
  wal = new WalBuilder(START)
  putBlob(KeyClass.Checkpoint, encodeCheckpointState(exampleState))
})

function record(rmid: number, info: number, main: Buffer, blocks: BuiltBlock[] = [], xid = 0) {
  return wal.append(rmid, info, xid, buildPayload({ blocks, main }))
}

function heapBlock(block: number, more: Partial<BuiltBlock> = {}): BuiltBlock {
  return { id: 0, spc: SPC, db: DB, rel: REL, block, data: Buffer.alloc(4, 1), ...more }
}

function insert(block: number, options: { init?: boolean; flags?: number; xid?: number } = {}) {
  const main = Buffer.from([1, 0, options.flags ?? 0])
  const init = options.init ?? false
  return record(
    RMGR.HEAP,
    HEAP_INFO.INSERT | (init ? 0x80 : 0),
    main,
    [heapBlock(block, { willInit: init })],
    options.xid ?? 0,
  )
}

async function ingest(cuts: number[] = [1 << 20]): Promise<void> {
  const walIngest = await WalIngest.open(timeline)
  const bytes = wal.bytes().subarray(timeline.lastRecordLsn - START)
  for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
    const step = cuts[turn % cuts.length] as number
    await walIngest.ingest(bytes.subarray(at, at + step), walIngest.nextLsn)
    at += step
  }
}

function kinds(cls: number, block: number, ...key: number[]): [number, ValueKind][] {
  const [spc = SPC, db = DB, rel = REL, fork = 0] = key
  return timeline.versions(slot(cls, spc, db, rel, fork), block).map((v) => [v.lsn, v.kind])
}

function size(fork = 0, rel = REL): number | undefined {
  return timeline.latestRelSize(slot(KeyClass.RelSize, SPC, DB, rel, fork))
}

describe('blocks', () => {
  it('stores records at their end, with the initialising ones marked', async () => {
    const first = insert(0, { init: true })
    const second = insert(0)
    await ingest()
    expect(kinds(KeyClass.RelBlock, 0)).toEqual([
      [first.endLsn, ValueKind.RecordInit],
      [second.endLsn, ValueKind.Record],
    ])
    const [, version] = timeline.versions(slot(KeyClass.RelBlock, SPC, DB, REL), 0)
    expect(version?.bytes.equals(second.bytes)).toBe(true)
    expect(size()).toBe(1)
  })

  it('puts zero pages under skipped blocks and under a new block whose record needs a page', async () => {
    const { endLsn } = insert(3)
    await ingest()
    for (const block of [0, 1, 2]) {
      expect(kinds(KeyClass.RelBlock, block)).toEqual([[endLsn - 8, ValueKind.ZeroPage]])
    }
    expect(kinds(KeyClass.RelBlock, 3)).toEqual([
      [endLsn - 8, ValueKind.ZeroPage],
      [endLsn, ValueKind.Record],
    ])
    expect(size()).toBe(4)
  })

  it('lets nothing of before a truncation show through', async () => {
    insert(0, { init: true })
    insert(1, { init: true })
    insert(2, { init: true })
    record(RMGR.STORAGE, SMGR_INFO.TRUNCATE, words(1, SPC, DB, REL, 7))
    const again = insert(2, { init: true })
    await ingest()
    expect(kinds(KeyClass.RelBlock, 1).at(-1)).toEqual([again.endLsn - 8, ValueKind.ZeroPage])
    expect(size()).toBe(3)
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
    const fpi = record(RMGR.XLOG, XLOG_INFO.FPI, EMPTY, [
      heapBlock(0, { data: EMPTY, image }),
      heapBlock(1, { id: 1, data: EMPTY, image: zeros, sameRel: true }),
    ])
    await ingest()
    expect(kinds(KeyClass.RelBlock, 0)).toEqual([[fpi.endLsn, ValueKind.Image]])
    expect(kinds(KeyClass.RelBlock, 1)).toEqual([[fpi.endLsn, ValueKind.ZeroPage]])
    const stored = timeline.page(slot(KeyClass.RelBlock, SPC, DB, REL), 0) as Buffer
    expect(pageLsn(stored)).toBe(fpi.endLsn)
    expect(stored.subarray(8).equals(page.subarray(8))).toBe(true)
    expect(size()).toBe(2)
  })

  it('ignores images for checks only, and hints without an image', async () => {
    const image = { bytes: Buffer.alloc(PAGE_SIZE, 1), apply: false }
    const checked = record(RMGR.HEAP, HEAP_INFO.INSERT, Buffer.from([1, 0, 0]), [
      heapBlock(0, { image }),
    ])
    record(RMGR.XLOG, XLOG_INFO.FPI_FOR_HINT, EMPTY, [heapBlock(9, { data: EMPTY })])
    await ingest()
    expect(kinds(KeyClass.RelBlock, 0).at(-1)).toEqual([checked.endLsn, ValueKind.Record])
    expect(size()).toBe(1)
  })
})

describe('maps of relations that are gone', () => {
  it('are no forks of anything; those of others are kept', async () => {
    const image = { bytes: Buffer.alloc(PAGE_SIZE, 9) }
    const map = (rel: number, fork: number) =>
      record(RMGR.XLOG, XLOG_INFO.FPI, EMPTY, [heapBlock(2, { data: EMPTY, image, rel, fork })])
    record(RMGR.XLOG, XLOG_INFO.FPI, EMPTY, [heapBlock(0, { data: EMPTY, image })])
    map(REL, FSM_FORK)
    map(REL + 1, FSM_FORK)
    map(REL + 1, VM_FORK)
    await ingest()
    expect(size(FSM_FORK)).toBe(3)
    expect([size(FSM_FORK, REL + 1), size(VM_FORK, REL + 1)]).toEqual([undefined, undefined])
    expect(timeline.versions(slot(KeyClass.RelBlock, SPC, DB, REL + 1, FSM_FORK), 2)).toEqual([])
  })
})

describe('visibility map', () => {
  const visible = (heap: number, bits = 3) => {
    const map = Math.floor(heap / HEAP_BLOCKS_PER_VM_PAGE)
    return record(RMGR.HEAP2, HEAP2_INFO.VISIBLE, Buffer.from([0, 0, 0, 0, bits]), [
      heapBlock(map, { id: 0, fork: VM_FORK, data: EMPTY }),
      heapBlock(heap, { id: 1, data: EMPTY }),
    ])
  }
  const update = (flags: number, newBlock: number, oldBlock: number, more: BuiltBlock[] = []) => {
    const main = Buffer.alloc(14)
    main[7] = flags
    const old = oldBlock === newBlock ? [] : [heapBlock(oldBlock, { id: 1, data: EMPTY })]
    return record(RMGR.HEAP, HEAP_INFO.UPDATE, main, [heapBlock(newBlock), ...old, ...more])
  }
  const bits = (heap: number) => {
    const map = Math.floor(heap / HEAP_BLOCKS_PER_VM_PAGE)
    const page = timeline.page(slot(KeyClass.RelBlock, SPC, DB, REL, VM_FORK), map) as Buffer
    const within = heap % HEAP_BLOCKS_PER_VM_PAGE
    return ((page[24 + (within >> 2)] as number) >> ((within & 3) * 2)) & 3
  }

  it('is changed by operations, never by records', async () => {
    visible(4)
    insert(4, { flags: 1 })
    visible(5)
    await ingest()
    expect(bits(4)).toBe(0)
    expect(bits(5)).toBe(3)
    expect(kinds(KeyClass.RelBlock, 0, SPC, DB, REL, VM_FORK).map(([, kind]) => kind)).toEqual([
      ValueKind.ZeroPage,
      ValueKind.NativeOp,
      ValueKind.NativeOp,
      ValueKind.NativeOp,
    ])
  })

  it('is left alone when there is no map page for the block', async () => {
    insert(2, { flags: 1 })
    visible(1)
    insert(HEAP_BLOCKS_PER_VM_PAGE + 1, { init: true, flags: 1 })
    await ingest()
    expect(size(VM_FORK)).toBe(1)
  })

  it('clears both pages of an update in one operation', async () => {
    for (const heap of [1, 2, 3]) visible(heap)
    update(3, 1, 2)
    await ingest()
    expect([bits(1), bits(2), bits(3)]).toEqual([0, 0, 3])
  })

  it('follows registered map pages, as newer minor versions log them', async () => {
    const far = HEAP_BLOCKS_PER_VM_PAGE + 7
    for (const heap of [1, 2, 3, far]) visible(heap)
    const map = (block: number, id: number) => heapBlock(block, { id, fork: VM_FORK, data: EMPTY })
    update(3, 1, 2, [map(0, 2)])
    update(3, 3, far, [map(0, 2), map(1, 3)])
    await ingest()
    expect([bits(1), bits(2), bits(3), bits(far)]).toEqual([0, 0, 0, 0])
  })

  it('only loses its frozen bit to a lock', async () => {
    visible(6)
    const main = Buffer.alloc(8)
    main[7] = 1
    record(RMGR.HEAP, HEAP_INFO.LOCK, main, [heapBlock(6, { data: EMPTY })])
    await ingest()
    expect(bits(6)).toBe(1)
  })

  it('loses the bits of truncated blocks inside its last page', async () => {
    for (const heap of [1, 9, 10, HEAP_BLOCKS_PER_VM_PAGE + 1]) visible(heap)
    record(RMGR.STORAGE, SMGR_INFO.TRUNCATE, words(10, SPC, DB, REL, 7))
    await ingest()
    expect([bits(1), bits(9), bits(10)]).toEqual([3, 3, 0])
    expect([size(), size(VM_FORK)]).toEqual([10, 1])
  })
})

describe('transactions', () => {
  const status = (xid: number) => {
    const page = timeline.page(slot(KeyClass.SlruBlock, SLRU.xact, 0, 0), 0) as Buffer
    return ((page[xid >> 2] as number) >> ((xid & 3) * 2)) & 3
  }

  it('sets status of the transaction and its subtransactions, drops relations', async () => {
    insert(0, { init: true, xid: FIRST_XID })
    insert(0, { xid: FIRST_XID + 1 })
    const time = Buffer.alloc(8)
    const xinfo = 2 | 4
    const main = Buffer.concat([
      time,
      words(xinfo, 2, FIRST_XID + 1, FIRST_XID + 2, 1, SPC, DB, REL),
    ])
    record(RMGR.TRANSACTION, XACT_INFO.COMMIT | XACT_HAS_INFO, main, [], FIRST_XID)
    record(RMGR.TRANSACTION, XACT_INFO.ABORT, time, [], FIRST_XID + 3)
    record(RMGR.TRANSACTION, XACT_INFO.COMMIT, time, [], FIRST_XID + 4)
    await ingest()
    expect([0, 1, 2, 3, 4].map((n) => status(FIRST_XID + n))).toEqual([1, 1, 1, 2, 1])
    expect(size()).toBeUndefined()
    const { checkpoint } = await checkpointAt(timeline, timeline.lastRecordLsn)
    expect(checkpoint.nextXid).toBe(exampleState.checkpoint.nextXid + 5)
  })

  it('has nextXid above every transaction at every record end, with few writes', async () => {
    const ends: [number, number][] = []
    for (let index = 0; index < 200; index += 1) {
      const { endLsn } = insert(0, { init: index === 0, xid: FIRST_XID + index })
      ends.push([endLsn, exampleState.checkpoint.nextXid + index + 1])
    }
    await ingest([1000])
    for (const [lsn, least] of ends) {
      const { checkpoint } = await checkpointAt(timeline, lsn)
      expect(checkpoint.nextXid).toBeGreaterThanOrEqual(least)
      expect(checkpoint.nextXid).toBeLessThan(least + 40)
    }
    expect(timeline.versions(slot(KeyClass.Checkpoint), 0).length).toBeLessThan(50)
  })

  it('never lets nextXid point into a status page that does not exist yet', async () => {
    const page = Math.ceil(FIRST_XID / 32768)
    const boundary = page * 32768
    const before = insert(0, { init: true, xid: boundary - 1 })
    record(RMGR.CLOG, SLRU_INFO.ZEROPAGE, words(page, 0))
    insert(0, { xid: boundary + 5 })
    await ingest()
    const { checkpoint } = await checkpointAt(timeline, before.endLsn)
    expect(checkpoint.nextXid % 2 ** 32).toBe(boundary)
  })

  it('keeps the state file of a prepared transaction until it ends', async () => {
    const body = Buffer.alloc(80, 0)
    body.writeUInt32LE(FIRST_XID, 8)
    record(RMGR.TRANSACTION, XACT_INFO.PREPARE, body, [], FIRST_XID)
    const low = FIRST_XID
    await ingest()
    const twoPhase = slot(KeyClass.TwoPhase, 0, 5, low)
    expect(await timeline.readBlob(twoPhase, 0, timeline.lastRecordLsn)).toEqual(body)
    const main = Buffer.concat([Buffer.alloc(8), words(16, FIRST_XID)])
    record(RMGR.TRANSACTION, XACT_INFO.COMMIT_PREPARED | XACT_HAS_INFO, main)
    await ingest()
    expect(await timeline.readBlob(twoPhase, 0, timeline.lastRecordLsn)).toBeNull()
    expect(status(FIRST_XID)).toBe(1)
  })
})

describe('multixacts', () => {
  const OFFSETS_PER_PAGE = 2048
  const create = (id: number, offset: number, xids: number[]) =>
    record(
      RMGR.MULTIXACT,
      MULTIXACT_INFO.CREATE_ID,
      words(id, offset, xids.length, ...xids.flatMap((xid) => [xid, 1])),
    )
  const zero = (page: number) =>
    record(RMGR.MULTIXACT, MULTIXACT_INFO.ZERO_OFF_PAGE, words(page, 0))
  const offset = (id: number) => {
    const page = timeline.page(
      slot(KeyClass.SlruBlock, SLRU.multixactOffsets, 0, 0),
      Math.floor(id / OFFSETS_PER_PAGE),
    ) as Buffer
    return page.readUInt32LE((id % OFFSETS_PER_PAGE) * 4)
  }

  for (const order of ['zeroed before, as newer', 'zeroed after, as older']) {
    it(`keeps the end of the last one on a page (next page ${order} versions log it)`, async () => {
      const last = OFFSETS_PER_PAGE - 1
      zero(0)
      create(last - 1, 100, [700, 701])
      if (order.startsWith('zeroed before')) zero(1)
      create(last, 102, [700, 702, 703])
      await ingest()
      if (order.startsWith('zeroed after')) zero(1)
      create(last + 1, 105, [704, 705])
      await ingest()
      expect([last - 1, last, last + 1, last + 2].map(offset)).toEqual([100, 102, 105, 107])
      const { checkpoint } = await checkpointAt(timeline, timeline.lastRecordLsn)
      expect([checkpoint.nextMulti, checkpoint.nextMultiOffset]).toEqual([last + 2, 107])
    })
  }

  it('spreads members over pages, also where offsets wrap', async () => {
    const firstOffset = 2 ** 32 - 3
    create(7, firstOffset, [800, 801, 802, 803, 804])
    await ingest()
    const member = (at: number) => {
      const page = Math.floor(at / 1636)
      const segment = slot(KeyClass.SlruBlock, SLRU.multixactMembers, 0, Math.floor(page / 32))
      return timeline.page(segment, page % 32)?.readUInt32LE(memberXidOffset(at))
    }
    expect([0, 1, 2, 3, 4].map((n) => member((firstOffset + n) % 2 ** 32))).toEqual([
      800, 801, 802, 803, 804,
    ])
    expect(offset(8)).toBe(2)
  })
})

describe('databases', () => {
  it('copies relations, map and sizes, and drops them', async () => {
    const map = Buffer.alloc(524, 3)
    putBlob(KeyClass.RelMap, map, SPC, DB)
    const image = { bytes: Buffer.alloc(PAGE_SIZE, 9) }
    record(RMGR.XLOG, XLOG_INFO.FPI, EMPTY, [heapBlock(0, { data: EMPTY, image })])
    record(RMGR.DATABASE, DATABASE_INFO.CREATE_FILE_COPY, words(77, SPC, DB, SPC))
    await ingest()
    const copy = slot(KeyClass.RelBlock, SPC, 77, REL)
    expect(
      timeline
        .page(copy, 0)
        ?.subarray(8)
        .every((byte) => byte === 9),
    ).toBe(true)
    expect(await timeline.blob(KeyClass.RelMap, SPC, 77)).toEqual(map)
    expect(await timeline.blob(KeyClass.DbDir)).toEqual(words(SPC, 77))
    record(RMGR.DATABASE, DATABASE_INFO.DROP, words(77, 1, SPC))
    await ingest()
    expect(await timeline.blob(KeyClass.RelMap, SPC, 77)).toBeNull()
    expect(await timeline.blob(KeyClass.RelSize, SPC, 77, REL)).toBeNull()
    expect(await timeline.blob(KeyClass.DbDir)).toEqual(EMPTY)
  })
})

describe('tablespaces', () => {
  it('are noted with their location, and forgotten', async () => {
    const location = Buffer.from('/srv/fast\0')
    record(RMGR.TABLESPACE, TABLESPACE_INFO.CREATE, Buffer.concat([words(16400), location]))
    record(RMGR.TABLESPACE, TABLESPACE_INFO.CREATE, Buffer.concat([words(16401), Buffer.alloc(1)]))
    await ingest()
    expect(await timeline.blob(KeyClass.Tablespace, 16400)).toEqual(location)
    expect(await timeline.blob(KeyClass.Tablespace, 16401)).toEqual(Buffer.alloc(1))
    record(RMGR.TABLESPACE, TABLESPACE_INFO.DROP, words(16400))
    await ingest()
    expect(await timeline.blob(KeyClass.Tablespace, 16400)).toBeNull()
    expect(await timeline.blob(KeyClass.Tablespace, 16401)).not.toBeNull()
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
            timeline = new MemoryTimeline(START)
            wal = new WalBuilder(START)
            putBlob(KeyClass.Checkpoint, encodeCheckpointState(exampleState))
            for (const [block, xid, init] of plan) insert(block, { init, xid: FIRST_XID + xid })
          }
          build()
          await ingest()
          const whole = timeline
          build()
          const bytes = wal.bytes()
          let walIngest = await WalIngest.open(timeline)
          for (let turn = 0; walIngest.nextLsn < wal.lsn; turn += 1) {
            const at = walIngest.nextLsn - START
            await walIngest.ingest(
              bytes.subarray(at, at + (cuts[turn % cuts.length] as number)),
              walIngest.nextLsn,
            )
            if (turn % 4 === 3) {
              // A source may change in the middle of a record; a process may start anew.
              const before = walIngest.lastRecordLsn
              if (turn % 8 === 3) walIngest.restart()
              else walIngest = await WalIngest.open(timeline)
              expect(walIngest.nextLsn).toBe(before)
              if (turn > 300) break
            }
          }
          const done = timeline.lastRecordLsn
          for (let block = 0; block < 7; block += 1) {
            const key = [KeyClass.RelBlock, SPC, DB, REL, 0] as const
            expect(timeline.versions(timeline.slot(...key), block, done)).toEqual(
              whole.versions(whole.slot(...key), block, done),
            )
          }
        },
      ),
      { numRuns: 40 },
    )
  })

  it('publishes once for a slice, at a record end', async () => {
    for (let index = 0; index < 50; index += 1) insert(0, { init: index === 0 })
    const walIngest = await WalIngest.open(timeline)
    await walIngest.ingest(wal.bytes().subarray(0, 1000), START)
    expect(timeline.publishCount).toBe(1)
    expect(wal.records.map((r: BuiltRecord) => r.endLsn)).toContain(timeline.lastRecordLsn)
    expect(walIngest.nextLsn).toBe(START + 1000)
  })

  it('names the last record for base backups', async () => {
    insert(0, { init: true })
    const last = insert(0)
    await ingest()
    const state = await checkpointAt(timeline, last.endLsn)
    expect(state.previousRecordLsn).toBe(last.startLsn)
  })

  it('refuses a custom resource manager by name, after what came before is readable', async () => {
    const good = insert(0, { init: true })
    wal.append(130, 0x10, 0, buildPayload({ main: Buffer.alloc(4) }))
    const failure = await ingest().catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(ZenithError)
    expect((failure as ZenithError).code).toBe('unsupported')
    expect((failure as ZenithError).message).toMatch(/custom130 at 0\/40000\w\w belongs to/)
    expect(timeline.lastRecordLsn).toBe(good.endLsn)
  })

  it('refuses a switch to another WAL timeline, as a promoted server makes it', async () => {
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
      timeline = new MemoryTimeline(START)
      wal = new WalBuilder(START)
      putBlob(KeyClass.Checkpoint, encodeCheckpointState(exampleState))
      const good = insert(0, { init: true })
      record(RMGR.XLOG, info, main)
      await expect(ingest()).rejects.toThrow(/XLOG at 0\/40000\w\w switches to WAL timeline 2/)
      expect(timeline.lastRecordLsn).toBe(good.endLsn)
    }
  })

  it('lets an end of recovery without such a switch pass', async () => {
    const last = record(
      RMGR.XLOG,
      XLOG_INFO.END_OF_RECOVERY,
      Buffer.concat([Buffer.alloc(8), words(1, 1, 2, 0)]),
    )
    await ingest()
    const { checkpoint } = await checkpointAt(timeline, last.endLsn)
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
      timeline = new MemoryTimeline(START)
      wal = new WalBuilder(START)
      putBlob(KeyClass.Checkpoint, encodeCheckpointState(exampleState))
      record(rmid, info, words(1))
      const failure = await ingest().catch((error: unknown) => error)
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
          timeline = new MemoryTimeline(START)
          wal = new WalBuilder(START)
          putBlob(KeyClass.Checkpoint, encodeCheckpointState(exampleState))
          for (const [rmid, info, bytes, list] of plan) {
            if (rmid === RMGR.XLOG && info === 4) continue
            const built = list
              .toSorted(([left], [right]) => left - right)
              .map(([id, fork, block, willInit]) =>
                heapBlock(block * 4 + id, { id, fork, willInit }),
              )
            record(rmid, info << 4, Buffer.from(bytes), built, rmid + 3)
          }
          const failure = await ingest().catch((error: unknown) => error)
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
    await expect(WalIngest.open(new MemoryTimeline(START))).rejects.toThrow(/no checkpoint/)
  })
})
