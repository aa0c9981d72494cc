/**
 * What a range of WAL does to every block: the records to apply, and from which page on. A plain
 * map of everything, the opposite of the page server's layers, to check those and redo against.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseSegmentFileName, WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { DecodedRecord } from '#libs/wal/decoded-record.ts'
import { RMGR, XLR_RMGR_INFO_MASK } from '#libs/wal/format.ts'
import { IN_SLICE, RecordFramer } from '#libs/wal/record-framer.ts'
import { type RelationFork, relationKey } from './relation-files.ts'

/** XLOG_SMGR_TRUNCATE and its record: block u32 | spc, db, rel u32 | flags u32. */
const SMGR_TRUNCATE = 0x20
const TRUNCATE_HEAP = 1

export type BlockHistory = RelationFork & {
  blk: number
  /** True when the first record needs no older page. */
  startsFresh: boolean
  endLsns: number[]
  records: Buffer[]
}

export type WalHistory = {
  blocks: Map<string, BlockHistory>
  recordCount: number
  /** Start of the newest record. */
  lastRecordLsn: number
  /** How often each (resource manager, operation) touched a block. */
  operations: Map<string, number>
}

/**
 * Reads all segments of `walDir` from `startLsn`, the start of a record, to the end of the last
 * whole record. Histories start anew at a record that initialises the block or brings its image.
 */
export function readWalHistory(walDir: string, startLsn: number): WalHistory {
  const history: WalHistory = {
    blocks: new Map(),
    recordCount: 0,
    lastRecordLsn: startLsn,
    operations: new Map(),
  }
  const framer = new RecordFramer(startLsn)
  const record = new DecodedRecord()
  for (const [lsn, bytes] of walSlices(walDir, startLsn)) {
    if (lsn !== framer.nextLsn) break
    let ended = false
    try {
      framer.feed(bytes)
    } catch {
      // Behind the last record come zeros or an older generation of the file.
      ended = true
    }
    for (let index = 0; index < framer.count; index++) {
      const inSlice = framer.place[index] === IN_SLICE
      const buffer = inSlice ? framer.slice : framer.arena
      const view = inSlice ? framer.sliceView : framer.arenaView
      const offset = framer.offset[index] as number
      const length = framer.length[index] as number
      const start = framer.startLsn[index] as number
      record.decode(buffer, view, offset, length, start)
      addRecord(history, record, framer.endLsn[index] as number)
      history.recordCount++
      history.lastRecordLsn = start
    }
    if (ended) break
  }
  return history
}

/** The bytes of whole segment files from `startLsn` on, in pieces that each begin at their LSN. */
export function* walSlices(walDir: string, startLsn: number): Generator<[number, Buffer]> {
  const names = readdirSync(walDir)
    .filter((name) => parseSegmentFileName(name) !== null)
    .sort()
  for (const name of names) {
    const lsn = (parseSegmentFileName(name)?.segment ?? 0) * WAL_SEGMENT_SIZE
    if (lsn + WAL_SEGMENT_SIZE <= startLsn) continue
    const bytes = readFileSync(join(walDir, name))
    const skip = Math.max(startLsn - lsn, 0)
    yield [lsn + skip, bytes.subarray(skip)]
  }
}

function addRecord(history: WalHistory, record: DecodedRecord, endLsn: number): void {
  if (record.rmid === RMGR.STORAGE) addStorageRecord(history, record)
  let bytes: Buffer | null = null
  for (let index = 0; index < record.blockCount; index++) {
    const operation = `${record.rmid}/${record.info & XLR_RMGR_INFO_MASK}`
    history.operations.set(operation, (history.operations.get(operation) ?? 0) + 1)
    bytes ??= Buffer.from(record.buffer.subarray(record.offset, record.offset + record.length))
    const relation = {
      spc: record.spc[index] as number,
      db: record.db[index] as number,
      rel: record.rel[index] as number,
      fork: record.fork[index] as number,
    }
    const blk = record.block[index] as number
    const fresh = record.willInit(index) || record.appliesImage(index)
    const key = `${relationKey(relation)}:${blk}`
    let block = history.blocks.get(key)
    if (block === undefined || fresh) {
      block = { ...relation, blk, startsFresh: fresh, endLsns: [], records: [] }
      history.blocks.set(key, block)
    }
    block.endLsns.push(endLsn)
    block.records.push(bytes)
  }
}

/** Truncated blocks are gone; should they come back, it is as new pages. */
function addStorageRecord(history: WalHistory, record: DecodedRecord): void {
  if ((record.info & XLR_RMGR_INFO_MASK) !== SMGR_TRUNCATE) return
  const at = (index: number) => record.buffer.readUInt32LE(record.mainOffset + 4 * index)
  if ((at(4) & TRUNCATE_HEAP) === 0) return
  const first = at(0)
  for (const [key, block] of history.blocks) {
    const same = block.spc === at(1) && block.db === at(2) && block.rel === at(3)
    if (same && block.fork === 0 && block.blk >= first) history.blocks.delete(key)
  }
}
