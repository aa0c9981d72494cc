/**
 * Which pages to read at which LSNs so that every record of a range of WAL that carries an image for
 * a consistency check is redone at least once, and as few times as possible more.
 *
 * The records of a block form chains: each begins with a full page (an image that redo applies, or a
 * record that initialises the page) or where the block did not exist. One read at the end of a chain
 * redoes all of it.
 */
import type { Lsn } from '#libs/lsn.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { RMGR, SMGR_TRUNCATE_HEAP, VM_FORK, XLR_RMGR_INFO_MASK } from '#libs/wal/format.ts'
import { restoreImage } from '#libs/wal/page-image.ts'
import { IN_SLICE, RecordFramer } from '#libs/wal/record-framer.ts'
import { PAGE_SIZE } from './relation-files.ts'
import { walSlices } from './wal-history.ts'

const SMGR_TRUNCATE = 0x20

export interface PlannedRead {
  spc: number
  db: number
  rel: number
  fork: number
  block: number
  lsn: Lsn
  /** Of a visibility map page: what its record says that it is; others are checked by redo. */
  image: Buffer | null
}

export interface ConsistencyPlan {
  reads: PlannedRead[]
  records: number
  /** Images that redo has to compare when all the reads have been done. */
  images: number
}

interface Chain {
  spc: number
  db: number
  rel: number
  fork: number
  block: number
  lastLsn: Lsn
  images: number
}

export class ConsistencyPlanner {
  readonly #chains = new Map<string, Chain>()
  readonly plan: ConsistencyPlan = { reads: [], records: 0, images: 0 }

  /** Takes in one record that ends at `endLsn`. */
  add(record: DecodedRecord, endLsn: Lsn): void {
    this.plan.records++
    const info = record.info & XLR_RMGR_INFO_MASK
    if (record.rmid === RMGR.STORAGE && info === SMGR_TRUNCATE) this.#truncate(record)
    for (let index = 0; index < record.blockCount; index++) this.#addBlock(record, index, endLsn)
  }

  /** Ends the chains that are still open. */
  finish(): ConsistencyPlan {
    for (const chain of this.#chains.values()) this.#end(chain)
    this.#chains.clear()
    return this.plan
  }

  #addBlock(record: DecodedRecord, index: number, endLsn: Lsn): void {
    const place = {
      spc: record.spc[index] as number,
      db: record.db[index] as number,
      rel: record.rel[index] as number,
      fork: record.fork[index] as number,
      block: record.block[index] as number,
    }
    const applied = record.appliesImage(index)
    const checked = (record.imageLength[index] as number) > 0 && !applied
    if (place.fork === VM_FORK) {
      if (!checked) return
      const image = Buffer.alloc(PAGE_SIZE)
      restoreImage(record, index, image)
      this.plan.reads.push({ ...place, lsn: endLsn, image })
      return
    }
    const key = `${place.spc}/${place.db}/${place.rel}/${place.fork}/${place.block}`
    let chain = this.#chains.get(key)
    if (chain === undefined || applied || record.willInit(index)) {
      if (chain !== undefined) this.#end(chain)
      chain = { ...place, lastLsn: endLsn, images: 0 }
      this.#chains.set(key, chain)
    }
    chain.lastLsn = endLsn
    if (checked) chain.images++
  }

  #end({ images, lastLsn: lsn, ...place }: Chain): void {
    if (images === 0) return
    this.plan.images += images
    this.plan.reads.push({ ...place, lsn, image: null })
  }

  /** Cut blocks may come back as new ones: block u32 | spc, db, rel u32 | flags u32. */
  #truncate(record: DecodedRecord): void {
    const at = (word: number) => record.buffer.readUInt32LE(record.mainOffset + 4 * word)
    if ((at(4) & SMGR_TRUNCATE_HEAP) === 0) return
    const prefix = `${at(1)}/${at(2)}/${at(3)}/0/`
    for (const [key, chain] of this.#chains) {
      if (!key.startsWith(prefix) || chain.block < at(0)) continue
      this.#end(chain)
      this.#chains.delete(key)
    }
  }
}

/** Plans for the records of the segments in `walDir` that end between the two LSNs. */
export function planConsistencyReads(walDir: string, startLsn: Lsn, endLsn: Lsn): ConsistencyPlan {
  const planner = new ConsistencyPlanner()
  const framer = new RecordFramer(startLsn)
  const record = new DecodedRecord()
  for (const [lsn, bytes] of walSlices(walDir, startLsn)) {
    if (lsn >= endLsn) break
    framer.feed(bytes.subarray(0, endLsn - lsn))
    for (let index = 0; index < framer.count; index++) {
      const inSlice = framer.place[index] === IN_SLICE
      record.decode(
        inSlice ? framer.slice : framer.arena,
        inSlice ? framer.sliceView : framer.arenaView,
        framer.offset[index] as number,
        framer.length[index] as number,
        framer.startLsn[index] as number,
      )
      planner.add(record, framer.endLsn[index] as number)
    }
  }
  return planner.finish()
}
