/**
 * The quick way for the records that a busy database mostly writes: one block of a main fork, which
 * is there already, without an image, and nothing else to be known. Such a record is a version as it
 * is. Four in five records of TPC-B are.
 *
 * Whatever is not just so is left to the long way (`DecodedRecord`, `BlockReferences`), which does the
 * same with these, and finds out what is wrong with others.
 *
 *   header (24) | 24 id 0 | flags | data length u16 | 28 tablespace, database, relation, block u32 |
 *   44 id 255 | main length u8 | 46 data | main data
 */
import {
  BKPBLOCK_HAS_DATA,
  BLOCK_ID_DATA_SHORT,
  MAIN_FORK,
  MIN_CUSTOM_RMGR,
  RMGR,
} from '#libs/wal/format.ts'
import { IN_SLICE, type RecordFramer } from '#libs/wal/record-framer.ts'
import { ValueKind } from '../keyspace/key-class.ts'
import type { IngestContext } from './ingest-context.ts'
import { leavesVisibility } from './visibility-map.ts'

const BLOCK_HEADER = 24
const RELATION = 28
const DATA_HEADER = 44
const DATA = 46
/** The first byte of a block header that is id 0 with data of a main fork; then two of length. */
const ID_AND_FLAGS = MAIN_FORK << 8
const ID_AND_FLAGS_WITH_DATA = (MAIN_FORK | BKPBLOCK_HAS_DATA) << 8

export class PlainRecords {
  readonly #context: IngestContext
  /** By resource manager: 1 = its records are about pages. */
  readonly #isOfPages: Uint8Array

  /** `isOfPages` tells which resource managers have records that are about pages. */
  constructor(context: IngestContext, isOfPages: (rmid: number) => boolean) {
    this.#context = context
    this.#isOfPages = Uint8Array.from({ length: 256 }, (_, rmid) =>
      rmid < MIN_CUSTOM_RMGR && isOfPages(rmid) ? 1 : 0,
    )
  }

  /** Puts the record's version; false when it is no such record, and then nothing is done. */
  take(framer: RecordFramer, index: number): boolean {
    const length = framer.length[index] as number
    const rmid = framer.rmid[index] as number
    if (length < DATA || framer.place[index] !== IN_SLICE || this.#isOfPages[rmid] === 0) {
      return false
    }
    const view = framer.sliceView
    const at = framer.offset[index] as number
    const head = view.getUint32(at + BLOCK_HEADER, true)
    const dataLength = head >>> 16
    if ((head & 0xffff) !== (dataLength === 0 ? ID_AND_FLAGS : ID_AND_FLAGS_WITH_DATA)) return false
    const tail = view.getUint16(at + DATA_HEADER, true)
    const mainLength = tail >>> 8
    if ((tail & 0xff) !== BLOCK_ID_DATA_SHORT || DATA + dataLength + mainLength !== length) {
      return false
    }
    if (rmid === RMGR.HEAP || rmid === RMGR.HEAP2) {
      const info = view.getUint8(at + 16)
      if (!leavesVisibility(rmid, info, view, at + DATA + dataLength, mainLength)) return false
    }
    const { relations, target } = this.#context
    const relation = relations.find(
      view.getUint32(at + RELATION, true),
      view.getUint32(at + RELATION + 4, true),
      view.getUint32(at + RELATION + 8, true),
      MAIN_FORK,
    )
    const block = view.getUint32(at + RELATION + 12, true)
    if (block >= (relations.size[relation] as number)) return false
    const slot = relations.blockSlot[relation] as number
    const shard = target.shard ?? null
    if (shard === null || shard.keeps(slot, block)) {
      const lsn = framer.endLsn[index] as number
      target.put(slot, block, lsn, ValueKind.Record, framer.slice, at, length)
      this.#context.keptBytes += length
    }
    return true
  }
}
