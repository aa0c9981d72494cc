/**
 * Which keys get image layers next: a pure decision over the layer map.
 *
 * The key space is cut into columns where image layers begin and end, so columns are what earlier
 * images made them: about one image file each. A column is due when the deltas above its last image
 * weigh half of what an image of it weighs, when a read of what changes comes to several of them, or
 * when there are many. Its image holds the keys that changed since the last one (a floor says so);
 * after several such, or when those weigh half the column, one that holds all keys and stands for
 * all before it.
 *
 * Images lie at the boundary between L0 and L1: the inputs are cut by keys, no delta reaches across,
 * and L0 layers above can still be merged.
 */
import type { Lsn } from '#libs/lsn.ts'
import type { KeyRange } from '../keyspace/key-range.ts'
import { LayerKind } from '../layers/layer-name.ts'
import type { ColumnState } from './column-depth.ts'
import {
  bytesOf,
  type Column,
  columnsOf,
  isSnapshot,
  isWhole,
  neededImages,
  type PlanLayer,
  type Share,
} from './image-columns.ts'

export interface ImageLimits {
  /** Deltas of a column that weigh less are left alone. */
  imageDeltaBytes: number
  /** A column is due when reads of what changes in it visit so many of its deltas on average. */
  imageDepth: number
  /** A column with so many deltas above its image is due, whatever they weigh. */
  imageAfterDeltas: number
  /** So many images of what changed, then one of all keys. */
  maxImageSets: number
  imageLayerBytes: number
}

export interface ImagePlan<L extends PlanLayer> extends KeyRange {
  imageLsn: Lsn
  /** A key that the image lacks has no version that matters in [floorLsn, imageLsn]. */
  floorLsn: Lsn
  /** Layers whose keys are imaged, as far as they lie in the range. */
  inputs: L[]
  /** 1 or more = due. */
  urgency: number
  /** Those of the inputs that make it due, newest first: all above `sinceLsn`. */
  deltas: L[]
  sinceLsn: Lsn
  /** It is due only if the column is as deep as `depthBound` says. */
  isForDepth: boolean
}

/** The LSN at which images are made: just below the L0 layers, and durable. */
export function boundaryLsn(layers: readonly PlanLayer[], durableLsn: Lsn): Lsn {
  let newestImageLsn = -1
  for (const { id } of layers) {
    if (id.kind === LayerKind.Image) newestImageLsn = Math.max(newestImageLsn, id.startLsn)
  }
  let boundary = durableLsn
  for (const layer of layers) {
    const { startLsn } = layer.id
    // An L0 layer below images holds nothing up, nor does an import.
    if (layer.isL0 && !isSnapshot(layer) && startLsn > newestImageLsn) {
      boundary = Math.min(boundary, startLsn - 1)
    }
  }
  return boundary
}

export interface ImageState<L extends PlanLayer> {
  layers: readonly L[]
  imageLsn: Lsn
  /** Lowest LSN that a version of the timeline itself can have. */
  oldestLsn: Lsn
  /** True of deltas that bottom-most compaction wrote: reads of them are short. */
  isSettled: (layer: L) => boolean
  /** Upper bound of how deep a column with so many deltas is; see `column-depth.ts`. */
  depthBound: (column: ColumnState, count: number) => number
  /** Every column with deltas counts as due. */
  all: boolean
}

/** The columns that are due, most urgent first. */
export function planImages<L extends PlanLayer>(
  state: ImageState<L>,
  limits: ImageLimits,
): ImagePlan<L>[] {
  const plans: ImagePlan<L>[] = []
  if (!isWhole(state.layers, state.imageLsn)) return plans
  for (const column of columnsOf(state.layers, limits.imageLayerBytes)) {
    const plan = planColumn(column, state, limits)
    if (plan && (plan.urgency >= 1 || state.all)) plans.push(plan)
  }
  return plans.sort((a, b) => b.urgency - a.urgency)
}

function planColumn<L extends PlanLayer>(
  column: Column<L>,
  { imageLsn, oldestLsn, isSettled, depthBound, all }: ImageState<L>,
  limits: ImageLimits,
): ImagePlan<L> | null {
  const { firstKey, lastKey } = column
  const images = neededImages(column, oldestLsn)
  const newest = images[0]?.layer
  if (newest && newest.id.startLsn >= imageLsn) return null
  const below = column.deltas.filter(({ layer }) => layer.id.startLsn <= imageLsn)
  // A delta that reaches across would be applied on top of the image.
  if (below.some(({ layer }) => layer.endLsn > imageLsn + 1)) return null
  const floorLsn = newest ? newest.id.startLsn + 1 : oldestLsn
  const deltas = below.filter(({ layer }) => layer.endLsn > floorLsn)
  const counted = deltas.filter(({ layer }) => !isSettled(layer))
  if (counted.length === 0) return null
  const threshold = Math.max(bytesOf(images) / 2, limits.imageDeltaBytes)
  const { length } = counted
  const sure = Math.max(bytesOf(counted) / threshold, length / limits.imageAfterDeltas)
  const deep = depthBound({ firstKey, lastKey, sinceLsn: floorLsn }, length) / limits.imageDepth
  const inputs = deltas.map(({ layer }) => layer)
  const plan = {
    ...{ firstKey, lastKey, imageLsn, floorLsn, inputs },
    urgency: Math.max(sure, deep),
    deltas: counted.map(({ layer }) => layer),
    sinceLsn: floorLsn,
    isForDepth: !all && sure < 1 && deep >= 1,
  }
  if (!newest || !isWorthAll(images, limits.maxImageSets)) return plan
  const gaps = gapsBetween(images, oldestLsn)
  const untold = below.filter(({ layer }) => !inputs.includes(layer) && liesIn(layer, gaps))
  const keyed = [...inputs, ...[...untold, ...images].map(({ layer }) => layer)]
  return { ...plan, floorLsn: oldestLsn, inputs: keyed }
}

/** LSNs, both ends included. */
type Span = readonly [fromLsn: Lsn, toLsn: Lsn]

/**
 * The LSNs below the newest image of which no image tells. There are some when bottom-most compaction has put
 * a delta in the place of images that lay below others, and when a timeline was taken over from
 * its ancestor.
 */
function gapsBetween(images: readonly Share<PlanLayer>[], oldestLsn: Lsn): Span[] {
  const gaps: Span[] = []
  let toldFromLsn = Number.POSITIVE_INFINITY
  for (const { layer } of images) {
    const { startLsn, floorLsn } = layer.id
    if (startLsn + 1 < toldFromLsn && Number.isFinite(toldFromLsn)) {
      gaps.push([startLsn + 1, toldFromLsn - 1])
    }
    toldFromLsn = Math.min(toldFromLsn, floorLsn)
  }
  if (toldFromLsn > oldestLsn) gaps.push([oldestLsn, toldFromLsn - 1])
  return gaps
}

function liesIn({ id, endLsn }: PlanLayer, spans: readonly Span[]): boolean {
  return spans.some(([fromLsn, toLsn]) => id.startLsn <= toLsn && endLsn > fromLsn)
}

/** True when images of what changed weigh half as much as the lowest one, or are many. */
function isWorthAll(images: readonly Share<PlanLayer>[], maxImageSets: number): boolean {
  const lsns = new Set(images.map(({ layer }) => layer.id.startLsn))
  const lowestLsn = Math.min(...lsns)
  const lowest = bytesOf(images.filter(({ layer }) => layer.id.startLsn === lowestLsn))
  return lsns.size >= maxImageSets || (bytesOf(images) - lowest) * 2 >= lowest
}
