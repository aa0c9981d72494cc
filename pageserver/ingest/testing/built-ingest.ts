/**
 * WAL that a test builds record by record, and a timeline in memory that takes it in. The timeline
 * begins with a checkpoint, and a relation `REL` is at hand to write about.
 */
import {
  buildPayload,
  type BuiltBlock,
  type BuiltRecord,
  WalBuilder,
} from '../../../test_runner/fixtures/wal-builder.ts'
import { MemoryTimeline } from '../../../test_runner/fixtures/memory-timeline.ts'
import { HEAP_INFO, RMGR } from '#libs/wal/format.ts'
import { KeyClass, ValueKind } from '../../keyspace/key-class.ts'
import { encodeCheckpointState } from '../checkpoint-state.ts'
import { WalIngest } from '../wal-ingest.ts'
import { exampleState } from './example-state.ts'

export const START_LSN = 0x4000000 + 64
export const SPC = 1663
export const DB = 5
export const REL = 16384
/** The next transaction of the checkpoint that the timeline begins with. */
export const FIRST_XID = exampleState.checkpoint.nextXid % 2 ** 32

export class BuiltIngest {
  readonly timeline = new MemoryTimeline(START_LSN)
  readonly wal = new WalBuilder(START_LSN)

  constructor() {
    this.putBlob(KeyClass.Checkpoint, encodeCheckpointState(exampleState))
  }

  slot(cls: number, spc = 0, db = 0, rel = 0, fork = 0): number {
    return this.timeline.slot(cls, spc, db, rel, fork)
  }

  /** A value that is there before the first record. */
  putBlob(cls: number, value: Buffer, ...key: number[]): void {
    const [spc = 0, db = 0, rel = 0, fork = 0] = key
    const slot = this.slot(cls, spc, db, rel, fork)
    this.timeline.put(slot, 0, START_LSN, ValueKind.Image, value, 0, value.length)
  }

  record(
    rmid: number,
    info: number,
    main: Buffer,
    blocks: BuiltBlock[] = [],
    xid = 0,
  ): BuiltRecord {
    return this.wal.append(rmid, info, xid, buildPayload({ blocks, main }))
  }

  /** A row goes into a block of `REL`, which `init` makes anew. */
  insert(
    block: number,
    options: { init?: boolean; flags?: number; xid?: number } = {},
  ): BuiltRecord {
    const main = Buffer.from([1, 0, options.flags ?? 0])
    const willInit = options.init ?? false
    const info = HEAP_INFO.INSERT | (willInit ? 0x80 : 0)
    return this.record(RMGR.HEAP, info, main, [heapBlock(block, { willInit })], options.xid ?? 0)
  }

  /** Takes in what was built since the last time, in slices of these sizes by turns. */
  async ingest(cuts: number[] = [1 << 20]): Promise<void> {
    const walIngest = await WalIngest.open(this.timeline)
    const bytes = this.wal.bytes().subarray(this.timeline.lastRecordLsn - START_LSN)
    for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
      const step = cuts[turn % cuts.length] as number
      await walIngest.ingest(bytes.subarray(at, at + step), walIngest.nextLsn)
      at += step
    }
  }

  /** Versions of a block, of `REL` where no other relation is named, oldest first. */
  kinds(cls: number, block: number, ...key: number[]): [number, ValueKind][] {
    const [spc = SPC, db = DB, rel = REL, fork = 0] = key
    const slot = this.slot(cls, spc, db, rel, fork)
    return this.timeline.versions(slot, block).map((version) => [version.lsn, version.kind])
  }

  /** Size of a fork in blocks; undefined when it is not there. */
  size(fork = 0, rel = REL): number | undefined {
    return this.timeline.latestRelSize(this.slot(KeyClass.RelSize, SPC, DB, rel, fork))
  }
}

/** A block of `REL` that a record refers to. */
export function heapBlock(block: number, more: Partial<BuiltBlock> = {}): BuiltBlock {
  return { id: 0, spc: SPC, db: DB, rel: REL, block, data: Buffer.alloc(4, 1), ...more }
}
