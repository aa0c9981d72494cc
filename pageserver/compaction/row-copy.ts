/** Copies versions of a layer as they lie. */
import type { Lsn } from '#libs/lsn.ts'
import type { KeyRange } from '../keyspace/key-range.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import type { Layer } from '../layers/layer.ts'
import { chunkEntryLsn } from '../layers/layer-format.ts'
import { ChunkReader } from './chunk-reader.ts'
import type { LayerOutput } from './layer-output.ts'
import { blocksInRange } from './range-keys.ts'

/** All versions of the range's keys that count in the layer and lie above an LSN. */
export async function copyRows(
  layer: Layer,
  slots: SlotTable,
  range: KeyRange,
  aboveLsn: Lsn,
  output: LayerOutput,
): Promise<void> {
  const chunks = new ChunkReader(layer)
  const { index } = layer
  const { groupFirstRow, rowBlk } = index.columns
  for (const [group, slot] of index.groupSlot.entries()) {
    if (!layer.countsPrefix(slot)) continue
    const bounds = blocksInRange(slots, slot, range)
    if (!bounds) continue
    const end = groupFirstRow[group + 1] as number
    for (let row = groupFirstRow[group] as number; row < end; row++) {
      const blk = rowBlk[row] as number
      if (blk < bounds.first || blk > bounds.last || !layer.counts(slot, blk)) continue
      const number = index.chunkOf(row)
      const chunk = chunks.at(number) ?? (await chunks.load(number))
      let first = index.entryOf(row)
      let last = first + index.countOf(row)
      while (first < last && chunkEntryLsn(chunk, first) <= aboveLsn) first++
      while (first < last && chunkEntryLsn(chunk, last - 1) >= layer.endLsn) last--
      if (first === last) continue
      await output.cutBefore(slot, blk)
      await output.addRun(slot, blk, chunk, first, last - first)
    }
  }
}
