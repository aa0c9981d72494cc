/**
 * The resident index of one layer: which chunk holds which key. It is per key and not per version,
 * so it stays small (28 bytes a row in a delta, 12 in an image), and it answers "does this layer
 * finish the key" without reading data.
 *
 * Rows are sorted by (prefix, blk, first LSN); a group is the rows of one prefix. A key whose
 * versions fill several chunks has one row for each. Bytes of the section, each column starting at
 * the next multiple of 8:
 *
 *   row first LSN f64 | row base LSN f64 (deltas only) | chunk offset f64 | group spc u32 | db u32 |
 *   rel u32 | first row u32 x (groups + 1) | row blk u32 | row chunk u32 | chunk stored u32 |
 *   chunk raw u32 | chunk crc32 u32 | row entry u16 | row count u16 | group cls u8 | group fork u8 |
 *   chunk codec u8
 */
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import { LayerKind } from './layer-name.ts'

export interface IndexCounts {
  groups: number
  rows: number
  chunks: number
}

export interface IndexColumns {
  rowFirstLsn: Float64Array
  /** Highest LSN in the row of a version that needs nothing older; 0 = none. */
  rowBaseLsn: Float64Array
  chunkOffset: Float64Array
  groupSpc: Uint32Array
  groupDb: Uint32Array
  groupRel: Uint32Array
  groupFirstRow: Uint32Array
  rowBlk: Uint32Array
  rowChunk: Uint32Array
  chunkStored: Uint32Array
  chunkRaw: Uint32Array
  chunkCrc: Uint32Array
  rowEntry: Uint16Array
  rowCount: Uint16Array
  groupCls: Uint8Array
  groupFork: Uint8Array
  chunkCodec: Uint8Array
}

/** Columns over one buffer, zeroed or as given. Throws `corrupt` when the size does not fit. */
export function indexColumns(kind: LayerKind, counts: IndexCounts, from?: Buffer): IndexColumns {
  const { groups, rows, chunks } = counts
  const lsnRows = kind === LayerKind.Delta ? rows : 0
  const sizes = [8 * lsnRows, 8 * lsnRows, 8 * chunks, 4 * groups, 4 * groups, 4 * groups]
  sizes.push(4 * (groups + 1), 4 * rows, 4 * rows, 4 * chunks, 4 * chunks, 4 * chunks)
  sizes.push(2 * rows, 2 * rows, groups, groups, chunks)
  const starts: number[] = []
  let total = 0
  for (const size of sizes) {
    starts.push(total)
    total += Math.ceil(size / 8) * 8
  }
  if (from && from.length !== total) {
    throw new ZenithError('corrupt', `a layer index has ${from.length} bytes in place of ${total}`)
  }
  const memory = new ArrayBuffer(total)
  if (from) new Uint8Array(memory).set(from)
  const at = (column: number) => starts[column] as number
  return {
    rowFirstLsn: new Float64Array(memory, at(0), lsnRows),
    rowBaseLsn: new Float64Array(memory, at(1), lsnRows),
    chunkOffset: new Float64Array(memory, at(2), chunks),
    groupSpc: new Uint32Array(memory, at(3), groups),
    groupDb: new Uint32Array(memory, at(4), groups),
    groupRel: new Uint32Array(memory, at(5), groups),
    groupFirstRow: new Uint32Array(memory, at(6), groups + 1),
    rowBlk: new Uint32Array(memory, at(7), rows),
    rowChunk: new Uint32Array(memory, at(8), rows),
    chunkStored: new Uint32Array(memory, at(9), chunks),
    chunkRaw: new Uint32Array(memory, at(10), chunks),
    chunkCrc: new Uint32Array(memory, at(11), chunks),
    rowEntry: new Uint16Array(memory, at(12), rows),
    rowCount: new Uint16Array(memory, at(13), rows),
    groupCls: new Uint8Array(memory, at(14), groups),
    groupFork: new Uint8Array(memory, at(15), groups),
    chunkCodec: new Uint8Array(memory, at(16), chunks),
  }
}

export class LayerIndex {
  readonly counts: IndexCounts
  readonly columns: IndexColumns
  /** Slot of each group, so that scans need no lookups. */
  readonly groupSlot: Uint32Array
  readonly #slots: SlotTable
  /** What was asked for last: the keys of a read mostly share their prefix. */
  #foundSlot = -1
  #foundGroup = -1

  constructor(kind: LayerKind, counts: IndexCounts, section: Buffer, slots: SlotTable) {
    const columns = indexColumns(kind, counts, section)
    this.counts = counts
    this.columns = columns
    this.#slots = slots
    this.groupSlot = new Uint32Array(counts.groups)
    for (let group = 0; group < counts.groups; group++) {
      this.groupSlot[group] = slots.intern(
        columns.groupCls[group] as number,
        columns.groupSpc[group] as number,
        columns.groupDb[group] as number,
        columns.groupRel[group] as number,
        columns.groupFork[group] as number,
      )
    }
  }

  /** Memory held. */
  get sizeBytes(): number {
    return this.columns.rowBlk.buffer.byteLength + this.groupSlot.byteLength
  }

  /** Group of a slot, or -1. */
  findGroup(slot: number): number {
    if (slot !== this.#foundSlot) {
      this.#foundSlot = slot
      this.#foundGroup = this.#searchGroup(slot)
    }
    return this.#foundGroup
  }

  #searchGroup(slot: number): number {
    let low = 0
    let high = this.counts.groups - 1
    while (low <= high) {
      const middle = (low + high) >>> 1
      const found = this.groupSlot[middle] as number
      if (found === slot) return middle
      if (this.#slots.compare(found, slot) < 0) low = middle + 1
      else high = middle - 1
    }
    return -1
  }

  /** Last row of the block in the group (its newest), or -1. */
  findLastRow(group: number, blk: number): number {
    const { groupFirstRow, rowBlk } = this.columns
    const first = groupFirstRow[group] as number
    let low = first
    let high = groupFirstRow[group + 1] as number
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((rowBlk[middle] as number) <= blk) low = middle + 1
      else high = middle
    }
    return low > first && rowBlk[low - 1] === blk ? low - 1 : -1
  }

  /** First group at or after a class. */
  firstGroupOfClass(cls: number): number {
    let low = 0
    let high = this.counts.groups
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.columns.groupCls[middle] as number) < cls) low = middle + 1
      else high = middle
    }
    return low
  }
}

/** Where a version of a key may lie in a layer, as the planner sees it. */
export interface RowVisitor {
  visit(row: number): void
}

/**
 * Visits the rows of a key in a delta that may hold versions from the floor on and below the
 * ceiling, newest first, until one surely completes the key. Returns true in that case.
 */
export function visitDeltaRows(
  index: LayerIndex,
  group: number,
  blk: number,
  floorLsn: Lsn,
  ceilingLsn: Lsn,
  visitor: RowVisitor,
): boolean {
  const { groupFirstRow, rowBlk, rowFirstLsn, rowBaseLsn } = index.columns
  const first = groupFirstRow[group] as number
  for (let row = index.findLastRow(group, blk); row >= first && rowBlk[row] === blk; row--) {
    const firstLsn = rowFirstLsn[row] as number
    if (firstLsn >= ceilingLsn) continue
    visitor.visit(row)
    const baseLsn = rowBaseLsn[row] as number
    if (baseLsn !== 0 && baseLsn < ceilingLsn && baseLsn >= floorLsn) return true
    // Rows before hold nothing newer than this one's first version.
    if (firstLsn < floorLsn) return false
  }
  return false
}
