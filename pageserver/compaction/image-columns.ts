/**
 * The columns of the key space: ranges of keys that each image layer covers wholly or not at all.
 * They follow from the images that are there, so they are as wide as image files grow, and stay.
 */
import type { Lsn } from '#libs/lsn.ts'
import { compareKeys, type Key, MAX_KEY, MIN_KEY } from '../keyspace/key.ts'
import { isMaxKey, keyAfter, keyBefore, type KeyRange } from '../keyspace/key-range.ts'
import { type LayerId, LayerKind } from '../layers/layer-name.ts'

/** What a plan looks at; `Layer` has it. */
export interface PlanLayer {
  readonly id: LayerId
  /** Exclusive end of the versions that count. */
  readonly endLsn: Lsn
  readonly sizeBytes: number
  readonly isL0: boolean
}

/** A layer, and how many of its bytes lie in a column if they are spread evenly over its columns. */
export interface Share<L extends PlanLayer> {
  layer: L
  bytes: number
}

export interface Column<L extends PlanLayer> extends KeyRange {
  /** Newest first. Imports count as images. */
  images: Share<L>[]
  /** All others, newest first. */
  deltas: Share<L>[]
}

/** A delta of one LSN, as an import writes it: to reads of the tip it is as good as an image. */
export function isSnapshot({ id }: PlanLayer): boolean {
  return id.kind === LayerKind.Delta && id.endLsn <= id.startLsn + 1
}

/**
 * All columns in key order; together they are all keys. Neighbours with the same images are one
 * column while those weigh less than half of `wantedBytes`.
 */
export function columnsOf<L extends PlanLayer>(
  layers: readonly L[],
  wantedBytes: number,
): Column<L>[] {
  const starts = columnStarts(layers)
  const columns: Column<L>[] = starts.map((firstKey, index) => ({
    firstKey,
    lastKey: index + 1 < starts.length ? keyBefore(starts[index + 1] as Key) : MAX_KEY,
    images: [],
    deltas: [],
  }))
  const newestFirst = layers.toSorted((a, b) => b.endLsn - a.endLsn || b.id.kind - a.id.kind)
  for (const layer of newestFirst) {
    const first = columnOf(starts, layer.id.firstKey)
    const last = columnOf(starts, layer.id.lastKey)
    const share = { layer, bytes: layer.sizeBytes / (last - first + 1) }
    for (let index = first; index <= last; index++) {
      const { images, deltas } = columns[index] as Column<L>
      if (layer.id.kind === LayerKind.Delta && !isSnapshot(layer)) deltas.push(share)
      else images.push(share)
    }
  }
  return merged(columns, wantedBytes)
}

/**
 * The images that a read of the tip may come to: down to the set that stands for all below.
 * `oldestLsn` is the lowest LSN that a version of the timeline itself can have.
 */
export function neededImages<L extends PlanLayer>(
  { images }: Column<L>,
  oldestLsn: Lsn,
): Share<L>[] {
  const full = images.find(({ layer }) => standsForAll(layer, oldestLsn))
  if (!full) return images
  return images.filter(({ layer }) => layer.endLsn >= full.layer.endLsn)
}

/** True when no read that comes to the image, or to an import, goes on below it. */
export function standsForAll({ id }: PlanLayer, oldestLsn: Lsn): boolean {
  return id.floorLsn <= oldestLsn
}

/** Stored bytes of all shares together. */
export function bytesOf(shares: readonly Share<PlanLayer>[]): number {
  return shares.reduce((sum, { bytes }) => sum + bytes, 0)
}

/**
 * True when the state at the LSN can be read in every column: none has been collapsed to a state
 * above it, and no delta whose versions were thinned out reaches across.
 */
export function isWhole(layers: readonly PlanLayer[], lsn: Lsn): boolean {
  return layers.every((layer) => {
    if (layer.id.kind === LayerKind.Image) return layer.id.startLsn <= lsn
    return layer.isL0 || layer.id.startLsn > lsn || layer.endLsn <= lsn + 1
  })
}

/** Where a column begins, in key order. */
function columnStarts(layers: readonly PlanLayer[]): Key[] {
  const starts: Key[] = [MIN_KEY]
  for (const { id } of layers) {
    if (id.kind !== LayerKind.Image) continue
    starts.push(id.firstKey)
    if (!isMaxKey(id.lastKey)) starts.push(keyAfter(id.lastKey))
  }
  starts.sort(compareKeys)
  return starts.filter(
    (key, index) => index === 0 || compareKeys(starts[index - 1] as Key, key) < 0,
  )
}

/** Index of the column that holds the key. */
function columnOf(starts: readonly Key[], key: Key): number {
  let low = 0
  let high = starts.length - 1
  while (low < high) {
    const middle = (low + high + 1) >>> 1
    if (compareKeys(starts[middle] as Key, key) <= 0) low = middle
    else high = middle - 1
  }
  return low
}

function merged<L extends PlanLayer>(
  columns: readonly Column<L>[],
  wantedBytes: number,
): Column<L>[] {
  const result: Column<L>[] = []
  for (const column of columns) {
    const last = result[result.length - 1]
    const bytes = bytesOf(last?.images ?? []) + bytesOf(column.images)
    if (last && haveSameImages(last, column) && bytes < wantedBytes / 2) {
      result[result.length - 1] = {
        firstKey: last.firstKey,
        lastKey: column.lastKey,
        images: joined(last.images, column.images),
        deltas: joined(last.deltas, column.deltas),
      }
    } else result.push(column)
  }
  return result
}

function haveSameImages(a: Column<PlanLayer>, b: Column<PlanLayer>): boolean {
  return (
    a.images.length > 0 &&
    lsnsOf(a).length === lsnsOf(b).length &&
    lsnsOf(a).every((text, index) => text === lsnsOf(b)[index])
  )
}

/** LSN and floor of each set of images. */
function lsnsOf({ images }: Column<PlanLayer>): string[] {
  return [...new Set(images.map(({ layer }) => `${layer.id.startLsn} ${layer.id.floorLsn}`))]
}

/** Shares of neighbours, newest first; those of one layer are added. */
function joined<L extends PlanLayer>(a: readonly Share<L>[], b: readonly Share<L>[]): Share<L>[] {
  const bytes = new Map<L, number>()
  for (const share of [...a, ...b]) {
    bytes.set(share.layer, (bytes.get(share.layer) ?? 0) + share.bytes)
  }
  return [...bytes]
    .map(([layer, sum]) => ({ layer, bytes: sum }))
    .sort((x, y) => y.layer.endLsn - x.layer.endLsn || y.layer.id.kind - x.layer.id.kind)
}
