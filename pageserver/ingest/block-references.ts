/**
 * What a record does to the blocks it names: a version for each, and longer forks.
 *
 * An image that redo would apply is stored as a page; everything else is the record itself, which
 * the redo process applies later. Map pages of heap records get operations instead
 * (visibility-map.ts).
 */
import { isNewPage, PAGE_SIZE, setPageLsn } from '#libs/pg/page.ts'
import {
  FSM_FORK,
  MAIN_FORK,
  RMGR,
  VM_FORK,
  XLOG_INFO,
  XLR_RMGR_INFO_MASK,
} from '#libs/wal/format.ts'
import { restoreImage } from '#libs/wal/page-image.ts'
import { ValueKind } from '../keyspace/key-class.ts'
import type { IngestContext } from './ingest-context.ts'
import { ABSENT } from './relation-table.ts'
import { ingestVisibility } from './visibility-map.ts'

const MAX_BLOCKS_PER_RECORD = 33
const ZERO_PAGE = Buffer.alloc(PAGE_SIZE)
/** Instead of a relation: the block belongs to none that is there. */
const NO_RELATION = 0xffffffff

/** True for the two XLOG records that consist of page images. */
export function isPageImage({ record }: IngestContext): boolean {
  const info = record.info & XLR_RMGR_INFO_MASK
  return record.rmid === RMGR.XLOG && (info === XLOG_INFO.FPI || info === XLOG_INFO.FPI_FOR_HINT)
}

export class BlockReferences {
  #context: IngestContext
  #page = Buffer.alloc(PAGE_SIZE)
  /** Forks that the record in hand makes longer. */
  #grown = new Uint32Array(MAX_BLOCKS_PER_RECORD)
  #grownCount = 0
  /** Relation of each block reference of the record in hand. */
  #relation = new Uint32Array(MAX_BLOCKS_PER_RECORD)

  constructor(context: IngestContext) {
    this.#context = context
  }

  /** Handles all references of the record. Throws `corrupt` before the first version is put. */
  ingest(): void {
    const context = this.#context
    const { record } = context
    if (record.blockCount === 0) return
    const heap = record.rmid === RMGR.HEAP || record.rmid === RMGR.HEAP2
    const images = record.rmid === RMGR.XLOG
    if (images) this.#checkImages()
    this.#growForks(images)
    if (heap) ingestVisibility(context)
    const shard = context.target.shard ?? null
    let isKept = false
    for (let index = 0; index < record.blockCount; index += 1) {
      if (this.#relation[index] === NO_RELATION) continue
      const slot = context.relations.blockSlot[this.#relation[index] as number] as number
      const block = record.block[index] as number
      if (shard !== null && !shard.keeps(slot, block)) continue
      if (record.appliesImage(index)) this.#putImage(index, slot, block)
      else if (!images && !(heap && record.fork[index] === VM_FORK)) {
        const kind = record.willInit(index) ? ValueKind.RecordInit : ValueKind.Record
        const { buffer, offset, length } = record
        context.target.put(slot, block, context.endLsn, kind, buffer, offset, length)
        isKept = true
      }
    }
    if (isKept && context.isInSlice) context.keptBytes += record.length
  }

  /** Hint records may name a block without its image, when full_page_writes is off; then ignore it. */
  #checkImages(): void {
    const context = this.#context
    const { record } = context
    if ((record.info & XLR_RMGR_INFO_MASK) === XLOG_INFO.FPI_FOR_HINT) return
    for (let index = 0; index < record.blockCount; index += 1) {
      if (!record.appliesImage(index)) {
        throw context.corrupt(`has no image of block ${record.block[index]}`)
      }
    }
  }

  /**
   * Makes forks long enough for the blocks that the record names. Blocks skipped become zero pages,
   * lest an older incarnation shows through; so does a new block whose record needs a page to work
   * on.
   */
  #growForks(imagesOnly: boolean): void {
    const context = this.#context
    const { record, relations } = context
    this.#grownCount = 0
    for (let index = 0; index < record.blockCount; index += 1) {
      const relation = relations.find(
        record.spc[index] as number,
        record.db[index] as number,
        record.rel[index] as number,
        record.fork[index] as number,
      )
      this.#relation[index] = relation
      const block = record.block[index] as number
      const size = relations.size[relation] as number
      if (block < size) continue
      const image = record.appliesImage(index)
      if (imagesOnly && !image) continue
      if (image && size === ABSENT && this.#isMapOfNothing(index)) {
        this.#relation[index] = NO_RELATION
        continue
      }
      const slot = relations.blockSlot[relation] as number
      for (let gap = size === ABSENT ? 0 : size; gap < block; gap += 1) {
        context.putZeroPage(slot, gap, context.belowLsn)
      }
      if (!image && !record.willInit(index)) context.putZeroPage(slot, block, context.belowLsn)
      relations.size[relation] = block + 1
      this.#noteGrown(relation)
    }
    for (let index = 0; index < this.#grownCount; index += 1) {
      const relation = this.#grown[index] as number
      context.putSize(relation, relations.size[relation] as number, context.belowLsn)
    }
  }

  /**
   * A map of a relation that is not there. Computes log a map's page when it leaves their memory,
   * and that may be between the commit that drops the relation and the end of its buffers. Redo
   * would leave a file to nobody.
   */
  #isMapOfNothing(index: number): boolean {
    const { record, relations } = this.#context
    const fork = record.fork[index]
    if (fork !== FSM_FORK && fork !== VM_FORK) return false
    const main = relations.find(
      record.spc[index] as number,
      record.db[index] as number,
      record.rel[index] as number,
      MAIN_FORK,
    )
    return relations.size[main] === ABSENT
  }

  #noteGrown(relation: number): void {
    for (let index = 0; index < this.#grownCount; index += 1) {
      if (this.#grown[index] === relation) return
    }
    this.#grown[this.#grownCount] = relation
    this.#grownCount += 1
  }

  /** Stores an image as redo would leave the page: with the record's end as its LSN. */
  #putImage(index: number, slot: number, block: number): void {
    const page = this.#page
    const { endLsn, record, target } = this.#context
    restoreImage(record, index, page)
    if (!isNewPage(page)) setPageLsn(page, endLsn)
    else if (page.equals(ZERO_PAGE)) {
      this.#context.putZeroPage(slot, block, endLsn)
      return
    }
    target.put(slot, block, endLsn, ValueKind.Image, page, 0, PAGE_SIZE)
  }
}
