import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newTimelineId } from '#libs/ids.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { firstShardCutoff } from '../gc/first-shard.ts'
import { KeyClass, PAGE_SIZE, ValueKind } from '../keyspace/key-class.ts'
import { ScratchServer } from './testing/scratch-server.ts'
import {
  BLOCKS,
  contentOf,
  expectOwnOnly as expectEachOwnOnly,
  FACTS,
  ownerOf,
  putRound,
  START,
  STRIPE,
} from './testing/striped-pages.ts'

const COUNT = 3
const SHARDS = [0, 1, 2]

const timelineId = newTimelineId()
let server: ScratchServer
let generation = 0

const idOf = (shard: number) => tenantShardId(server.tenantId, shard, COUNT)
const timelineOf = (shard: number) => server.manager.tenant(idOf(shard)).timeline(timelineId)
const expectOwnOnly = (lsn: number, round: number) =>
  expectEachOwnOnly(SHARDS.map(timelineOf), lsn, round)

async function attach(): Promise<void> {
  generation += 1
  for (const shard of SHARDS) {
    await server.manager.attach(idOf(shard), generation, undefined, STRIPE)
  }
}

beforeAll(async () => {
  server = await ScratchServer.start()
  await attach()
  for (const shard of SHARDS) {
    const tenant = server.manager.tenant(idOf(shard))
    await tenant.createTimeline(timelineId, FACTS, async (empty) => putRound(empty, START, 0))
  }
})
afterAll(() => server.stop())

describe('shards of one tenant on one server', () => {
  test('each keeps its own blocks, over rounds, images and a lost disk', async () => {
    for (const round of [1, 2, 3]) {
      const lsn = START + round * 0x100
      for (const shard of SHARDS) putRound(timelineOf(shard), lsn, round)
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
        (blk) => ownerOf(16384, 0, blk, COUNT) !== shard,
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
