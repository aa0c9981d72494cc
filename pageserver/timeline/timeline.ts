/**
 * One branch's history: every version of every key, readable at any LSN up to `lastRecordLsn`.
 * (Signatures first; bodies follow.)
 */
import { ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { ValueKind } from '../keyspace/key-class.ts'

export interface BlobEntry {
  spc: number
  db: number
  rel: number
  fork: number
  blk: number
  value: Buffer
}

export interface Ancestor {
  timeline: Timeline
  lsn: Lsn
}

function unbuilt(): never {
  throw new ZenithError('unsupported', 'This part of the timeline is not built yet.')
}

export class Timeline {
  get tenantId(): TenantId {
    return unbuilt()
  }

  get timelineId(): TimelineId {
    return unbuilt()
  }

  /** End of the last published record; reads are answered up to here. */
  get lastRecordLsn(): Lsn {
    return unbuilt()
  }

  get diskConsistentLsn(): Lsn {
    return unbuilt()
  }

  get remoteConsistentLsn(): Lsn {
    return unbuilt()
  }

  /** First LSN of the branch's own history. */
  get startLsn(): Lsn {
    return unbuilt()
  }

  get ancestor(): Ancestor | null {
    return unbuilt()
  }

  /** Decimal text of pg_control's system identifier. */
  get systemId(): string {
    return unbuilt()
  }

  /** As server_version_num: 170011. */
  get pgVersion(): number {
    return unbuilt()
  }

  /** Resolves when `latestRelSize` may be used; ingest waits for it before its first record. */
  ready(): Promise<void> {
    return unbuilt()
  }

  /** Interns a key prefix. */
  slot(_cls: number, _spc: number, _db: number, _rel: number, _fork: number): number {
    return unbuilt()
  }

  /** Copies the bytes; LSNs do not decrease; readers see nothing before `publish`. */
  put(
    _slot: number,
    _blk: number,
    _lsn: Lsn,
    _kind: ValueKind,
    _src: Buffer,
    _offset: number,
    _length: number,
  ): void {
    unbuilt()
  }

  /** Makes everything up to this record end readable and wakes waiters. */
  publish(_lastRecordLsn: Lsn): void {
    unbuilt()
  }

  /** Resolves when memory allows more puts; ingest awaits it between batches. */
  waitForRoom(): Promise<void> {
    return unbuilt()
  }

  /** Throws `timeout` when the LSN is not reached in time. */
  waitForLsn(_lsn: Lsn, _timeoutMs: number): Promise<void> {
    return unbuilt()
  }

  /** `count` pages of 8 KiB from `firstBlk` on, as of `lsn`; zeros where nothing was stored. */
  readPages(_slot: number, _firstBlk: number, _count: number, _lsn: Lsn): Promise<Buffer> {
    return unbuilt()
  }

  readPage(_slot: number, _blk: number, _lsn: Lsn): Promise<Buffer> {
    return unbuilt()
  }

  /** Newest value at or below `lsn`; null when absent or deleted. */
  readBlob(_slot: number, _blk: number, _lsn: Lsn): Promise<Buffer | null> {
    return unbuilt()
  }

  /** All live entries of a blob class, in key order. */
  scanBlobs(
    _cls: number,
    _lsn: Lsn,
    _filter?: { spc?: number; db?: number },
  ): Promise<BlobEntry[]> {
    return unbuilt()
  }

  /** Blocks of a fork as of `lsn`; null when it does not exist. */
  relSize(
    _spc: number,
    _db: number,
    _rel: number,
    _fork: number,
    _lsn: Lsn,
  ): Promise<number | null> {
    return unbuilt()
  }

  /** Blocks of a fork now, unpublished puts included; `slot` is the RelSize slot. */
  latestRelSize(_slot: number): number | undefined {
    return unbuilt()
  }

  /** Freezes what is published, writes it as layers, uploads, advances the LSNs. */
  flush(): Promise<void> {
    return unbuilt()
  }

  createImageLayers(): Promise<void> {
    return unbuilt()
  }
}
