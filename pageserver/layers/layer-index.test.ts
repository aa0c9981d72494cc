import fc from 'fast-check'
import { expect, test } from 'vitest'
import { SlotTable } from '../keyspace/slot-table.ts'
import { sectionColumns } from './index-section.ts'
import { LayerIndex, visitDeltaRows } from './layer-index.ts'
import { LayerKind } from './layer-name.ts'

interface Row {
  /** Of the versions in the row, ascending. */
  lsns: number[]
  /** Place of the one that needs nothing older; -1 = none. */
  base: number
}

/** A layer with one key, each row in a chunk of its own behind `before` entries of another key. */
function indexOf(rows: readonly Row[], before: number): LayerIndex {
  const counts = { groups: 2, rows: 2 * rows.length, chunks: rows.length }
  const columns = sectionColumns(LayerKind.Delta, counts)
  // The rows of the other key, which only make chunks of several rows, lie in the first group.
  const other = { lsns: Array.from({ length: before }, () => rows[0]?.lsns[0] ?? 0), base: -1 }
  const all = [other, ...rows]
  columns.groupRel.set([1, 2])
  columns.groupFirstRow.set([0, 1, all.length])
  for (const [row, { lsns, base }] of all.entries()) {
    columns.rowFirstLsn[row] = lsns[0] as number
    columns.rowBaseLsn[row] = base < 0 ? 0 : (lsns[base] as number)
    columns.rowBlk[row] = 5
    columns.rowChunk[row] = Math.max(0, row - 1)
    columns.rowEntry[row] = row === 1 ? before : 0
    columns.rowCount[row] = lsns.length
  }
  return trimmed(columns, { ...counts, rows: all.length })
}

/** The same columns with fewer rows. */
function trimmed(
  from: ReturnType<typeof sectionColumns>,
  counts: { groups: number; rows: number; chunks: number },
): LayerIndex {
  const to = sectionColumns(LayerKind.Delta, counts)
  for (const name of Object.keys(to) as (keyof typeof to)[]) {
    to[name].set(from[name].subarray(0, to[name].length) as never)
  }
  return new LayerIndex(LayerKind.Delta, counts, Buffer.from(to.rowBlk.buffer), new SlotTable())
}

test('no row that a read needs is passed over, however far its LSNs lie apart', () => {
  const steps = fc.array(
    fc.record({
      count: fc.integer({ min: 1, max: 5 }),
      base: fc.integer({ min: -2, max: 4 }),
      gap: fc.constantFrom(1, 7, 2 ** 20, 2 ** 31, 2 ** 34 + 3),
    }),
    { minLength: 1, maxLength: 8 },
  )
  const place = fc.double({ min: 0, max: 1, noNaN: true })
  fc.assert(
    fc.property(steps, place, place, fc.integer({ min: 1, max: 9 }), (raw, a, b, before) => {
      let lsn = 5000
      const rows: Row[] = raw.map(({ count, base, gap }) => {
        const lsns = Array.from({ length: count }, () => (lsn += gap))
        return { lsns, base: Math.max(-1, Math.min(base, count - 1)) }
      })
      const index = indexOf(rows, before)
      const span = lsn + 2 - 5000
      const [floor, ceiling] = [a, b]
        .map((part) => 5000 + Math.floor(part * span))
        .sort((x, y) => x - y)
      const [floorLsn, ceilingLsn] = [floor as number, ceiling as number]
      const visited: number[] = []
      const done = visitDeltaRows(index, 1, 5, floorLsn, ceilingLsn, {
        visit: (row) => visited.push(row),
      })
      // What a read finds in all rows, and in those that it was given, newest first.
      const within = (some: readonly Row[]) => {
        const found: number[] = []
        for (const { lsns, base } of some.toReversed()) {
          for (let at = lsns.length - 1; at >= 0; at--) {
            const one = lsns[at] as number
            if (one >= ceilingLsn || one < floorLsn) continue
            found.push(one)
            if (at === base) return { found, ends: true }
          }
        }
        return { found, ends: false }
      }
      const expected = within(rows)
      // Only the highest base of a row is in the index, so a lower one counts as a record there.
      const given = within(visited.toReversed().map((row) => rows[row - 1] as Row))
      expect(given).toEqual(expected)
      if (done) expect(expected.ends).toBe(true)
      if (index.lsnUnit === 1) expect(done).toBe(expected.ends)
      for (const [number, { lsns }] of rows.entries()) {
        expect(index.chunkOf(number + 1)).toBe(number)
        expect(index.countOf(number + 1)).toBe(lsns.length)
        expect(index.entryOf(number + 1)).toBe(number === 0 ? before : 0)
      }
      expect(index.countOf(0)).toBe(before)
    }),
    { numRuns: 500 },
  )
})

