/** What may be asked of a shard: its own blocks, and of shard 0 all that is not spread. */
import { ZenithError } from '#libs/errors.ts'
import type { GetPageRequest } from '#libs/protocol/page-stream.ts'
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

/** Throws `unsupported` for what needs the blocks of all shards in one place. */
export function checkHasAllBlocks(timeline: Timeline, what: string): void {
  if (timeline.shard === null) return
  throw new ZenithError(
    'unsupported',
    `${what} needs all blocks, and this is ${nameOf(timeline)}`,
    { hint: 'Dump the databases with pg_dump.' },
  )
}

function nameOf(timeline: Timeline): string {
  const { number, count } = timeline.shard?.identity ?? { number: 0, count: 1 }
  return `shard ${number} of ${count}`
}
