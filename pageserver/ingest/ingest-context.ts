/** What the handlers of special records share: the timeline, its tracked state, the record. */
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn, writeLsnLE } from '#libs/lsn.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { rmgrName } from '#libs/wal/format.ts'
import { KeyClass, ValueKind } from '../keyspace/key-class.ts'
import {
  type CheckpointState,
  CHECKPOINT_STATE_SIZE,
  fullXid,
  nextXidPast,
  writeCheckpointState,
} from './checkpoint-state.ts'
import type { IngestTarget } from './ingest-target.ts'
import { NativeOpWriter } from './native-op.ts'
import { ABSENT, RelationTable } from './relation-table.ts'
import type { SlruTable } from './slru-table.ts'

const EMPTY = Buffer.alloc(0)
const FORKS = 4
const TWO_32 = 4294967296

export class IngestContext {
  readonly target: IngestTarget
  readonly relations: RelationTable
  readonly slrus: SlruTable
  readonly record = new DecodedRecord()
  readonly op = new NativeOpWriter()
  readonly state: CheckpointState
  /** `spc/db` of every database folder. */
  readonly databases: Set<string>
  /** Full ids of prepared transactions. */
  readonly prepared: Set<number>
  /** Replication origin -> remote LSN. */
  readonly origins: Map<number, Lsn>
  /** The state changed and must be written at the end of this record. */
  stateChanged = false
  /** The record lies in the WAL as it came, not put together from pieces. */
  isInSlice = false
  /** Bytes of the batch's records in the slice that became versions. */
  keptBytes = 0
  /** End of the record being handled: the LSN of the versions it makes. */
  endLsn: Lsn = 0
  #checkpointSlot: number
  #blob = Buffer.alloc(CHECKPOINT_STATE_SIZE)
  #word = Buffer.alloc(8)

  constructor(
    target: IngestTarget,
    slrus: SlruTable,
    loaded: {
      state: CheckpointState
      databases: Set<string>
      prepared: Set<number>
      origins: Map<number, Lsn>
    },
  ) {
    this.target = target
    this.slrus = slrus
    this.relations = new RelationTable(target)
    this.state = loaded.state
    this.databases = loaded.databases
    this.prepared = loaded.prepared
    this.origins = loaded.origins
    this.#checkpointSlot = target.slot(KeyClass.Checkpoint, 0, 0, 0, 0)
  }

  /**
   * Where something goes that must lie under this record's versions: below its end, above the end
   * of the record before. A record has at least 24 bytes, so the place is always free.
   */
  get belowLsn(): Lsn {
    return this.endLsn - 8
  }

  /** Main data of the record as a view; only for rare records. */
  main(): Buffer {
    const { record } = this
    return record.buffer.subarray(record.mainOffset, record.mainOffset + record.mainLength)
  }

  /** Moves nextXid past `xid`; 0 to 2 are no transactions. */
  sawXid(xid: number): void {
    const { checkpoint } = this.state
    const next = nextXidPast(checkpoint.nextXid, xid)
    if (next === checkpoint.nextXid) return
    checkpoint.nextXid = next
    this.stateChanged = true
  }

  putState(lsn: Lsn): void {
    writeCheckpointState(this.state, this.#blob)
    this.putBlob(this.#checkpointSlot, lsn, this.#blob)
    this.stateChanged = false
  }

  putBlob(slot: number, lsn: Lsn, value: Buffer, block = 0): void {
    this.target.put(slot, block, lsn, ValueKind.Image, value, 0, value.length)
  }

  putTombstone(slot: number, lsn: Lsn): void {
    this.target.put(slot, 0, lsn, ValueKind.Tombstone, EMPTY, 0, 0)
  }

  putZeroPage(slot: number, block: number, lsn: Lsn): void {
    this.target.put(slot, block, lsn, ValueKind.ZeroPage, EMPTY, 0, 0)
  }

  putOp(slot: number, block: number): void {
    this.target.put(slot, block, this.endLsn, ValueKind.NativeOp, this.op.buffer, 0, this.op.length)
  }

  /** Records the size of a fork, in the table and in the timeline. */
  putSize(relation: number, blocks: number, lsn: Lsn): void {
    this.relations.size[relation] = blocks
    this.#word.writeUInt32LE(blocks, 0)
    const slot = this.relations.sizeSlot[relation] as number
    this.target.put(slot, 0, lsn, ValueKind.Image, this.#word, 0, 4)
  }

  dropFork(relation: number): void {
    if (this.relations.size[relation] === ABSENT) return
    this.relations.size[relation] = ABSENT
    this.putTombstone(this.relations.sizeSlot[relation] as number, this.endLsn)
  }

  dropRelation(spc: number, db: number, rel: number): void {
    for (let fork = 0; fork < FORKS; fork += 1) {
      this.dropFork(this.relations.find(spc, db, rel, fork))
    }
  }

  addDatabase(spc: number, db: number): void {
    const key = `${spc}/${db}`
    if (this.databases.has(key)) return
    this.databases.add(key)
    this.putDatabases()
  }

  putDatabases(): void {
    const value = Buffer.alloc(this.databases.size * 8)
    let at = 0
    for (const key of this.databases) {
      const [spc = 0, db = 0] = key.split('/').map(Number)
      value.writeUInt32LE(spc, at)
      value.writeUInt32LE(db, at + 4)
      at += 8
    }
    this.putBlob(this.target.slot(KeyClass.DbDir, 0, 0, 0, 0), this.endLsn, value)
  }

  /** Slot of the two-phase state file of the transaction, keyed by its full id. */
  twoPhaseSlot(full: number): number {
    return this.target.slot(KeyClass.TwoPhase, 0, Math.floor(full / TWO_32), full % TWO_32, 0)
  }

  fullXid(xid: number): number {
    return fullXid(this.state.checkpoint.nextXid, xid)
  }

  /** Notes how far the remote node's changes have come; backwards only when told to. */
  advanceOrigin(originId: number, remoteLsn: Lsn, backwards: boolean): void {
    if (!backwards && (this.origins.get(originId) ?? -1) >= remoteLsn) return
    this.origins.set(originId, remoteLsn)
    writeLsnLE(this.#word, remoteLsn, 0)
    const slot = this.target.slot(KeyClass.ReplOrigin, 0, 0, originId, 0)
    this.target.put(slot, 0, this.endLsn, ValueKind.Image, this.#word, 0, 8)
  }

  corrupt(what: string): ZenithError {
    return new ZenithError('corrupt', `${this.#where()} ${what}`)
  }

  unsupported(what: string, hint: string): ZenithError {
    return new ZenithError('unsupported', `${this.#where()} ${what}`, { hint })
  }

  #where(): string {
    return `WAL record ${rmgrName(this.record.rmid)} at ${formatLsn(this.record.startLsn)}`
  }
}
