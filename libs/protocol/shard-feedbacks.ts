/**
 * What the page servers of one timeline have said last, by shard. Pure; used by the acceptor, which
 * hears it from its streams, and by the proposer, which hears it from several safekeepers.
 *
 * Within one incarnation (one stream to a page server) positions only rise, so a late message lowers
 * nothing. A page server that was started again may be behind where it was: then the newer word
 * counts, by the time that the page server gives. What is in object storage stays there whoever
 * speaks, hence the remote position of a shard never falls.
 *
 * How many shards there are the page servers say themselves. The largest count counts: a tenant may
 * be split, never joined, and one that speaks of fewer shards has been replaced.
 *
 * Each shard knows the size of every relation, so the size of the cluster is what the one that is
 * furthest says, and not a sum.
 */
import { assert } from '../errors.ts'
import type { Lsn } from '../lsn.ts'
import { MAX_SHARDS, type PageserverFeedback } from './wal-stream.ts'

/** Of all shards the lowest; the whole timeline is as far as its slowest shard. */
export interface ShardPositions {
  lastReceivedLsn: Lsn
  diskConsistentLsn: Lsn
  remoteConsistentLsn: Lsn
}

/** Bytes of all relations, and the end of the WAL that they follow from. */
export interface ClusterSize {
  bytes: number
  lsn: Lsn
}

export class ShardFeedbacks {
  #shardCount: number
  readonly #shards = new Map<number, PageserverFeedback>()
  #remoteFloor: Lsn

  /** `remoteFloorLsn`: what all shards had in object storage when this was last stored; 0 for unknown. */
  constructor(shardCount: number, remoteFloorLsn: Lsn) {
    assert(shardCount > 0 && shardCount <= MAX_SHARDS, 'a timeline has between 1 and 256 shards')
    this.#shardCount = shardCount
    this.#remoteFloor = remoteFloorLsn
  }

  /** The largest that was heard of; 1 before. */
  get shardCount(): number {
    return this.#shardCount
  }

  /** The newest of each shard that was heard of, by shard number. */
  get latest(): readonly PageserverFeedback[] {
    return [...this.#shards.values()].toSorted((a, b) => a.shardNumber - b.shardNumber)
  }

  /** All shards have at least this in object storage. Never falls. */
  get remoteConsistentLsn(): Lsn {
    if (this.#shards.size < this.#shardCount) return this.#remoteFloor
    let lowest = Number.POSITIVE_INFINITY
    for (const shard of this.#shards.values()) lowest = Math.min(lowest, shard.remoteConsistentLsn)
    return Math.max(lowest, this.#remoteFloor)
  }

  /** Null until every shard was heard of. */
  get lowest(): ShardPositions | null {
    if (this.#shards.size < this.#shardCount) return null
    const lowest = {
      lastReceivedLsn: Number.POSITIVE_INFINITY,
      diskConsistentLsn: Number.POSITIVE_INFINITY,
      remoteConsistentLsn: this.remoteConsistentLsn,
    }
    for (const shard of this.#shards.values()) {
      lowest.lastReceivedLsn = Math.min(lowest.lastReceivedLsn, shard.lastReceivedLsn)
      lowest.diskConsistentLsn = Math.min(lowest.diskConsistentLsn, shard.diskConsistentLsn)
    }
    return lowest
  }

  /** Null until a shard has told one. */
  get clusterSize(): ClusterSize | null {
    let newest: ClusterSize | null = null
    for (const { currentTimelineSizeBytes: bytes, lastReceivedLsn: lsn } of this.#shards.values()) {
      if (bytes > 0 && (newest === null || lsn > newest.lsn)) newest = { bytes, lsn }
    }
    return newest
  }

  /** Takes what a page server says. False when it speaks of fewer shards than there are by now. */
  heard(feedback: PageserverFeedback): boolean {
    const { shardNumber, shardCount } = feedback
    if (shardCount < this.#shardCount) return false
    if (shardCount > this.#shardCount) {
      // What all of it had before the split, its parts have.
      this.#remoteFloor = this.remoteConsistentLsn
      this.#shards.clear()
      this.#shardCount = shardCount
    }
    const known = this.#shards.get(shardNumber)
    this.#shards.set(shardNumber, known === undefined ? feedback : merged(known, feedback))
    return true
  }
}

function merged(known: PageserverFeedback, told: PageserverFeedback): PageserverFeedback {
  const newest = told.replyTimeUs >= known.replyTimeUs ? told : known
  const remoteConsistentLsn = Math.max(known.remoteConsistentLsn, told.remoteConsistentLsn)
  const sameLife = known.incarnation === told.incarnation
  const highest = (position: 'diskConsistentLsn' | 'lastReceivedLsn') =>
    sameLife ? Math.max(known[position], told[position]) : newest[position]
  // What is in object storage has been received, whatever a page server that starts again says of itself.
  const diskConsistentLsn = Math.max(highest('diskConsistentLsn'), remoteConsistentLsn)
  const lastReceivedLsn = Math.max(highest('lastReceivedLsn'), diskConsistentLsn)
  // One that has just started does not know it yet.
  const currentTimelineSizeBytes = newest.currentTimelineSizeBytes || known.currentTimelineSizeBytes
  return {
    ...newest,
    currentTimelineSizeBytes,
    lastReceivedLsn,
    diskConsistentLsn,
    remoteConsistentLsn,
  }
}
