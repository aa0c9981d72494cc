import { describe, expect, it } from 'vitest'
import type { Lsn } from '#libs/lsn.ts'
import { type ShardIdentity, shardOfBlock } from '#libs/sharding.ts'
import {
  DATABASE_INFO,
  HEAP2_INFO,
  HEAP_INFO,
  INIT_FORK,
  RMGR,
  SLRU_INFO,
  VM_FORK,
} from '#libs/wal/format.ts'
import { MemoryTimeline } from '../../test_runner/fixtures/memory-timeline.ts'
import {
  type BuiltBlock,
  buildPayload,
  WalBuilder,
  words,
} from '../../test_runner/fixtures/wal-builder.ts'
import { RANDOM_WAL_RELATION, RandomWal } from '../../test_runner/oracle/random-wal.ts'
import { Prng } from '../../test_runner/sim/prng.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import { encodeCheckpointState } from './checkpoint-state.ts'
import { ShardFilter } from './shard-filter.ts'
import { exampleState } from './testing/example-state.ts'
import { WalIngest } from './wal-ingest.ts'

const START = 0x4000000 + 64
const { spc: SPC, db: DB, firstRel: REL } = RANDOM_WAL_RELATION
const COPY_DB = 77
const COUNT = 4
const STRIPE = 4
const XID = exampleState.checkpoint.nextXid % 2 ** 32

function timelineOf(shard: ShardIdentity | null): MemoryTimeline {
  const timeline = new MemoryTimeline(START, shard)
  const value = encodeCheckpointState(exampleState)
  const slot = timeline.slot(KeyClass.Checkpoint, 0, 0, 0, 0)
  timeline.put(slot, 0, START, ValueKind.Image, value, 0, value.length)
  return timeline
}

function block(rel: number, at: number, more: Partial<BuiltBlock> = {}): BuiltBlock {
  return { id: 0, spc: SPC, db: DB, rel, block: at, data: Buffer.alloc(4, 1), ...more }
}

/** Changes of heap pages with what they imply for maps, init forks, and copies of a database. */
class PageWal {
  readonly #wal: WalBuilder
  readonly #random: Prng

  constructor(wal: WalBuilder, random: Prng) {
    this.#wal = wal
    this.#random = random
  }

  append(count: number): void {
    for (let index = 0; index < count; index++) {
      const rel = REL + this.#random.int(0, 2)
      const at = this.#random.int(0, 39)
      switch (this.#random.int(0, 5)) {
        case 0:
          this.#put(RMGR.HEAP, HEAP_INFO.INSERT | 0x80, Buffer.from([1, 0, 1]), [
            block(rel, at, { willInit: true }),
          ])
          break
        case 1:
          this.#put(RMGR.HEAP, HEAP_INFO.INSERT, Buffer.from([1, 0, 1]), [block(rel, at)])
          break
        case 2:
          this.#put(RMGR.HEAP2, HEAP2_INFO.VISIBLE, Buffer.from([0, 0, 0, 0, 3]), [
            block(rel, 0, { fork: VM_FORK }),
            block(rel, at, { id: 1 }),
          ])
          break
        case 3:
          this.#put(RMGR.HEAP, HEAP_INFO.INSERT | 0x80, Buffer.from([1, 0, 0]), [
            block(rel, this.#random.int(0, 9), { fork: INIT_FORK, willInit: true }),
          ])
          break
        case 4:
          this.#put(RMGR.CLOG, SLRU_INFO.TRUNCATE, Buffer.concat([words(0, 0), words(XID, 1)]))
          break
        default:
          if (this.#random.int(0, 9) > 0) break
          this.#put(RMGR.DATABASE, DATABASE_INFO.CREATE_FILE_COPY, words(COPY_DB, SPC, DB, SPC))
      }
    }
  }

  #put(rmid: number, info: number, main: Buffer, blocks: BuiltBlock[] = []): void {
    this.#wal.append(rmid, info, 0, buildPayload({ main, blocks }))
  }
}

function randomWal(seed: number): Buffer {
  const wal = new WalBuilder(START)
  const random = new Prng(seed)
  const start = { nextXid: XID, nextMulti: 1, nextMultiOffset: 1 }
  const rare = new RandomWal(wal, random, start, { lateOffsetsPages: seed % 2 === 0 })
  const pages = new PageWal(wal, random)
  for (let round = 0; round < 12; round++) {
    rare.append(30)
    pages.append(30)
  }
  return wal.bytes()
}

