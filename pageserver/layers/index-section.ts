/**
 * The index section of a layer file, as it is stored: which chunk holds which key, by rows sorted by
 * (prefix, blk, first LSN). A group is the rows of one prefix; a key whose versions fill several
 * chunks has one row for each. Each column starts at the next multiple of 8:
 *
 *   row first LSN f64 | row base LSN f64 (deltas only) | chunk offset f64 | group spc u32 | db u32 |
 *   rel u32 | first row u32 x (groups + 1) | row blk u32 | row chunk u32 | chunk stored u32 |
 *   chunk raw u32 | chunk crc32 u32 | row entry u16 | row count u16 | group cls u8 | group fork u8 |
 *   chunk codec u8
 */
import { ZenithError } from '#libs/errors.ts'
import { LayerKind } from './layer-name.ts'

export interface IndexCounts {
  groups: number
  rows: number
  chunks: number
}

export interface SectionColumns {
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

/**
 * Columns over one buffer, zeroed or as given, which is copied unless it is aligned. Throws `corrupt`
 * when the size does not fit.
 */
export function sectionColumns(
  kind: LayerKind,
  counts: IndexCounts,
  from?: Buffer,
): SectionColumns {
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
  const isAligned = from !== undefined && from.byteOffset % 8 === 0
  const memory = isAligned ? from.buffer : new ArrayBuffer(total)
  const start = isAligned ? from.byteOffset : 0
  if (from && !isAligned) new Uint8Array(memory).set(from)
  const at = (column: number) => start + (starts[column] as number)
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
