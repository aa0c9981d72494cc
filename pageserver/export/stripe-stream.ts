/**
 * What a shard gives for a full backup that shard 0 puts together: its own blocks of all permanent
 * relations, in the order in which the backup has them. Each message is one run of blocks:
 *
 *   spc u32 | db u32 | rel u32 | fork u32 | first block u32 | count u32 | count pages   (big-endian)
 *
 * The order says which run comes next; the header is there so that shards that do not agree on the
 * sizes of relations, or on the map, are noticed and never mixed up.
 */
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { shardOfBlock, type ShardIdentity } from '#libs/sharding.ts'
import {
  blockRuns,
  type BlockRun,
  filesOf,
  permanentForks,
  type RelationFork,
  TimelinePages,
} from '../basebackup/relation-files.ts'
import { KeyClass, PAGE_SIZE } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'

const HEADER_BYTES = 24

/** The runs of all forks that a shard has, in order. */
function* ownRuns(
  forks: readonly RelationFork[],
  { number, count, stripeBlocks }: ShardIdentity,
): Generator<{ fork: RelationFork; run: BlockRun }> {
  for (const fork of forks) {
    for (const file of filesOf(fork.blocks)) {
      for (const run of blockRuns(file, stripeBlocks)) {
        const owner = shardOfBlock(fork.rel, run.firstBlock, { count, stripeBlocks })
        if (owner === number) yield { fork, run }
      }
    }
  }
}

/** The messages of a shard, each in parts. The caller holds the LSN; memory is bounded by one read. */
export async function* stripeMessages(
  timeline: Timeline,
  identity: ShardIdentity,
  lsn: Lsn,
): AsyncGenerator<Buffer[]> {
  const forks = permanentForks(await timeline.scanBlobs(KeyClass.RelSize, lsn))
  const pages = new TimelinePages(timeline, lsn)
  for (const { fork, run } of ownRuns(forks, identity)) {
    yield [encodeRunHeader(fork, run), await pages.read(fork, run)]
  }
}

function encodeRunHeader(fork: RelationFork, run: BlockRun): Buffer {
  const header = Buffer.alloc(HEADER_BYTES)
  for (const [index, value] of headerOf(fork, run).entries()) header.writeUInt32BE(value, index * 4)
  return header
}

/** The pages of a message. Throws `corrupt` when it is not the run that was expected. */
export function pagesOfRun(message: Buffer, fork: RelationFork, run: BlockRun): Buffer {
  const expected = headerOf(fork, run)
  const fits = message.length === HEADER_BYTES + run.count * PAGE_SIZE
  if (fits && expected.every((value, index) => message.readUInt32BE(index * 4) === value)) {
    return message.subarray(HEADER_BYTES)
  }
  throw new ZenithError(
    'corrupt',
    `${run.count} blocks from ${run.firstBlock} of ${nameOf(fork)} should come, and something else did`,
    { hint: 'The shards do not agree on the sizes of relations, or on the size of stripes.' },
  )
}

export function nameOf({ spc, db, rel, fork }: RelationFork): string {
  return `${spc}/${db}/${rel}.${fork}`
}

function headerOf({ spc, db, rel, fork }: RelationFork, run: BlockRun): number[] {
  return [spc, db, rel, fork, run.firstBlock, run.count]
}