/** In slices; after some of them all that is not stored is lost, as by a restart. */
async function ingest(timeline: MemoryTimeline, bytes: Buffer, random: Prng): Promise<void> {
  let walIngest = await WalIngest.open(timeline)
  while (walIngest.nextLsn - START < bytes.length) {
    const from = walIngest.nextLsn - START
    const piece = bytes.subarray(from, from + random.int(1, 4_000_000))
    await walIngest.ingest(piece, walIngest.nextLsn)
    if (random.int(0, 3) === 0) walIngest = await WalIngest.open(timeline)
  }
}

type Stored = [lsn: Lsn, kind: number, bytes: string][]

function stored(timeline: MemoryTimeline, key: Key, blk: number): Stored {
  const { cls, spc, db, rel, fork } = key
  return timeline
    .versions(timeline.slot(cls, spc, db, rel, fork), blk)
    .map(({ lsn, kind, bytes }) => [lsn, kind, bytes.toString('base64')])
}

type Key = MemoryTimeline['slots'][number]

describe('four shards that take in the same WAL', () => {
  it.each([1, 2])('have together what one server has, each key once: %i', async (seed) => {
    const bytes = randomWal(seed)
    const whole = timelineOf(null)
    await ingest(whole, bytes, new Prng(seed))
    const shards: MemoryTimeline[] = []
    for (let number = 0; number < COUNT; number++) {
      const shard = timelineOf({ number, count: COUNT, stripeBlocks: STRIPE })
      await ingest(shard, bytes, new Prng(seed + number))
      expect(shard.lastRecordLsn).toBe(whole.lastRecordLsn)
      shards.push(shard)
    }
    const seen = new Set<string>()
    for (const [slot, key] of whole.slots.entries()) {
      for (const blk of whole.blocks(slot)) {
        // Of what is written for each slice there are as many versions as slices.
        if (key.cls === KeyClass.Checkpoint) continue
        const expected = stored(whole, key, blk)
        const owners = ownersOf(key, blk)
        seen.add(`${key.cls}.${key.cls === KeyClass.RelBlock ? key.fork : 0} ${owners.length}`)
        for (const [number, shard] of shards.entries()) {
          const own = owners.includes(number) ? expected : []
          expect(stored(shard, key, blk), `${JSON.stringify(key)} ${blk}`).toEqual(own)
        }
      }
    }
    for (const cls of [KeyClass.RelSize, KeyClass.SlruBlock, KeyClass.DbDir]) {
      expect([...seen].some((one) => one.startsWith(`${cls}.`))).toBe(true)
    }
    for (const fork of [0, VM_FORK, INIT_FORK]) {
      expect(seen).toContain(`${KeyClass.RelBlock}.${fork} 1`)
    }
    for (const shard of shards) {
      const blocks = shard.slots.flatMap(({ cls }, slot) =>
        cls === KeyClass.RelBlock ? shard.blocks(slot) : [],
      )
      expect(blocks.length).toBeGreaterThan(20)
    }
  })
})

function ownersOf(key: Key, blk: number): number[] {
  if (key.cls === KeyClass.RelSize) return [0, 1, 2, 3]
  if (key.cls !== KeyClass.RelBlock || key.fork === INIT_FORK) return [0]
  return [shardOfBlock(key.rel, blk, { count: COUNT, stripeBlocks: STRIPE })]
}

describe('the filter of a shard', () => {
  it('says where runs of blocks end that it treats alike', () => {
    type Prefix = { cls: number; rel: number; fork: number }
    const table: Prefix[] = [{ cls: KeyClass.RelBlock, rel: 16384, fork: 0 }]
    const of = (slot: number) => table[slot] as Prefix
    const prefixes = {
      cls: (slot: number) => of(slot).cls,
      rel: (slot: number) => of(slot).rel,
      fork: (slot: number) => of(slot).fork,
    }
    const filter = new ShardFilter({ number: 2, count: 4, stripeBlocks: 8 }, prefixes)
    for (let blk = 0; blk < 300; blk++) {
      const end = filter.runEnd(0, blk)
      expect(end).toBeGreaterThan(blk)
      for (let in_ = blk; in_ < end; in_++) {
        expect(filter.keeps(0, in_)).toBe(filter.keeps(0, blk))
      }
    }
    table.push({ cls: KeyClass.SlruBlock, rel: 0, fork: 0 })
    expect(filter.runEnd(1, 5)).toBe(Number.POSITIVE_INFINITY)
    expect(filter.keeps(1, 5)).toBe(false)
  })
})
