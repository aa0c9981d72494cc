/**
 * The files of relations in a full backup: which there are, and in which order their pages are
 * asked for. The pages of a sharded tenant come from several pageservers that never speak of single
 * pages with each other: all of them follow the order of `permanentForks` and `blockRuns`.
 */
import { INIT_FORK } from '#libs/wal/format.ts'
import { KeyClass, PAGE_SIZE } from '../keyspace/key-class.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { BlobEntry } from '../timeline/timeline-reader.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { BackupEntry } from './base-backup.ts'
import { relationPath } from './data-folder.ts'

/** Blocks in a file of 1 GiB. */
const BLOCKS_PER_FILE = 131072
/** The longest run of blocks that is read at once: 1 MiB. */
export const MAX_RUN_BLOCKS = 128

/** Changes pages of a relation in place before they are written; `firstBlock` is the first one's. */
export type FinishPages = (pages: Buffer, firstBlock: number) => void

export function keepPages(): void {}

export interface RelationFork {
  readonly spc: number
  readonly db: number
  readonly rel: number
  readonly fork: number
  readonly blocks: number
}

export interface BlockRun {
  readonly firstBlock: number
  readonly count: number
}

/** Gives the pages of runs, which are asked for in order; the buffer may be changed by the caller. */
export interface PageSource {
  /** Blocks at which runs are cut; null: nowhere. */
  readonly stripeBlocks: number | null
  read(fork: RelationFork, run: BlockRun): Promise<Buffer>
}

/** All forks whose pages a backup has, in key order: those of permanent relations. */
export function permanentForks(relations: readonly BlobEntry[]): RelationFork[] {
  const relationOf = ({ spc, db, rel }: BlobEntry) => `${spc}/${db}/${rel}`
  const unlogged = new Set(relations.filter(({ fork }) => fork === INIT_FORK).map(relationOf))
  return relations
    .filter((entry) => !unlogged.has(relationOf(entry)))
    .map(({ spc, db, rel, fork, value }) => ({ spc, db, rel, fork, blocks: value.readUInt32LE(0) }))
}

/** Files that a fork is cut into, as md.c does it; an empty one is one empty file. */
export function* filesOf(blocks: number): Generator<BlockRun> {
  for (let firstBlock = 0; firstBlock === 0 || firstBlock < blocks; ) {
    const count = Math.min(BLOCKS_PER_FILE, blocks - firstBlock)
    yield { firstBlock, count }
    firstBlock += BLOCKS_PER_FILE
  }
}

/** Cuts a file into runs, none longer than one read and none across the end of a stripe. */
export function* blockRuns(file: BlockRun, stripeBlocks: number | null): Generator<BlockRun> {
  const end = file.firstBlock + file.count
  for (let firstBlock = file.firstBlock; firstBlock < end; ) {
    const inStripe =
      stripeBlocks === null ? MAX_RUN_BLOCKS : stripeBlocks - (firstBlock % stripeBlocks)
    const count = Math.min(MAX_RUN_BLOCKS, end - firstBlock, inStripe)
    yield { firstBlock, count }
    firstBlock += count
  }
}

/** All files of the forks, each a stream of its pages. */
export function* relationEntries(
  forks: readonly RelationFork[],
  pages: PageSource,
  finish: FinishPages = keepPages,
): Generator<BackupEntry> {
  for (const fork of forks) {
    const path = relationPath(fork.spc, fork.db, fork.rel, fork.fork)
    for (const file of filesOf(fork.blocks)) {
      const { firstBlock, count } = file
      yield {
        name: firstBlock === 0 ? path : `${path}.${firstBlock / BLOCKS_PER_FILE}`,
        type: 'stream',
        sizeBytes: count * PAGE_SIZE,
        chunks: fileChunks(fork, file, pages, finish),
      }
    }
  }
}

async function* fileChunks(
  fork: RelationFork,
  file: BlockRun,
  source: PageSource,
  finish: FinishPages,
): AsyncGenerator<Buffer> {
  for (const run of blockRuns(file, source.stripeBlocks)) {
    const pages = await source.read(fork, run)
    if (pages.length !== run.count * PAGE_SIZE) {
      throw new ZenithError('internal', `a read of ${run.count} pages gave ${pages.length} bytes`)
    }
    finish(pages, run.firstBlock)
    yield pages
  }
}

/** Pages of a timeline that has all of them, or those of a shard that are its own. */
export class TimelinePages implements PageSource {
  readonly stripeBlocks: number | null
  readonly #timeline: Timeline
  readonly #lsn: Lsn

  constructor(timeline: Timeline, lsn: Lsn) {
    this.#timeline = timeline
    this.#lsn = lsn
    this.stripeBlocks = timeline.shard?.identity.stripeBlocks ?? null
  }

  read({ spc, db, rel, fork }: RelationFork, { firstBlock, count }: BlockRun): Promise<Buffer> {
    const slot = this.#timeline.slot(KeyClass.RelBlock, spc, db, rel, fork)
    return this.#timeline.readPages(slot, firstBlock, count, this.#lsn)
  }
}
