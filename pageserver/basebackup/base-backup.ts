/**
 * Base backups: a data folder as of any LSN of a timeline, as a list of tar entries.
 *
 * For a compute the folder has no relation files (pages come over the page stream), except the init
 * forks of unlogged relations, which Postgres keeps locally. A full backup has all of them, and
 * stock Postgres starts from it. Where the server begins in the WAL says start-point.ts.
 */
import { ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { type Lsn, segmentFileName, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import type { Checkpoint } from '#libs/pg/checkpoint.ts'
import {
  type ComputeSettings,
  computeSettingsConf,
  type WalLevel,
} from '#libs/pg/compute-settings.ts'
import { serializeControlFile } from '#libs/pg/control-file.ts'
import { walPartName } from '#libs/protocol/base-backup.ts'
import { crc32c } from '#libs/wal/crc32c.ts'
import { INIT_FORK, MAIN_FORK } from '#libs/wal/format.ts'
import type { CheckpointState } from '../ingest/checkpoint-state.ts'
import { KeyClass, PAGE_SIZE } from '../keyspace/key-class.ts'
import type { BlobEntry } from '../timeline/timeline-reader.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { auxFileEntries } from './aux-file-entries.ts'
import { databaseEntries } from './database-entries.ts'
import {
  DIRECTORIES,
  PG_HBA_CONF,
  PG_MAJOR_VERSION,
  relationPath,
  slruPath,
  twoPhasePath,
} from './data-folder.ts'
import type { ComputeKind } from '../page-service/command.ts'
import {
  type FinishPages,
  keepPages,
  type PageSource,
  permanentForks,
  relationEntries,
  TimelinePages,
} from './relation-files.ts'
import { neededSlruPages } from './slru-pages.ts'
import { shutdownStart, standbyStart, type StartPoint } from './start-point.ts'
import type { WalPart } from './wal-pages.ts'
import { statisticsEntries } from './statistics-entries.ts'

const PAGES_PER_READ = 128
/** WAL segments are zeros but for a page or three; the same bytes are sent over and over. */
const ZEROS = Buffer.alloc(128 * 1024)
/** REPLICATION_STATE_MAGIC. */
const ORIGIN_MAGIC = 0x1257dade
const ORIGIN_SIZE = 16

export type BackupEntry =
  | { name: string; type: 'directory' }
  | { name: string; type: 'file'; content: Buffer }
  | {
      name: string
      type: 'stream'
      sizeBytes: number
      chunks: Iterable<Buffer> | AsyncIterable<Buffer>
    }

export interface BackupOptions {
  /**
   * `primary`, `static` and `standby` computes get no relation files. `full`: everything, for stock
   * Postgres.
   */
  kind: ComputeKind | 'full'
  /** WAL segments as parts (`libs/protocol/base-backup.ts`) instead of whole files. */
  sparse?: boolean
  /** Where a full backup gets the pages of relations; by default from the timeline. */
  pages?: PageSource | null
  log: Logger
  /** Clock for the checkpoint's time stamp. */
  now?: () => number
}

/**
 * Yields the entries of the backup in archive order; pg_control is the last. The caller has checked
 * that `asked` is a record boundary within the timeline and has been taken in. For a standby it
 * doesn't matter: its backup is as of the last checkpoint.
 */
export async function* backupEntries(
  timeline: Timeline,
  asked: Lsn,
  options: BackupOptions,
): AsyncGenerator<BackupEntry> {
  const { kind } = options
  const nowSeconds = Math.floor((options.now ?? Date.now)() / 1000)
  const start =
    kind === 'standby'
      ? await standbyStart(timeline, nowSeconds)
      : await shutdownStart(timeline, asked, { fullPageWrites: kind === 'full', nowSeconds })
  const release = timeline.retention.hold(start.lsn)
  try {
    yield* entriesAt(timeline, start, options)
  } finally {
    release()
  }
}

async function* entriesAt(
  timeline: Timeline,
  start: StartPoint,
  options: BackupOptions,
): AsyncGenerator<BackupEntry> {
  const { kind } = options
  const { lsn, state } = start
  const relations = await timeline.scanBlobs(KeyClass.RelSize, lsn)

  for (const name of DIRECTORIES) yield { name, type: 'directory' }
  yield file('PG_VERSION', `${PG_MAJOR_VERSION}\n`)
  yield file('pg_hba.conf', PG_HBA_CONF)
  yield file('pg_ident.conf', '')
  yield file('postgresql.auto.conf', '')
  if (kind === 'static' || kind === 'standby') yield file('standby.signal', '')
  if (kind === 'full') yield file('postgresql.conf', computeSettingsConf(settingsOf(state)))
  yield* await databaseEntries(timeline, lsn, relations, kind === 'full')
  yield* await slruEntries(timeline, lsn, state.checkpoint, options.log)
  yield* await twoPhaseEntries(timeline, lsn)
  yield* await originEntries(timeline, lsn)
  // Stock Postgres leaves slots and the like out of its base backups, too; they are the primary's.
  if (kind === 'primary') {
    yield* await auxFileEntries(timeline, lsn)
    yield* await statisticsEntries(timeline, lsn, options.log)
  }
  yield* await initForkEntries(timeline, lsn, relations)
  if (kind === 'full') {
    const pages = options.pages ?? new TimelinePages(timeline, lsn)
    yield* relationEntries(permanentForks(relations), pages)
  }
  yield* options.sparse ? partEntries(start.walParts) : segmentEntries(start.walParts)
  // The last entry: a folder from an archive that was cut short lacks it and cannot start.
  yield { name: 'global/pg_control', type: 'file', content: serializeControlFile(start.control) }
}

export function file(name: string, text: string): BackupEntry {
  return { name, type: 'file', content: Buffer.from(text) }
}

/** What a stock server must be set to, lest it drops commit times or refuses prepared transactions. */
export function settingsOf(state: CheckpointState): ComputeSettings {
  return {
    walLevel: state.checkpoint.walLevel as WalLevel,
    walLogHints: state.walLogHints,
    maxConnections: state.maxConnections,
    maxWorkerProcesses: state.maxWorkerProcesses,
    maxWalSenders: state.maxWalSenders,
    maxPreparedTransactions: state.maxPreparedXacts,
    maxLocksPerTransaction: state.maxLocksPerXact,
    trackCommitTimestamp: state.commitTsActive,
  }
}

/** The live SLRU segments, and whatever pages start-up reads besides. */
export async function slruEntries(
  timeline: Timeline,
  lsn: Lsn,
  checkpoint: Checkpoint,
  log: Logger,
): Promise<BackupEntry[]> {
  const blocksOf = new Map<string, number>()
  for (const { spc: kind, rel: segment, value } of await timeline.scanBlobs(
    KeyClass.SlruSegSize,
    lsn,
  )) {
    blocksOf.set(`${kind}/${segment}`, value.readUInt32LE(0))
  }
  for (const need of neededSlruPages(checkpoint)) {
    const key = `${need.kind}/${need.segment}`
    const blocks = blocksOf.get(key) ?? 0
    if (blocks >= need.blocks) continue
    log.warn({ ...need, blocks }, 'an SLRU page that start-up needs was never written')
    blocksOf.set(key, need.blocks)
  }
  return [...blocksOf].map(([key, blocks]) => {
    const [kind = 0, segment = 0] = key.split('/').map(Number)
    const slot = timeline.slot(KeyClass.SlruBlock, kind, 0, segment, 0)
    return {
      name: slruPath(kind, segment),
      type: 'stream',
      sizeBytes: blocks * PAGE_SIZE,
      chunks: pageChunks(timeline, slot, blocks, lsn),
    }
  })
}

/** State files of prepared transactions: the stored body and its CRC-32C (twophase.c). */
export async function twoPhaseEntries(timeline: Timeline, lsn: Lsn): Promise<BackupEntry[]> {
  const states = await timeline.scanBlobs(KeyClass.TwoPhase, lsn)
  return states.map(({ db: xidHigh, rel: xidLow, value }) => {
    const checksum = Buffer.alloc(4)
    checksum.writeUInt32LE(crc32c(value))
    const content = Buffer.concat([value, checksum])
    return { name: twoPhasePath(xidHigh, xidLow), type: 'file', content }
  })
}

/**
 * How far replication from elsewhere has been replayed (CheckPointReplicationOrigin in origin.c):
 * magic u32 | per origin: id u16, 6 bytes of padding, LSN u64 | CRC-32C u32.
 */
export async function originEntries(timeline: Timeline, lsn: Lsn): Promise<BackupEntry[]> {
  const origins = await timeline.scanBlobs(KeyClass.ReplOrigin, lsn)
  if (origins.length === 0) return []
  const content = Buffer.alloc(4 + origins.length * ORIGIN_SIZE + 4)
  content.writeUInt32LE(ORIGIN_MAGIC, 0)
  origins.forEach(({ rel: origin, value }, index) => {
    content.writeUInt16LE(origin, 4 + index * ORIGIN_SIZE)
    value.copy(content, 4 + index * ORIGIN_SIZE + 8, 0, 8)
  })
  const end = content.length - 4
  content.writeUInt32LE(crc32c(content, 0, end), end)
  return [{ name: 'pg_logical/replorigin_checkpoint', type: 'file', content }]
}

/** Unlogged relations: the init fork as itself and as the main fork, as after a crash. */
export async function initForkEntries(
  timeline: Timeline,
  lsn: Lsn,
  relations: readonly BlobEntry[],
  finish: FinishPages = keepPages,
): Promise<BackupEntry[]> {
  const entries: BackupEntry[] = []
  for (const { spc, db, rel, fork, value } of relations) {
    if (fork !== INIT_FORK) continue
    const blocks = value.readUInt32LE(0)
    const slot = timeline.slot(KeyClass.RelBlock, spc, db, rel, fork)
    const content = blocks === 0 ? Buffer.alloc(0) : await timeline.readPages(slot, 0, blocks, lsn)
    finish(content, 0)
    entries.push({ name: relationPath(spc, db, rel, INIT_FORK), type: 'file', content })
    entries.push({ name: relationPath(spc, db, rel, MAIN_FORK), type: 'file', content })
  }
  return entries
}

async function* pageChunks(
  timeline: Timeline,
  slot: number,
  blocks: number,
  lsn: Lsn,
): AsyncGenerator<Buffer> {
  for (let at = 0; at < blocks; at += PAGES_PER_READ) {
    const count = Math.min(PAGES_PER_READ, blocks - at)
    const pages = await timeline.readPages(slot, at, count, lsn)
    if (pages.length !== count * PAGE_SIZE) {
      throw new ZenithError('internal', `a read of ${count} pages gave ${pages.length} bytes`)
    }
    yield pages
  }
}

function* partEntries(parts: readonly WalPart[]): Generator<BackupEntry> {
  for (const { segment, offset, bytes } of parts) {
    yield { name: walPartName(segment, offset), type: 'file', content: bytes }
  }
}

/** Whole WAL segments, from the pages of them that are not zero. */
export function* segmentEntries(parts: readonly WalPart[]): Generator<BackupEntry> {
  for (const [segment, inSegment] of Map.groupBy(parts, (part) => part.segment)) {
    yield {
      name: `pg_wal/${segmentFileName(1, segment)}`,
      type: 'stream',
      sizeBytes: WAL_SEGMENT_SIZE,
      chunks: segmentChunks(inSegment),
    }
  }
}

function* segmentChunks(parts: readonly WalPart[]): Generator<Buffer> {
  let at = 0
  const end: WalPart = { segment: 0, offset: WAL_SEGMENT_SIZE, bytes: Buffer.alloc(0) }
  for (const { offset, bytes } of [...parts, end]) {
    while (at < offset) {
      const length = Math.min(ZEROS.length, offset - at)
      yield ZEROS.subarray(0, length)
      at += length
    }
    if (bytes.length > 0) yield bytes
    at += bytes.length
  }
}
