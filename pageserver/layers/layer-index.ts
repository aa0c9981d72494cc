/**
 * The resident index of one layer: which chunk holds which key. It is per key and not per version,
 * and answers "does this layer finish the key" without reading data. Rows are those of the section
 * (`index-section.ts`), in fewer bytes: 11 to 15 a row in a delta, 4 in an image, and 17 to 19 a
 * chunk.
 *
 * - Rows lie in the order of chunks, and their entries one after the other: the chunk of a row is
 *   found by search, the number of its entries is the distance to the next row.
 * - Where every row has one entry, its place in the chunk is that of the row.
 * - Chunks lie in the file one after the other, so a chunk ends where the next begins.
 * - Mostly the version of a row that needs nothing older is its first one, or there is none. Two bits
 *   say so; only for other rows an LSN of it is kept.
 * - LSNs are distances from the lowest one, in units that make 32 bits enough: 1, unless the layer
 *   spans 4 GiB of WAL or more. Then an LSN is known as a range, and only what holds for all of the
 *   range is concluded from it.
 */
import { ZenithError } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import { type IndexCounts, type SectionColumns, sectionColumns } from './index-section.ts'
import { LayerKind } from './layer-name.ts'
import { RowBases } from './row-bases.ts'

export interface IndexColumns {
  groupFirstRow: Uint32Array
  rowBlk: Uint32Array
  /** Where each chunk begins in the file, then where the last one ends. */
  chunkStart: Uint32Array | Float64Array
  chunkRaw: Uint32Array
  chunkCrc: Uint32Array
  chunkCodec: Uint8Array
}

/** Distances that 32 bits hold, one value being that for "none". */
const MAX_DISTANCE = 0xffffffff - 1

export class LayerIndex {
  readonly counts: IndexCounts
  readonly columns: IndexColumns
  /** Slot of each group, so that scans need no lookups. */
  readonly groupSlot: Uint32Array
  /** LSNs are known up to so many bytes, less one. */
  readonly lsnUnit: number
  readonly #lowestLsn: Lsn
  /** Distance of the first version of each row. Empty in an image. */
  readonly #rowFirst: Uint32Array
  readonly #bases: RowBases
  /** First entry of each row in its chunk; empty when each row has one entry. */
  readonly #rowEntry: Uint16Array
  readonly #chunkFirstRow: Uint32Array
  /** Entries of each chunk; empty when each row has one. */
  readonly #chunkEntries: Uint16Array
  readonly #slots: SlotTable
  /** What was asked for last: the keys of a read mostly share their prefix. */
  #foundSlot = -1
  #foundGroup = -1
  /** Rows are mostly asked for in their order. */
  #foundChunk = 0

  /** `section` is the stored form. Throws `corrupt` when it is none. */
  constructor(kind: LayerKind, counts: IndexCounts, section: Buffer, slots: SlotTable) {
    const { groups, rows, chunks } = counts
    const stored = sectionColumns(kind, counts, section)
    const isDelta = kind === LayerKind.Delta
    const lsns = isDelta ? lsnRange(stored) : { lowestLsn: 0, unit: 1 }
    const hasEntries = stored.rowCount.some((count) => count !== 1)
    const lsnRows = isDelta ? rows : 0
    const [entryRows, entryChunks] = hasEntries ? [rows, chunks] : [0, 0]
    const fileEnd = endOf(stored)
    const startBytes = fileEnd < 2 ** 32 ? 4 : 8
    const words = groups + groups + 1 + rows + lsnRows + chunks + 1 + 2 * chunks
    const memory = new ArrayBuffer(
      startBytes * (chunks + 1) + 4 * words + 2 * (entryRows + entryChunks) + chunks,
    )
    let at = 0
    const next = <T>(
      column: new (m: ArrayBuffer, at: number, n: number) => T,
      n: number,
      size = 4,
    ) => {
      const made = new column(memory, at, n)
      at += n * size
      return made
    }
    this.counts = { groups, rows, chunks }
    this.#slots = slots
    this.#lowestLsn = lsns.lowestLsn
    this.lsnUnit = lsns.unit
    const chunkStart =
      startBytes === 4 ? next(Uint32Array, chunks + 1) : next(Float64Array, chunks + 1, 8)
    this.groupSlot = next(Uint32Array, groups)
    const groupFirstRow = next(Uint32Array, groups + 1)
    const rowBlk = next(Uint32Array, rows)
    this.#rowFirst = next(Uint32Array, lsnRows)
    this.#chunkFirstRow = next(Uint32Array, chunks + 1)
    const chunkRaw = next(Uint32Array, chunks)
    const chunkCrc = next(Uint32Array, chunks)
    this.#rowEntry = next(Uint16Array, entryRows, 2)
    this.#chunkEntries = next(Uint16Array, entryChunks, 2)
    const chunkCodec = next(Uint8Array, chunks, 1)
    chunkStart.set(stored.chunkOffset)
    chunkStart[chunks] = fileEnd
    groupFirstRow.set(stored.groupFirstRow)
    rowBlk.set(stored.rowBlk)
    chunkRaw.set(stored.chunkRaw)
    chunkCrc.set(stored.chunkCrc)
    chunkCodec.set(stored.chunkCodec)
    this.#rowEntry.set(stored.rowEntry.subarray(0, entryRows))
    this.columns = { groupFirstRow, rowBlk, chunkStart, chunkRaw, chunkCrc, chunkCodec }
    this.#bases = this.#takeLsns(stored)
    this.#takeChunks(stored)
    this.#internGroups(stored)
  }

  /** Memory held. */
  get sizeBytes(): number {
    return this.columns.rowBlk.buffer.byteLength + this.#bases.sizeBytes
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
      if (this.#slots.cls(this.groupSlot[middle] as number) < cls) low = middle + 1
      else high = middle
    }
    return low
  }

