/** What may be asked of a shard: its own blocks, and of shard 0 all that is not spread. */
import { ZenithError } from '#libs/errors.ts'
import type { GetPageRequest } from '#libs/protocol/page-stream.ts'
import type { ShardIdentity } from '#libs/sharding.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'

const HINT =
  'The compute has another map of the shards; its settings zenith.pageserver_connstring and zenith.shard_stripe_blocks tell which.'

/** Throws `invalid_argument` when a block of the run belongs to another shard. */
export function checkBlocksAreOurs(timeline: Timeline, request: GetPageRequest): void {
  const { shard } = timeline
  if (shard === null) return
  const { spc, db, rel, fork, firstBlock, count } = request
  const slot = timeline.slot(KeyClass.RelBlock, spc, db, rel, fork)
  for (let block = firstBlock; block < firstBlock + count; block = shard.runEnd(slot, block)) {
    if (shard.keeps(slot, block)) continue
    throw new ZenithError(
      'invalid_argument',
      `block ${block} of ${spc}/${db}/${rel}.${fork} is not in ${nameOf(timeline)}`,
      { hint: HINT },
    )
  }
}

/** Throws `invalid_argument` for what only shard 0 answers: sizes, SLRUs, base backups. */
export function checkIsFirstShard(timeline: Timeline, what: string): void {
  const { shard } = timeline
  if (shard === null || shard.identity.number === 0) return
  throw new ZenithError(
    'invalid_argument',
    `${what} is asked of shard 0, and this is ${nameOf(timeline)}`,
    { hint: HINT },
  )
}

/**
 * Throws `invalid_argument` when a full backup of a shard is asked for without saying where the others
 * are, or one of a tenant in one piece as if there were others.
 */
export function checkShardsAreKnown(timeline: Timeline, what: string, given: boolean): void {
  if (given === (timeline.shard !== null)) return
  const has = given ? 'has no shards' : `needs all blocks, and this is ${nameOf(timeline)}`
  throw new ZenithError('invalid_argument', given ? `the tenant ${has}` : `${what} ${has}`, {
    hint: given
      ? 'Leave "shards=" out.'
      : 'Say where all shards are: shards=<host>:<port>,... zenith export does that.',
  })
}

/** The shard that this is. Throws `invalid_argument` for a tenant in one piece. */
export function shardOf(timeline: Timeline): ShardIdentity {
  if (timeline.shard !== null) return timeline.shard.identity
  throw new ZenithError('invalid_argument', 'the tenant has no shards')
}

function nameOf(timeline: Timeline): string {
  const { number, count } = timeline.shard?.identity ?? { number: 0, count: 1 }
  return `shard ${number} of ${count}`
}
