import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import { shardOfBlock, tenantShardId } from '#libs/sharding.ts'
import { INIT_FORK, VM_FORK } from '#libs/wal/format.ts'
import { firstShardCutoff } from '../gc/first-shard.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { ScratchServer } from './testing/scratch-server.ts'

const COUNT = 3
const STRIPE = 4
const START = 0x1000
const RELS = [16384, 16385]
const BLOCKS = 60
const SHARDS = [0, 1, 2]
const FACTS = { startLsn: START, systemId: '7', pgVersion: 170011 }

const timelineId = newTimelineId()
let server: ScratchServer
let generation = 0

const idOf = (shard: number) => tenantShardId(server.tenantId, shard, COUNT)
const timelineOf = (shard: number) => server.manager.tenant(idOf(shard)).timeline(timelineId)
const owner = (rel: number, blk: number) =>
  shardOfBlock(rel, blk, { count: COUNT, stripeBlocks: STRIPE })

async function attach(): Promise<void> {
  generation += 1
  for (const shard of SHARDS) {
    await server.manager.attach(idOf(shard), generation, undefined, STRIPE)
  }
}

const contentOf = (rel: number, blk: number, round: number) =>
  Buffer.alloc(PAGE_SIZE, (rel * 7 + blk * 3 + round) % 251)

/** Everybody is given everything, as WAL would. */
function put(timeline: Timeline, lsn: number, round: number): void {
  const size = Buffer.alloc(4)
  size.writeUInt32LE(BLOCKS)
  for (const rel of RELS) {
    for (const fork of [0, VM_FORK, INIT_FORK]) {
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

async function expectOwnOnly(lsn: number, round: number): Promise<void> {
  const zeros = Buffer.alloc(PAGE_SIZE)
  for (const shard of SHARDS) {
    const timeline = timelineOf(shard)
    for (const rel of RELS) {
      for (const fork of [0, VM_FORK, INIT_FORK]) {
        const slot = timeline.slot(KeyClass.RelBlock, 1, 2, rel, fork)
        const pages = await timeline.readPages(slot, 0, BLOCKS, lsn)
        for (let blk = 0; blk < BLOCKS; blk++) {
          const isOwn = (fork === INIT_FORK ? 0 : owner(rel, blk)) === shard
          const page = pages.subarray(blk * PAGE_SIZE, (blk + 1) * PAGE_SIZE)
          expect(page.equals(isOwn ? contentOf(rel, blk, round) : zeros), `${shard} ${blk}`).toBe(
            true,
          )
        }
        expect(await timeline.relSize(1, 2, rel, fork, lsn)).toBe(BLOCKS)
      }
    }
    const status = timeline.slot(KeyClass.SlruBlock, 0, 0, 0, 0)
    const page = await timeline.readPages(status, 0, 1, lsn)
    expect(page.equals(shard === 0 ? contentOf(0, 0, round) : zeros)).toBe(true)
  }
}

beforeAll(async () => {
  server = await ScratchServer.start()
  await attach()
  for (const shard of SHARDS) {
    const tenant = server.manager.tenant(idOf(shard))
    await tenant.createTimeline(timelineId, FACTS, async (empty) => put(empty, START, 0))
  }
})
afterAll(() => server.stop())

describe('shards of one tenant on one server', () => {
  test('each keeps its own blocks, over rounds, images and a lost disk', async () => {
    for (const round of [1, 2, 3]) {
      const lsn = START + round * 0x100
      for (const shard of SHARDS) put(timelineOf(shard), lsn, round)
      await expectOwnOnly(lsn, round)
      await expectOwnOnly(START, 0)
      for (const shard of SHARDS) {
        if (round === 2) await timelineOf(shard).createImageLayers()
        else await timelineOf(shard).flush()
      }
      await server.restart({ wipeLocal: round === 2 })
      await attach()
      await expectOwnOnly(lsn, round)
      await expectOwnOnly(START + 0x100, 1)
    }
    const folders = await readdir(join(server.folder, 'objects', 'tenants'))
    expect(folders.sort()).toEqual(SHARDS.map((shard) => idOf(shard)))
  })

  test('their positions rise over WAL that holds nothing of theirs', async () => {
    const lsn = START + 0x800
    for (const shard of SHARDS) {
      const timeline = timelineOf(shard)
      const foreign = Array.from({ length: BLOCKS }, (_, blk) => blk).find(
        (blk) => owner(16384, blk) !== shard,
      ) as number
      const slot = timeline.slot(KeyClass.RelBlock, 1, 2, 16384, 0)
      timeline.put(slot, foreign, lsn, ValueKind.Image, contentOf(1, 1, 1), 0, PAGE_SIZE)
      timeline.publish(lsn, null)
      await timeline.flush()
      expect(timeline.diskConsistentLsn).toBe(lsn)
      await expect.poll(() => timeline.remoteConsistentLsn).toBe(lsn)
    }
  })

  test('none collects what shard 0 still keeps', async () => {
    const cutoffOf = () => firstShardCutoff(server.store, idOf(1), timelineId, COUNT)
    expect(await cutoffOf()).toBeNull()
    expect(timelineOf(1).followsFirstShard).toBe(true)
    expect(timelineOf(0).followsFirstShard).toBe(false)
    await timelineOf(0).change({ gcCutoffLsn: START + 0x200 })
    expect(await cutoffOf()).toBe(START + 0x200)
    expect(await timelineOf(2).firstShardCutoff()).toBe(START + 0x200)
  })

  test('one without the size of its stripes is not attached', async () => {
    const other = await ScratchServer.start()
    const id = tenantShardId(other.tenantId, 1, 4)
    await expect(other.manager.attach(id, 1)).rejects.toThrow(/size of a stripe/)
    await other.manager.attach(id, 1, undefined, 64)
    // It is remembered as long as the tenant is attached.
    await other.manager.attach(id, 2)
    expect(other.manager.tenant(id).shard?.identity).toEqual({
      number: 1,
      count: 4,
      stripeBlocks: 64,
    })
    await other.stop()
  })
})
