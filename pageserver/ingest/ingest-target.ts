import type { Lsn } from '#libs/lsn.ts'
import type { ValueKind } from '../keyspace/key-class.ts'
import type { ShardFilter } from './shard-filter.ts'

/** One live entry of a blob class. */
export interface TargetBlob {
  spc: number
  db: number
  rel: number
  fork: number
  value: Buffer
}

/** What ingest needs of a timeline (`Timeline` has this shape); tests use a model in memory. */
export interface IngestTarget {
  /** End of the newest published record. */
  readonly lastRecordLsn: Lsn
  /** Keys that `put` takes; the versions of others need not even be made. Null or absent: all. */
  readonly shard?: ShardFilter | null
  /** Resolves when `latestRelSize` may be used. */
  ready(): Promise<void>
  slot(cls: number, spc: number, db: number, rel: number, fork: number): number
  /**
   * Keeps a copy of WAL from `lsn` on, and returns it: `put` does not copy what lies there again.
   * Good until `letGo`, also over a `publish`. Absent where that saves nothing.
   */
  hold?(wal: Buffer, lsn: Lsn): Buffer
  /** What `hold` returned is not read any more. */
  letGo?(): void
  /** Copies the bytes; LSNs do not decrease; readers see nothing before `publish`. */
  put(
    slot: number,
    blk: number,
    lsn: Lsn,
    kind: ValueKind,
    src: Buffer,
    offset: number,
    length: number,
  ): void
  /** Makes everything up to this record end readable; `lastRecordStartLsn` is where it starts. */
  publish(lastRecordLsn: Lsn, lastRecordStartLsn: Lsn | null): void
  /** Resolves when memory allows more puts. */
  waitForRoom(): Promise<void>
  readPages(slot: number, firstBlk: number, count: number, lsn: Lsn): Promise<Buffer>
  readBlob(slot: number, blk: number, lsn: Lsn): Promise<Buffer | null>
  scanBlobs(
    cls: number,
    lsn: Lsn,
    filter?: { spc?: number; db?: number },
  ): Promise<readonly TargetBlob[]>
  /** Blocks of a fork now, unpublished puts included; `slot` is the RelSize slot. */
  latestRelSize(slot: number): number | undefined
}