  /** The chunk that holds a row. */
  chunkOf(row: number): number {
    const firstRow = this.#chunkFirstRow
    let low = this.#foundChunk
    if (row < (firstRow[low] as number) || row >= (firstRow[low + 1] as number)) {
      const isNext = row === firstRow[low + 1]
      low = isNext ? low + 1 : 0
      let high = isNext ? low + 1 : this.counts.chunks
      while (high - low > 1) {
        const middle = (low + high) >>> 1
        if ((firstRow[middle] as number) <= row) low = middle
        else high = middle
      }
      this.#foundChunk = low
    }
    return low
  }

  /** First entry of a row in its chunk. */
  entryOf(row: number): number {
    if (this.#rowEntry.length > 0) return this.#rowEntry[row] as number
    return row - (this.#chunkFirstRow[this.chunkOf(row)] as number)
  }

  /** How many entries a row has. */
  countOf(row: number): number {
    if (this.#rowEntry.length === 0) return 1
    const chunk = this.chunkOf(row)
    const isLast = row + 1 === this.#chunkFirstRow[chunk + 1]
    const end = isLast ? this.#chunkEntries[chunk] : this.#rowEntry[row + 1]
    return (end as number) - (this.#rowEntry[row] as number)
  }

  /** LSN of the first version of a delta's row: this, or less than `lsnUnit` above. */
  firstLsn(row: number): Lsn {
    return this.#lowestLsn + (this.#rowFirst[row] as number) * this.lsnUnit
  }

  /**
   * Highest LSN in a delta's row of a version that needs nothing older: this, or less than `lsnUnit`
   * above. Null = none.
   */
  baseLsn(row: number): Lsn | null {
    const distance = this.#bases.distance(row, this.#rowFirst)
    return distance < 0 ? null : this.#lowestLsn + distance * this.lsnUnit
  }

  #takeLsns({ rowFirstLsn, rowBaseLsn }: SectionColumns): RowBases {
    const unit = this.lsnUnit
    for (let row = 0; row < rowFirstLsn.length; row++) {
      this.#rowFirst[row] = Math.floor(((rowFirstLsn[row] as number) - this.#lowestLsn) / unit)
    }
    const distanceOf = (row: number) => {
      const base = rowBaseLsn[row] as number
      return base === 0 ? -1 : Math.floor((base - this.#lowestLsn) / unit)
    }
    return new RowBases(this.#rowFirst, distanceOf)
  }

  #takeChunks({ rowChunk, rowEntry, rowCount }: SectionColumns): void {
    const { rows, chunks } = this.counts
    const hasEntries = this.#chunkEntries.length > 0
    let chunk = -1
    let entries = 0
    for (let row = 0; row < rows; row++) {
      if (rowChunk[row] !== chunk) {
        if (chunk >= 0 && hasEntries) this.#chunkEntries[chunk] = entries
        chunk++
        entries = 0
        this.#chunkFirstRow[chunk] = row
      }
      if (rowChunk[row] !== chunk || rowEntry[row] !== entries) {
        throw new ZenithError('corrupt', 'the rows of a layer index do not follow its chunks')
      }
      entries += rowCount[row] as number
    }
    if (chunk + 1 !== chunks) {
      throw new ZenithError('corrupt', 'a layer index has chunks without rows')
    }
    if (chunk >= 0 && hasEntries) this.#chunkEntries[chunk] = entries
    this.#chunkFirstRow[chunks] = rows
  }

  #internGroups(stored: SectionColumns): void {
    for (let group = 0; group < this.counts.groups; group++) {
      this.groupSlot[group] = this.#slots.intern(
        stored.groupCls[group] as number,
        stored.groupSpc[group] as number,
        stored.groupDb[group] as number,
        stored.groupRel[group] as number,
        stored.groupFork[group] as number,
      )
    }
  }
}

/** Where the last chunk ends. Throws `corrupt` when chunks do not follow one another. */
function endOf({ chunkOffset, chunkStored }: SectionColumns): number {
  let end = chunkOffset[0] ?? 0
  for (let chunk = 0; chunk < chunkOffset.length; chunk++) {
    if (chunkOffset[chunk] !== end) {
      throw new ZenithError('corrupt', 'the chunks of a layer do not follow one another')
    }
    end += chunkStored[chunk] as number
  }
  return end
}

/** Where distances of LSNs begin, and in which unit all of them fit. */
function lsnRange({ rowFirstLsn, rowBaseLsn }: SectionColumns): { lowestLsn: Lsn; unit: number } {
  let lowestLsn = Number.POSITIVE_INFINITY
  let highestLsn = 0
  for (let row = 0; row < rowFirstLsn.length; row++) {
    lowestLsn = Math.min(lowestLsn, rowFirstLsn[row] as number)
    highestLsn = Math.max(highestLsn, rowFirstLsn[row] as number, rowBaseLsn[row] as number)
  }
  let unit = 1
  while ((highestLsn - lowestLsn) / unit >= MAX_DISTANCE) unit *= 2
  return { lowestLsn, unit }
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
  const { groupFirstRow, rowBlk } = index.columns
  const slack = index.lsnUnit - 1
  const first = groupFirstRow[group] as number
  for (let row = index.findLastRow(group, blk); row >= first && rowBlk[row] === blk; row--) {
    const firstLsn = index.firstLsn(row)
    if (firstLsn >= ceilingLsn) continue
    visitor.visit(row)
    const baseLsn = index.baseLsn(row)
    if (baseLsn !== null && baseLsn + slack < ceilingLsn && baseLsn >= floorLsn) return true
    // Rows before hold nothing newer than this one's first version.
    if (firstLsn + slack < floorLsn) return false
  }
  return false
}
