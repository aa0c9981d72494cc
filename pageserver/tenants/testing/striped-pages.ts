/** Pages of a few relations that shards of a tenant are given as WAL would: everything to everybody. */
import { expect } from 'vitest'
import { shardOfBlock } from '#libs/sharding.ts'
import { INIT_FORK, VM_FORK } from '#libs/wal/format.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../../keyspace/key-class.ts'
import type { Timeline } from '../../timeline/timeline.ts'

export const STRIPE = 4
export const START = 0x1000
export const BLOCKS = 60
export const FACTS = { startLsn: START, systemId: '7', pgVersion: 170011 }
const RELS = [16384, 16385]
const FORKS = [0, VM_FORK, INIT_FORK]

/** Which shard has a block; a tenant in one piece has one. */
export function ownerOf(rel: number, fork: number, blk: number, count: number): number {
  return fork === INIT_FORK || count === 1
    ? 0
    : shardOfBlock(rel, blk, { count, stripeBlocks: STRIPE })
}

/** Of each round another one. */
export function contentOf(rel: number, blk: number, round: number): Buffer {
  return Buffer.alloc(PAGE_SIZE, (rel * 7 + blk * 3 + round) % 251)
}

/** Every block of every fork, their sizes, a page of transaction status and its segment. */
export function putRound(timeline: Timeline, lsn: number, round: number): void {
  const size = Buffer.alloc(4)
  size.writeUInt32LE(BLOCKS)
  for (const rel of RELS) {
    for (const fork of FORKS) {
      const slot = timeline.slot(KeyClass.RelBlock, 1, 2, rel, fork)
      for (let blk = 0; blk < BLOCKS; blk++) {
        const page = contentOf(rel, blk, round)
        timeline.put(slot, blk, lsn, ValueKind.Image, page, 0, PAGE_SIZE)
      }
      const sizeSlot = timeline.slot(KeyClass.RelSize, 1, 2, rel, fork)
      timeline.put(sizeSlot, 0, lsn, ValueKind.Image, size, 0, 4)
    }
  }
  const status = timeline.slot(KeyClass.SlruBlock, 0, 0, 0, 0)
  timeline.put(status, 0, lsn, ValueKind.Image, contentOf(0, 0, round), 0, PAGE_SIZE)
  const segment = timeline.slot(KeyClass.SlruSegSize, 0, 0, 0, 0)
  const one = Buffer.from([1, 0, 0, 0])
  timeline.put(segment, 0, lsn, ValueKind.Image, one, 0, one.length)
  timeline.publish(lsn, null)
}

/** Each shard of a tenant, in their order, has at an LSN what a round gave it, and all sizes. */
export async function expectOwnOnly(
  shards: readonly Timeline[],
  lsn: number,
  round: number,
): Promise<void> {
  const zeros = Buffer.alloc(PAGE_SIZE)
  for (const [shard, timeline] of shards.entries()) {
    for (const rel of RELS) {
      for (const fork of FORKS) {
        const slot = timeline.slot(KeyClass.RelBlock, 1, 2, rel, fork)
        const pages = await timeline.readPages(slot, 0, BLOCKS, lsn)
        for (let blk = 0; blk < BLOCKS; blk++) {
          const isOwn = ownerOf(rel, fork, blk, shards.length) === shard
          const page = pages.subarray(blk * PAGE_SIZE, (blk + 1) * PAGE_SIZE)
          const wanted = isOwn ? contentOf(rel, blk, round) : zeros
          expect(page.equals(wanted), `shard ${shard} ${rel}.${fork}/${blk}`).toBe(true)
        }
        expect(await timeline.relSize(1, 2, rel, fork, lsn)).toBe(BLOCKS)
      }
    }
    expect(await timeline.scanBlobs(KeyClass.RelSize, lsn)).toHaveLength(RELS.length * FORKS.length)
    const status = timeline.slot(KeyClass.SlruBlock, 0, 0, 0, 0)
    const page = await timeline.readPages(status, 0, 1, lsn)
    expect(page.equals(shard === 0 ? contentOf(0, 0, round) : zeros)).toBe(true)
    const segments = await timeline.scanBlobs(KeyClass.SlruSegSize, lsn)
    expect(segments).toHaveLength(shard === 0 ? 1 : 0)
  }
}
