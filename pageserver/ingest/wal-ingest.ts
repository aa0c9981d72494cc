/**
 * Turns a timeline's WAL into versions of keys: a page image or the record itself for every block
 * that a record names, and by hand what records only imply (sizes, dropped relations, transaction
 * status, multixacts, visibility bits, prepared transactions, the checkpoint).
 *
 * The LSN of every version is the end of its record. What must lie under a version of the same
 * record (a zero page where nothing was) goes 8 bytes below, where no other record ends.
 */
import { assert, errorMessage, ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { FIRST_NORMAL_XID } from '#libs/pg/slru.ts'
import type { DecodedRecord } from '#libs/wal/decoded-record.ts'
import {
  HEAP2_INFO,
  MIN_CUSTOM_RMGR,
  RMGR,
  rmgrName,
  XLR_RMGR_INFO_MASK,
} from '#libs/wal/format.ts'
import { IN_SLICE, RecordFramer } from '#libs/wal/record-framer.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import { ingestLogicalMessage, ingestRewriteMapping } from './aux-file-records.ts'
import { BlockReferences, isPageImage } from './block-references.ts'
import { decodeCheckpointState, nextXidPast } from './checkpoint-state.ts'
import { ingestDatabaseRecord } from './database-records.ts'
import { IngestContext } from './ingest-context.ts'
import type { IngestTarget } from './ingest-target.ts'
import { ingestClogRecord, ingestCommitTsRecord, ingestMultixactRecord } from './slru-records.ts'
import { PlainRecords } from './plain-records.ts'
import { SlruTable } from './slru-table.ts'
import { ingestOriginRecord, ingestRelmapRecord, ingestStorageRecord } from './storage-records.ts'
import { ingestTablespaceRecord } from './tablespace-records.ts'
import { ingestTransactionRecord } from './transaction-records.ts'
import { ingestStandbyRecord, ingestXlogRecord } from './xlog-records.ts'

/** Bytes taken in before what they brought is published. */
const BATCH_BYTES = 1024 * 1024
/** WAL of which less than this becomes versions is not kept whole: page images, other shards. */
const HELD_SHARE = 0.6
const TWO_32 = 4294967296

function nothing(): void {}

type Handler = (context: IngestContext) => void

/** By resource manager: those whose records name no blocks and mean something else; the rest are pages. */
const SPECIAL: (Handler | null)[] = Array.from({ length: 256 }, () => null)
SPECIAL[RMGR.XLOG] = ingestXlogRecord
SPECIAL[RMGR.TRANSACTION] = ingestTransactionRecord
SPECIAL[RMGR.STORAGE] = ingestStorageRecord
SPECIAL[RMGR.CLOG] = ingestClogRecord
SPECIAL[RMGR.DATABASE] = nothing
SPECIAL[RMGR.TABLESPACE] = ingestTablespaceRecord
SPECIAL[RMGR.MULTIXACT] = ingestMultixactRecord
SPECIAL[RMGR.RELMAP] = ingestRelmapRecord
SPECIAL[RMGR.STANDBY] = ingestStandbyRecord
SPECIAL[RMGR.COMMIT_TS] = ingestCommitTsRecord
SPECIAL[RMGR.REPLICATION_ORIGIN] = ingestOriginRecord
SPECIAL[RMGR.LOGICAL_MESSAGE] = ingestLogicalMessage

export class WalIngest {
  #target: IngestTarget
  #context: IngestContext
  #framer: RecordFramer
  #blocks: BlockReferences
  #plain: PlainRecords
  /** End of the last record whose versions are complete. */
  #doneLsn: Lsn
  #doneStartLsn: Lsn | null = null
  #failed: Error | undefined
  /** nextXid of the checkpoint and its low word, kept because every record asks. */
  #nextXid = 0
  #nextXidLow = 0
  /** Most of the last batch became versions as it was, so the next is kept whole. */
  #holds = true

  private constructor(target: IngestTarget, context: IngestContext) {
    this.#target = target
    this.#context = context
    this.#blocks = new BlockReferences(context)
    this.#plain = new PlainRecords(context, (rmid) => !SPECIAL[rmid])
    this.#doneLsn = target.lastRecordLsn
    this.#framer = new RecordFramer(target.lastRecordLsn)
  }

  /**
   * Continues at the timeline's `lastRecordLsn`. Throws `corrupt` when the timeline has no
   * checkpoint there, that is, when nothing was imported.
   */
  static async open(target: IngestTarget): Promise<WalIngest> {
    await target.ready()
    const lsn = target.lastRecordLsn
    const slrus = new SlruTable(target)
    const [checkpoint, databases, prepared, origins] = await Promise.all([
      target.readBlob(target.slot(KeyClass.Checkpoint, 0, 0, 0, 0), 0, lsn),
      target.readBlob(target.slot(KeyClass.DbDir, 0, 0, 0, 0), 0, lsn),
      target.scanBlobs(KeyClass.TwoPhase, lsn),
      target.scanBlobs(KeyClass.ReplOrigin, lsn),
      slrus.load(lsn),
    ])
    if (checkpoint === null) {
      throw new ZenithError(
        'corrupt',
        `the timeline has no checkpoint at ${formatLsn(lsn)}, so its WAL cannot be followed`,
        { hint: 'A timeline begins with the import of a data directory.' },
      )
    }
    const context = new IngestContext(target, slrus, {
      state: decodeCheckpointState(checkpoint),
      databases: readDatabases(databases),
      prepared: new Set(prepared.map((entry) => entry.db * TWO_32 + entry.rel)),
      origins: new Map(
        origins.map((entry) => [
          entry.rel,
          entry.value.readUInt32LE(4) * TWO_32 + entry.value.readUInt32LE(0),
        ]),
      ),
    })
    return new WalIngest(target, context)
  }

  /** LSN of the next byte that `ingest` wants. */
  get nextLsn(): Lsn {
    return this.#framer.nextLsn
  }

  /** End of the newest complete record. */
  get lastRecordLsn(): Lsn {
    return this.#doneLsn
  }

  /**
   * Forgets the bytes of a record that is not complete, so that `nextLsn` is a record end again.
   * To be called when the WAL source changes: a new writer may continue differently there.
   */
  restart(): void {
    this.#framer = new RecordFramer(this.#doneLsn)
  }

  /**
   * Takes WAL bytes that begin at `startLsn`, which must be `nextLsn`. Everything up to the last
   * complete record is readable when the promise resolves. Throws `corrupt` or `unsupported`,
   * naming the LSN; records before the bad one are published, and the object is of no further use.
   */
  async ingest(chunk: Buffer, startLsn: Lsn): Promise<void> {
    if (this.#failed !== undefined) throw this.#failed
    assert(
      startLsn === this.nextLsn,
      `WAL at ${formatLsn(startLsn)} given, ${formatLsn(this.nextLsn)} expected`,
    )
    try {
      for (let at = 0; at < chunk.length; at += BATCH_BYTES) {
        await this.#ingestBatch(chunk.subarray(at, at + BATCH_BYTES))
        await this.#target.waitForRoom()
      }
    } catch (error) {
      this.#failed = asError(error)
      throw this.#failed
    }
  }

  async #ingestBatch(slice: Buffer): Promise<void> {
    const framer = this.#framer
    let broken: Error | undefined
    try {
      framer.feed(this.#holds ? this.#hold(slice) : slice)
    } catch (error) {
      broken = asError(error)
    }
    this.#context.keptBytes = 0
    try {
      for (let index = 0; index < framer.count; index += 1) {
        index = this.#takePlain(index)
        const waiting = this.#ingestRecord(index)
        if (waiting) await waiting
      }
    } finally {
      this.#target.letGo?.()
      this.#publish()
    }
    this.#holds = this.#context.keptBytes >= slice.length * HELD_SHARE
    if (broken !== undefined) throw broken
  }

  #hold(slice: Buffer): Buffer {
    return this.#target.hold?.(slice, this.#framer.nextLsn) ?? slice
  }

  /** Takes in plain records from `index` on; returns the first that is none, or is the batch's last. */
  #takePlain(index: number): number {
    const framer = this.#framer
    const context = this.#context
    const last = framer.count - 1
    let at = index
    for (; at < last; at += 1) {
      const xid = framer.xid[at] as number
      if (xid !== 0) this.#seeXid(at, xid)
      if (!this.#plain.take(framer, at)) break
      const endLsn = framer.endLsn[at] as number
      if (context.stateChanged) context.putState(endLsn)
      this.#doneLsn = endLsn
      this.#doneStartLsn = framer.startLsn[at] as number
    }
    return at
  }

  /** Handles one record of the batch; returns a promise only when the record needs reads. */
  #ingestRecord(index: number): Promise<void> | undefined {
    const framer = this.#framer
    const context = this.#context
    const { record } = context
    const isLast = index === framer.count - 1
    framer.decode(index, record)
    context.endLsn = framer.endLsn[index] as number
    context.isInSlice = framer.place[index] === IN_SLICE
    if (record.xid !== 0) this.#seeXid(index, record.xid)
    try {
      if (record.rmid === RMGR.DATABASE && record.blockCount === 0) {
        return this.#ingestDatabase(isLast)
      }
      this.#ingestDecoded()
    } catch (error) {
      throw readableError(error, context)
    }
    this.#finishRecord(isLast)
    return undefined
  }

  #ingestDecoded(): void {
    const context = this.#context
    const { rmid } = context.record
    if (rmid >= MIN_CUSTOM_RMGR) {
      throw context.unsupported(
        `belongs to the custom resource manager ${rmid} of an extension`,
        'Drop the extension that writes it; its pages cannot be rebuilt here.',
      )
    }
    const handler = isRewriteMapping(context.record) ? ingestRewriteMapping : SPECIAL[rmid]
    if (!handler || isPageImage(context)) this.#blocks.ingest()
    else {
      if (context.record.blockCount > 0) throw context.corrupt('names blocks, which it never does')
      handler(context)
    }
  }

  async #ingestDatabase(isLast: boolean): Promise<void> {
    const context = this.#context
    // What the database holds now must be readable: everything up to the record before.
    this.#publish()
    await ingestDatabaseRecord(context, this.#doneLsn).catch((error: unknown) => {
      throw readableError(error, context)
    })
    this.#finishRecord(isLast)
  }

  /**
   * Keeps nextXid above every transaction seen. It is moved to what the rest of the batch needs, so
   * that one write serves many transactions; but never across records that make SLRU pages or use
   * the counter, because at every LSN the page that it points into must exist.
   */
  #seeXid(index: number, xid: number): void {
    const { checkpoint } = this.#context.state
    if (checkpoint.nextXid !== this.#nextXid) {
      this.#nextXid = checkpoint.nextXid
      this.#nextXidLow = checkpoint.nextXid % TWO_32
    }
    if (xid < FIRST_NORMAL_XID || ((xid - this.#nextXidLow) | 0) < 0) return
    const framer = this.#framer
    let next = nextXidPast(checkpoint.nextXid, xid)
    for (let later = index + 1; later < framer.count; later += 1) {
      const rmid = framer.rmid[later] as number
      if (rmid === RMGR.XLOG || rmid === RMGR.CLOG || rmid === RMGR.COMMIT_TS) break
      next = nextXidPast(next, framer.xid[later] as number)
    }
    checkpoint.nextXid = next
    this.#context.stateChanged = true
  }

  /**
   * Completes the record: writes the state if it changed, and for the batch's last record in any
   * case, with the place of that record, to which a base backup at its end links back.
   */
  #finishRecord(isLast: boolean): void {
    const context = this.#context
    if (isLast) {
      context.state.tipLsn = context.endLsn
      context.state.tipRecordLsn = context.record.startLsn
    }
    if (isLast || context.stateChanged) context.putState(context.endLsn)
    this.#doneLsn = context.endLsn
    this.#doneStartLsn = context.record.startLsn
  }

  #publish(): void {
    if (this.#doneLsn > this.#target.lastRecordLsn) {
      this.#target.publish(this.#doneLsn, this.#doneStartLsn)
    }
  }
}

/** The one record of a page manager that is about a file instead. */
function isRewriteMapping(record: DecodedRecord): boolean {
  if (record.rmid !== RMGR.HEAP2 || record.blockCount > 0) return false
  return (record.info & XLR_RMGR_INFO_MASK) === HEAP2_INFO.REWRITE
}

function readDatabases(blob: Buffer | null): Set<string> {
  const databases = new Set<string>()
  for (let at = 0; blob !== null && at + 8 <= blob.length; at += 8) {
    databases.add(`${blob.readUInt32LE(at)}/${blob.readUInt32LE(at + 4)}`)
  }
  return databases
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new ZenithError('internal', errorMessage(error))
}

/** A read past the end of a record's data means that the record is damaged. */
function readableError(error: unknown, context: IngestContext): unknown {
  if (!(error instanceof RangeError)) return error
  const { record } = context
  return new ZenithError(
    'corrupt',
    `WAL record ${rmgrName(record.rmid)} at ${formatLsn(record.startLsn)} is shorter than its ` +
      'contents need',
    { cause: error },
  )
}
