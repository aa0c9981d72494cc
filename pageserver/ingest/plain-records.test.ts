import fc from 'fast-check'
import { expect, it } from 'vitest'
import type { ZenithError } from '#libs/errors.ts'
import { HEAP2_INFO, RMGR, VM_FORK } from '#libs/wal/format.ts'
import { MemoryTimeline } from '../../test_runner/fixtures/memory-timeline.ts'
import {
  type BuiltBlock,
  buildPayload,
  WalBuilder,
} from '../../test_runner/fixtures/wal-builder.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import { encodeCheckpointState } from './checkpoint-state.ts'
import { exampleState } from './testing/example-state.ts'
import { WalIngest } from './wal-ingest.ts'

const START = 0x4000000 + 64
const FIRST_XID = exampleState.checkpoint.nextXid % 2 ** 32
const BLOCKS = 4

function block(rel: number, number: number, more: Partial<BuiltBlock> = {}): BuiltBlock {
  return { id: 0, spc: 1663, db: 5, rel, block: number, data: Buffer.alloc(4, 1), ...more }
}

/** What ingest makes of the WAL, cut into pieces: versions by key, and why it ended. */
async function ingested(wal: WalBuilder, cut: number): Promise<[Map<string, unknown>, string]> {
  const timeline = new MemoryTimeline(START)
  const checkpoint = encodeCheckpointState(exampleState)
  const slot = timeline.slot(KeyClass.Checkpoint, 0, 0, 0, 0)
  timeline.put(slot, 0, START, ValueKind.Image, checkpoint, 0, checkpoint.length)
  const ingest = await WalIngest.open(timeline)
  const bytes = wal.bytes()
  let failure = ''
  try {
    for (let at = 0; at < bytes.length; at += cut) {
      await ingest.ingest(bytes.subarray(at, at + cut), ingest.nextLsn)
    }
  } catch (error) {
    failure = (error as ZenithError).code
  }
  const versions = new Map<string, unknown>()
  for (const [slot, { cls, rel, fork }] of timeline.slots.entries()) {
    // The checkpoint's state is written for each batch.
    if (cls === KeyClass.Checkpoint) continue
    for (const blk of timeline.blocks(slot)) {
      const key = [cls, rel, fork, blk].join('/')
      versions.set(key, timeline.versions(slot, blk))
    }
  }
  return [versions, failure]
}

it('plain records become what they become when they are taken apart', async () => {
  const records = fc.record({
    rmid: fc.constantFrom(RMGR.HEAP, RMGR.HEAP, RMGR.HEAP2, RMGR.BTREE, RMGR.GIN, RMGR.SEQUENCE),
    info: fc.nat(15),
    // Flags of shorter ones would be read from whatever lies behind.
    main: fc.oneof(
      fc.uint8Array({ minLength: 8, maxLength: 20 }).map((bytes) => bytes.map((byte) => byte & 3)),
      fc.uint8Array({ minLength: 8, maxLength: 9 }),
      fc.uint8Array({ minLength: 250, maxLength: 260 }),
    ),
    rel: fc.constantFrom(16384, 16384 + 64, 16384 + 65),
    block: fc.nat(BLOCKS + 1),
    more: fc.record({
      fork: fc.constantFrom(0, 0, 0, 0, VM_FORK),
      willInit: fc.constantFrom(false, false, false, true),
      data: fc.uint8Array({ maxLength: 9 }).map((bytes) => Buffer.from(bytes)),
    }),
    xid: fc.nat(3),
    withOther: fc.constantFrom(false, false, false, true),
  })
  let plain = 0
  await fc.assert(
    fc.asyncProperty(fc.array(records, { maxLength: 12 }), async (plan) => {
      const wal = new WalBuilder(START)
      const append = (
        rmid: number,
        info: number,
        main: Uint8Array,
        blocks: BuiltBlock[],
        xid = 0,
      ) => wal.append(rmid, info, xid, buildPayload({ blocks, main: Buffer.from(main) }))
      for (let number = 0; number < BLOCKS; number += 1) {
        append(RMGR.BTREE, 0, new Uint8Array(3), [block(16384, number, { willInit: true })])
        append(RMGR.HEAP2, HEAP2_INFO.VISIBLE, Uint8Array.of(0, 0, 0, 0, 3), [
          block(16384, 0, { fork: VM_FORK, data: Buffer.alloc(0) }),
          block(16384, number, { id: 1, data: Buffer.alloc(0) }),
        ])
      }
      for (const { rmid, info, main, rel, block: number, more, xid, withOther } of plan) {
        const other = withOther ? [block(rel, (number + 1) % BLOCKS, { id: 1 })] : []
        append(rmid, info << 4, main, [block(rel, number, more), ...other], FIRST_XID + xid)
        if (more.fork === 0 && rel === 16384 && number < BLOCKS) plain += 1
      }
      append(RMGR.BTREE, 0, new Uint8Array(3), [block(16384, 0)])
      const [versions, failure] = await ingested(wal, 1 << 20)
      // No record lies whole in such a piece, and those put together are all taken apart.
      const [expected, expectedFailure] = await ingested(wal, 23)
      expect(failure).toBe(expectedFailure)
      expect(versions).toEqual(expected)
    }),
    { numRuns: 200 },
  )
  expect(plain).toBeGreaterThan(100)
})
