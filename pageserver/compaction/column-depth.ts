/**
 * How deep a column has become: of how many of its deltas the read of a page that changes needs
 * data. Deltas over the same keys alone do not say: in a large table each may hold other pages of
 * them, and then a read comes to one. So it is looked up, for a sample of what the deltas hold.
 */
import type { Lsn } from '#libs/lsn.ts'
import type { KeyRange } from '../keyspace/key-range.ts'
import { formatKey } from '../keyspace/key.ts'
import type { SlotTable } from '../keyspace/slot-table.ts'
import { visitDeltaRows } from '../layers/layer-index.ts'
import { blocksInRange, type IndexedLayer, lowerBound, upperBound } from './range-keys.ts'

/** Keys that are looked up in all deltas of a column, a microsecond for each. */
const SAMPLES = 64

/**
 * The mean, over a sample of the rows in the range, of how many of the deltas (newest first) a read
 * just below the ceiling visits until the key is complete or the floor is reached. 0 without rows.
 */
export function sampledDepth(
  deltas: readonly IndexedLayer[],
  slots: SlotTable,
  range: KeyRange,
  floorLsn: Lsn,
  ceilingLsn: Lsn,
): number {
  const runs = deltas.flatMap((layer) => runsInRange(layer, slots, range))
  const total = runs.reduce((sum, { from, to }) => sum + to - from, 0)
  const step = Math.max(total / SAMPLES, 1)
  let sum = 0
  let count = 0
  let passed = 0
  for (const { layer, slot, from, to } of runs) {
    // Where the next sample lies, counted over the rows of all runs.
    for (let at = Math.ceil(passed / step) * step; at < passed + to - from; at += step) {
      const row = from + Math.min(Math.floor(at - passed), to - from - 1)
      const blk = layer.index.columns.rowBlk[row] as number
      if (!layer.counts(slot, blk)) continue
      sum += depthOf(deltas, slot, blk, floorLsn, ceilingLsn)
      count++
    }
    passed += to - from
  }
  return count === 0 ? 0 : sum / count
}

interface Run {
  layer: IndexedLayer
  slot: number
  /** Rows, the end exclusive. */
  from: number
  to: number
}

function runsInRange(layer: IndexedLayer, slots: SlotTable, range: KeyRange): Run[] {
  const { groupFirstRow, rowBlk } = layer.index.columns
  const runs: Run[] = []
  for (const [group, slot] of layer.index.groupSlot.entries()) {
    const bounds = blocksInRange(slots, slot, range)
    if (!bounds || !layer.countsPrefix(slot)) continue
    const first = groupFirstRow[group] as number
    const rows = rowBlk.subarray(first, groupFirstRow[group + 1])
    const from = first + lowerBound(rows, bounds.first)
    const to = first + upperBound(rows, bounds.last)
    if (to > from) runs.push({ layer, slot, from, to })
  }
  return runs
}

function depthOf(
  deltas: readonly IndexedLayer[],
  slot: number,
  blk: number,
  floorLsn: Lsn,
  ceilingLsn: Lsn,
): number {
  let depth = 0
  for (const { index } of deltas) {
    const group = index.findGroup(slot)
    if (group < 0) continue
    let visits = 0
    const visitor = { visit: () => visits++ }
    const isComplete = visitDeltaRows(index, group, blk, floorLsn, ceilingLsn, visitor)
    if (visits > 0) depth++
    if (isComplete) break
  }
  return depth
}

/**
 * What has been found of columns. A delta that comes makes one deeper by 1 at most, so a column is
 * looked at again only when it may have become deep enough.
 */
export class ColumnDepths {
  #known = new Map<string, Found>()
  /** What the planning under way has asked for. */
  #asked = new Map<string, Found>()

  /** Forgets the columns that `plan` does not ask for: they have newer images, or other bounds. */
  during<T>(plan: () => T): T {
    this.#asked = new Map()
    const result = plan()
    this.#known = this.#asked
    return result
  }

  /** A column with so many deltas is at most so deep. */
  bound(column: ColumnState, count: number): number {
    const name = nameOf(column)
    const found = this.#known.get(name)
    if (!found || found.count > count) return count
    this.#asked.set(name, found)
    return found.depth + count - found.count
  }

  /** True when it has been looked at as it is. */
  isExact(column: ColumnState, count: number): boolean {
    return this.#known.get(nameOf(column))?.count === count
  }

  note(column: ColumnState, count: number, depth: number): void {
    this.#known.set(nameOf(column), { count, depth })
  }
}

interface Found {
  count: number
  depth: number
}

/** A column, and where its deltas begin that count. */
export interface ColumnState extends KeyRange {
  sinceLsn: Lsn
}

function nameOf({ firstKey, lastKey, sinceLsn }: ColumnState): string {
  return `${formatKey(firstKey)} ${formatKey(lastKey)} ${sinceLsn}`
}