test('what rows and chunks take; one of several chunks is found', () => {
  const counts = { groups: 1, rows: 3000, chunks: 300 }
  for (const kind of [LayerKind.Delta, LayerKind.Image]) {
    const columns = sectionColumns(kind, counts)
    const perRow = kind === LayerKind.Delta ? 3 : 1
    columns.groupFirstRow[1] = counts.rows
    for (let row = 0; row < counts.rows; row++) {
      columns.rowBlk[row] = 2 * row
      columns.rowChunk[row] = Math.floor(row / 10)
      columns.rowEntry[row] = (row % 10) * perRow
      columns.rowCount[row] = perRow
    }
    columns.rowFirstLsn.fill(77)
    // A tenth of the rows has a base that is not the first version.
    for (let row = 0; row < columns.rowBaseLsn.length; row++) {
      columns.rowBaseLsn[row] = row % 10 === 3 ? 80 + row : row % 2 === 0 ? 77 : 0
    }
    for (let chunk = 0; chunk < counts.chunks; chunk++) {
      columns.chunkOffset[chunk] = 40 + chunk * 10
      columns.chunkStored[chunk] = 10
    }
    const section = Buffer.from(columns.rowBlk.buffer)
    const index = new LayerIndex(kind, counts, section, new SlotTable())
    const isDelta = kind === LayerKind.Delta
    const baseBytes = isDelta ? 4 * (300 + 3 * Math.ceil(3000 / 32)) : 0
    const [rowBytes, chunkBytes] = isDelta ? [10, 19] : [4, 17]
    const wanted = rowBytes * counts.rows + chunkBytes * counts.chunks + baseBytes
    expect(index.sizeBytes).toBe(wanted + 4 + 8 + 4 + 4)
    expect([0, 1, 299, 300].map((chunk) => index.columns.chunkStart[chunk])).toEqual([
      40, 50, 3030, 3040,
    ])
    for (let row = 0; isDelta && row < counts.rows; row++) {
      expect(index.firstLsn(row)).toBe(77)
      expect(index.baseLsn(row)).toBe(row % 10 === 3 ? 80 + row : row % 2 === 0 ? 77 : null)
    }
    for (const row of [0, 9, 10, 11, 2999, 5, 1500, 1499]) {
      expect(index.findLastRow(0, 2 * row)).toBe(row)
      expect(index.chunkOf(row)).toBe(Math.floor(row / 10))
      expect(index.entryOf(row)).toBe((row % 10) * perRow)
      expect(index.countOf(row)).toBe(perRow)
    }
    const shifted = Buffer.concat([Buffer.alloc(3), section]).subarray(3)
    expect(new LayerIndex(kind, counts, shifted, new SlotTable()).chunkOf(2999)).toBe(299)
    for (const [column, row, value] of [
      ['rowEntry', 1234, 0],
      ['rowChunk', 1234, 124],
      ['rowChunk', 2999, 300],
      ['chunkOffset', 17, 209],
      ['chunkStored', 17, 11],
    ] as const) {
      const good = columns[column][row] as number
      columns[column][row] = value
      const bad = () => new LayerIndex(kind, counts, section, new SlotTable())
      expect(bad).toThrow('do not follow')
      columns[column][row] = good
    }
  }
})

test('chunks of a file beyond 4 GiB are found', () => {
  const counts = { groups: 1, rows: 3, chunks: 3 }
  const columns = sectionColumns(LayerKind.Image, counts)
  columns.groupFirstRow[1] = 3
  columns.rowChunk.set([0, 1, 2])
  columns.rowCount.fill(1)
  columns.chunkStored.set([2 ** 31, 2 ** 31, 500])
  columns.chunkOffset.set([40, 40 + 2 ** 31, 40 + 2 ** 32])
  const section = Buffer.from(columns.rowBlk.buffer)
  const { chunkStart } = new LayerIndex(LayerKind.Image, counts, section, new SlotTable()).columns
  expect([...chunkStart]).toEqual([40, 40 + 2 ** 31, 40 + 2 ** 32, 540 + 2 ** 32])
})
