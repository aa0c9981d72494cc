/**
 * Which layers no read can need any more. Pure.
 *
 * A state is readable when it is at or above the cutoff, or at a retained point below it. A layer is
 * removable when all it holds lies at or below the cutoff, and for every retained point at which it
 * is visible, images cover its whole key range with all that it says: an image at J with floor F
 * stands for the versions in [F, J], so J must be at or below the point, and the layer's own
 * versions within [F, J]. A point that an image serves serves the higher ones too, so only the
 * lowest one at which the layer is visible counts.
 *
 * An image whose content is covered goes the same way. What covers is always above what it covers,
 * and covers whatever that covered; so a whole chain can go at once.
 */
import type { Lsn } from '#libs/lsn.ts'
import { compareKeys, type Key, MAX_BLOCK } from '../keyspace/key.ts'
import { LayerKind } from '../layers/layer-name.ts'

/** What counts of a layer; `Layer` is one. */
export interface LayerShape {
  readonly id: {
    readonly kind: LayerKind
    readonly firstKey: Key
    readonly lastKey: Key
    readonly startLsn: Lsn
    readonly floorLsn: Lsn
  }
  /** Exclusive end of the versions that count. */
  readonly endLsn: Lsn
  /** The timeline it was taken over from: such a layer says nothing of classes not inherited. */
  readonly origin: string | null
}

interface KeyRange {
  first: Key
  last: Key
}

/** `points` as `retainedPoints` gives them: ascending, the last one is the cutoff. */
export function removableLayers<L extends LayerShape>(
  layers: readonly L[],
  points: readonly Lsn[],
): L[] {
  const cutoffLsn = points.at(-1)
  if (cutoffLsn === undefined) return []
  const images = layers.filter((layer) => layer.id.kind === LayerKind.Image)
  const coverage = new Map<string, KeyRange[]>()
  return layers.filter((layer) => {
    const { id, endLsn, origin } = layer
    if (endLsn > cutoffLsn + 1) return false
    const point = points.find((lsn) => lsn >= id.startLsn)
    if (point === undefined) return false
    const [low, high] = contentOf(layer)
    const bucket = `${low}/${high}/${point}/${origin === null}/${id.kind}`
    let ranges = coverage.get(bucket)
    if (ranges === undefined) {
      const covers = images.filter(
        (image) =>
          image.id.startLsn <= point &&
          image.id.floorLsn <= low &&
          image.id.startLsn >= (id.kind === LayerKind.Image ? high + 1 : high) &&
          (image.origin === null || origin !== null),
      )
      ranges = mergedRanges(covers)
      coverage.set(bucket, ranges)
    }
    return ranges.some(
      ({ first, last }) =>
        compareKeys(first, id.firstKey) <= 0 && compareKeys(last, id.lastKey) >= 0,
    )
  })
}

/** First and last LSN of what a layer says: of an image, since its floor. */
function contentOf({ id, endLsn }: LayerShape): [low: Lsn, high: Lsn] {
  return id.kind === LayerKind.Image ? [id.floorLsn, id.startLsn] : [id.startLsn, endLsn - 1]
}

/** The keys of the layers as ranges with gaps between them, ascending. */
function mergedRanges(layers: readonly LayerShape[]): KeyRange[] {
  const ranges: KeyRange[] = []
  const sorted = layers.toSorted((a, b) => compareKeys(a.id.firstKey, b.id.firstKey))
  for (const { id } of sorted) {
    const previous = ranges.at(-1)
    if (previous === undefined || compareKeys(id.firstKey, keyAfter(previous.last)) > 0) {
      ranges.push({ first: id.firstKey, last: id.lastKey })
    } else if (compareKeys(id.lastKey, previous.last) > 0) previous.last = id.lastKey
  }
  return ranges
}

const FIELDS = [
  ['blk', MAX_BLOCK],
  ['fork', 0xff],
  ['rel', MAX_BLOCK],
  ['db', MAX_BLOCK],
  ['spc', MAX_BLOCK],
  ['cls', 0xff],
] as const

/** The key that comes next; the last of all stays. */
function keyAfter(key: Key): Key {
  const next = { ...key }
  for (const [field, max] of FIELDS) {
    if (next[field] < max) {
      next[field]++
      return next
    }
    next[field] = 0
  }
  return key
}
