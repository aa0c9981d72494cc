import { describe, expect, it } from 'vitest'
import { ShardFeedbacks } from './shard-feedbacks.ts'
import type { PageserverFeedback } from './wal-stream.ts'

function feedback(change: Partial<PageserverFeedback>): PageserverFeedback {
  return {
    currentTimelineSizeBytes: 0,
    lastReceivedLsn: 300,
    diskConsistentLsn: 200,
    remoteConsistentLsn: 100,
    replyTimeUs: 1n,
    shardNumber: 0,
    shardCount: 1,
    incarnation: 1,
    ...change,
  }
}

describe('ShardFeedbacks', () => {
  it('is as far as the slowest shard, and nowhere before each was heard of', () => {
    const shards = new ShardFeedbacks(2, 50)
    expect(shards.heard(feedback({ shardCount: 2 }))).toBe(true)
    expect(shards.lowest).toBeNull()
    expect(shards.remoteConsistentLsn).toBe(50)
    const slow = { lastReceivedLsn: 250, diskConsistentLsn: 90, remoteConsistentLsn: 70 }
    shards.heard(feedback({ shardCount: 2, shardNumber: 1, ...slow }))
    expect(shards.lowest).toEqual(slow)
    expect(shards.remoteConsistentLsn).toBe(70)
    const fast = { lastReceivedLsn: 900, diskConsistentLsn: 800, remoteConsistentLsn: 700 }
    shards.heard(feedback({ shardCount: 2, replyTimeUs: 2n, ...fast }))
    expect(shards.remoteConsistentLsn).toBe(70)
    expect(shards.latest.map((shard) => shard.remoteConsistentLsn)).toEqual([700, 70])
  })

  it('begins anew when there are more shards, keeps what was durable, hears no fewer', () => {
    const shards = new ShardFeedbacks(1, 0)
    shards.heard(feedback({ remoteConsistentLsn: 100 }))
    for (const shardNumber of [0, 1, 3]) {
      expect(shards.heard(feedback({ shardCount: 4, shardNumber, remoteConsistentLsn: 500 }))).toBe(
        true,
      )
    }
    expect(shards.shardCount).toBe(4)
    expect(shards.lowest).toBeNull()
    expect(shards.remoteConsistentLsn).toBe(100)
    expect(shards.heard(feedback({ remoteConsistentLsn: 900 }))).toBe(false)
    shards.heard(feedback({ shardCount: 4, shardNumber: 2, remoteConsistentLsn: 300 }))
    expect(shards.remoteConsistentLsn).toBe(300)
    expect(shards.latest.map(({ shardNumber }) => shardNumber)).toEqual([0, 1, 2, 3])
  })

  it('takes no late word of the same stream', () => {
    const shards = new ShardFeedbacks(1, 0)
    shards.heard(feedback({ replyTimeUs: 9n }))
    shards.heard(feedback({ lastReceivedLsn: 250, diskConsistentLsn: 150, replyTimeUs: 8n }))
    expect(shards.latest).toEqual([feedback({ replyTimeUs: 9n })])
  })

  it('lets a restarted page server be behind, but not what is in object storage', () => {
    const shards = new ShardFeedbacks(1, 0)
    shards.heard(feedback({ replyTimeUs: 5n }))
    const again = { lastReceivedLsn: 150, diskConsistentLsn: 120, incarnation: 2 }
    shards.heard(feedback({ ...again, replyTimeUs: 6n, remoteConsistentLsn: 60 }))
    expect(shards.lowest).toEqual({
      lastReceivedLsn: 150,
      diskConsistentLsn: 120,
      remoteConsistentLsn: 100,
    })
    // A safekeeper that it has left repeats what it heard last.
    shards.heard(feedback({ replyTimeUs: 5n }))
    expect(shards.lowest?.lastReceivedLsn).toBe(150)
    shards.heard(feedback({ replyTimeUs: 4n, remoteConsistentLsn: 130, incarnation: 3 }))
    expect(shards.lowest).toEqual({
      lastReceivedLsn: 150,
      diskConsistentLsn: 130,
      remoteConsistentLsn: 130,
    })
  })

  it('takes the size of the cluster from the shard that is furthest, once one knows it', () => {
    const shards = new ShardFeedbacks(2, 0)
    const heard = (change: Partial<PageserverFeedback>) =>
      shards.heard(feedback({ shardCount: 2, ...change }))
    heard({ shardNumber: 0 })
    expect(shards.clusterSize).toBeNull()
    heard({ shardNumber: 0, replyTimeUs: 2n, currentTimelineSizeBytes: 8192 })
    heard({ shardNumber: 1, lastReceivedLsn: 400, currentTimelineSizeBytes: 16384 })
    expect(shards.clusterSize).toEqual({ bytes: 16384, lsn: 400 })
    heard({ shardNumber: 0, replyTimeUs: 3n, lastReceivedLsn: 500, currentTimelineSizeBytes: 1 })
    expect(shards.clusterSize).toEqual({ bytes: 1, lsn: 500 })
    // Started again, it does not know yet.
    heard({ shardNumber: 0, replyTimeUs: 4n, lastReceivedLsn: 500, incarnation: 2 })
    expect(shards.clusterSize).toEqual({ bytes: 1, lsn: 500 })
  })
})
