/** Evaluates page stream requests against a timeline: which LSN to read at, and what is there. */
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import {
  encodeDbsizeReply,
  encodeExistsReply,
  encodeNblocksReply,
  encodeSlruReplyHeader,
  encodeTablespaceReply,
  LATEST_LSN,
  type GetPageRequest,
  PAGE_SIZE,
} from '#libs/protocol/page-stream.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { SingleRequest } from './batch.ts'
import { checkBlocksAreOurs, checkIsFirstShard } from './shard-check.ts'

/** How long a request waits for WAL that it depends on. */
export const WAIT_FOR_WAL_MS = 60_000

export interface LsnBounds {
  requestLsn: Lsn
  notModifiedSince: Lsn
}

export interface PageRun {
  lsn: Lsn
  /** Blocks from the first asked for on, 8 KiB each. */
  pages: Buffer
}

/**
 * The LSN to read at: the newest there is, but not above `requestLsn`, and only once WAL up to
 * `notModifiedSince` has been taken in. So a primary never waits for WAL that did not touch what it
 * asks for. Throws `timeout` when that WAL does not come, `out_of_range` for an LSN before the
 * timeline's start.
 */
export async function lsnToRead(timeline: Timeline, bounds: LsnBounds): Promise<Lsn> {
  checkBounds(timeline, bounds)
  if (bounds.notModifiedSince > timeline.lastRecordLsn) {
    await timeline.waitForLsn(bounds.notModifiedSince, WAIT_FOR_WAL_MS)
  }
  return Math.min(bounds.requestLsn, timeline.lastRecordLsn)
}

function checkBounds(timeline: Timeline, { requestLsn, notModifiedSince }: LsnBounds): void {
  if (notModifiedSince > requestLsn) {
    throw new ZenithError(
      'invalid_argument',
      `a request at ${formatLsn(requestLsn)} cannot know of a change at ${formatLsn(notModifiedSince)}`,
    )
  }
  if (requestLsn !== LATEST_LSN && requestLsn < timeline.startLsn) {
    throw new ZenithError(
      'out_of_range',
      `timeline ${timeline.timelineId} starts at ${formatLsn(timeline.startLsn)}, after ${formatLsn(requestLsn)}`,
    )
  }
}

/**
 * Fills `target` with the blocks from `request.firstBlock` on. Blocks past the relation's end, and blocks of
 * an unknown relation, are zeros: a truncated and again extended relation must not show what it
 * held before.
 */
export async function readBlocks(
  timeline: Timeline,
  request: GetPageRequest,
  target: Buffer,
): Promise<PageRun> {
  const count = target.length / PAGE_SIZE
  checkBlocksAreOurs(timeline, { ...request, count })
  const lsn = await lsnToRead(timeline, request)
  const { spc, db, rel, fork, firstBlock } = request
  const slot = timeline.slot(KeyClass.RelBlock, spc, db, rel, fork)
  const [size, pages] = await Promise.all([
    timeline.relSize(spc, db, rel, fork, lsn),
    timeline.readPages(slot, firstBlock, count, lsn, target),
  ])
  const inside = Math.min(count, Math.max(0, (size ?? 0) - firstBlock))
  if (inside < count) pages.fill(0, inside * PAGE_SIZE)
  return { lsn, pages }
}

/** Answers every kind of request but getpage: the parts of one CopyData. */
export async function readSingle(timeline: Timeline, request: SingleRequest): Promise<Buffer[]> {
  checkIsFirstShard(timeline, request.kind)
  const lsn = await lsnToRead(timeline, request)
  switch (request.kind) {
    case 'exists':
    case 'nblocks': {
      const { spc, db, rel, fork } = request
      const size = await timeline.relSize(spc, db, rel, fork, lsn)
      if (request.kind === 'exists') {
        return [encodeExistsReply(request.requestId, lsn, size !== null)]
      }
      if (size === null) throw unknownRelation(`${spc}/${db}/${rel}, fork ${fork},`, lsn)
      return [encodeNblocksReply(request.requestId, lsn, size)]
    }
    case 'dbsize': {
      const relations = await timeline.scanBlobs(KeyClass.RelSize, lsn, { db: request.db })
      const blocks = relations.reduce((sum, entry) => sum + entry.value.readUInt32LE(0), 0)
      return [encodeDbsizeReply(request.requestId, lsn, BigInt(blocks) * BigInt(PAGE_SIZE))]
    }
    case 'tablespace': {
      const relations = await timeline.scanBlobs(KeyClass.RelSize, lsn, { spc: request.spc })
      const blocks = relations.reduce((sum, entry) => sum + entry.value.readUInt32LE(0), 0)
      const databases = [...new Set(relations.map(({ db }) => db))]
      const sizeBytes = BigInt(blocks) * BigInt(PAGE_SIZE)
      return [encodeTablespaceReply(request.requestId, lsn, sizeBytes, databases)]
    }
    case 'slru': {
      const sizeSlot = timeline.slot(KeyClass.SlruSegSize, request.slru, 0, request.segment, 0)
      const size = await timeline.readBlob(sizeSlot, 0, lsn)
      const blocks = size === null ? 0 : size.readUInt32LE(0)
      const header = encodeSlruReplyHeader(request.requestId, lsn, blocks)
      if (blocks === 0) return [header]
      const slot = timeline.slot(KeyClass.SlruBlock, request.slru, 0, request.segment, 0)
      return [header, await timeline.readPages(slot, 0, blocks, lsn)]
    }
  }
}

/** SQLSTATE undefined_table, which a compute tells apart from other failures. */
export class UnknownRelation extends ZenithError {
  readonly sqlState = '42P01'
}

function unknownRelation(name: string, lsn: Lsn): UnknownRelation {
  return new UnknownRelation('not_found', `relation ${name} does not exist at ${formatLsn(lsn)}`)
}
