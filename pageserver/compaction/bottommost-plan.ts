/**
 * Which history below the cutoff is rewritten next: a pure decision over the layer map.
 *
 * A column is due when what lies at or below the horizon weighs twice what would be left of it. So
 * each byte is rewritten about once more, and what is kept stays below twice what is needed.
 */
import type { Lsn } from '#libs/lsn.ts'
import { type KeyRange, rangeCovers } from '../keyspace/key-range.ts'
import { LayerKind } from '../layers/layer-name.ts'
import {
  bytesOf,
  type Column,
  columnsOf,
  isWhole,
  type PlanLayer,
  type Share,
  standsForAll,
} from './image-columns.ts'

export interface BottomLimits {
  /** A column from which less can be gained is left alone. */
  bottomGainBytes: number
  imageLayerBytes: number
}

export interface BottomState<L extends PlanLayer> {
  layers: readonly L[]
  /** Where history ends that may be thinned out; see `horizonOf`. */
  horizonLsn: Lsn
  /** States below the horizon that must stay readable. */
  retainedPoints: readonly Lsn[]
  /** Lowest LSN that a version of the timeline itself can have. */
  oldestLsn: Lsn
  /** True of results of earlier runs: rewriting them alone gains nothing. */
  isSettled: (layer: L) => boolean
}

export interface BottomPlan<L extends PlanLayer> extends KeyRange {
  /** States that stay: ascending, the last is the horizon. */
  points: Lsn[]
  /** The state at the lowest point is there as an image already, and stays. */
  hasBase: boolean
  /** What is rewritten: all that lies at or below the horizon and is not hidden. */
  inputs: L[]
  /** What leaves the map. */
  remove: L[]
  /** Gain by what is left; 1 or more = due. */
  urgency: number
}

/**
 * The cutoff, or the boundary of L0 and L1 when that is lower: L0 layers are never rewritten. Null
 * when the state there cannot be read, since more was collapsed when the boundary was higher.
 */
export function horizonOf(
  layers: readonly PlanLayer[],
  cutoffLsn: Lsn,
  boundaryLsn: Lsn,
): Lsn | null {
  if (cutoffLsn <= boundaryLsn) return cutoffLsn
  return isWhole(layers, boundaryLsn) ? boundaryLsn : null
}

/** The columns that are due, most urgent first; with `all`, those with anything to gain. */
export function planBottom<L extends PlanLayer>(
  state: BottomState<L>,
  limits: BottomLimits,
  all = false,
): BottomPlan<L>[] {
  const { horizonLsn, oldestLsn, retainedPoints } = state
  const points = [...new Set([...retainedPoints, horizonLsn])]
    .filter((lsn) => lsn >= oldestLsn && lsn <= horizonLsn)
    .sort((a, b) => a - b)
  if (points.length === 0) return []
  const plans: BottomPlan<L>[] = []
  for (const column of columnsOf(state.layers, limits.imageLayerBytes)) {
    const plan = planColumn(column, points, state, limits)
    if (plan.urgency >= 1 || (all && plan.urgency > 0)) plans.push(plan)
  }
  return plans.sort((a, b) => b.urgency - a.urgency)
}

function planColumn<L extends PlanLayer>(
  column: Column<L>,
  points: Lsn[],
  state: BottomState<L>,
  limits: BottomLimits,
): BottomPlan<L> {
  const { horizonLsn, oldestLsn, isSettled } = state
  const { firstKey, lastKey } = column
  const lowestLsn = points[0] as Lsn
  const below = [...column.images, ...column.deltas].filter(
    ({ layer }) => layer.id.startLsn <= horizonLsn,
  )
  const full = column.images.filter(
    ({ layer }) => layer.id.startLsn <= horizonLsn && standsForAll(layer, oldestLsn),
  )
  const hiderLsn = full.find(({ layer }) => layer.id.startLsn <= lowestLsn)?.layer.id.startLsn ?? -1
  const isHider = (share: Share<L>) => full.includes(share) && share.layer.id.startLsn === hiderLsn
  const isHidden = (share: Share<L>) => share.layer.endLsn <= hiderLsn + 1 && !isHider(share)
  const hasBase = hiderLsn === lowestLsn
  const shares = below.filter((share) => !isHidden(share) && !(hasBase && isHider(share)))
  const inputs = shares.map(({ layer }) => layer)
  const fullLsn = full[0]?.layer.id.startLsn
  const fullBytes = bytesOf(full.filter(({ layer }) => layer.id.startLsn === fullLsn))
  // Images at the points would be made again, for the sake of reads.
  const isNeeded = ({ layer }: Share<L>) =>
    isSettled(layer) || (layer.id.kind === LayerKind.Image && points.includes(layer.id.startLsn))
  const left = Math.max(
    hasBase && fullLsn === lowestLsn ? 0 : fullBytes,
    bytesOf(shares.filter(isNeeded)),
  )
  const bytes = shares.reduce((sum, share) => sum + bytesWithin(share, hiderLsn, horizonLsn), 0)
  const hidden = below.filter(isHidden).map(({ layer }) => layer)
  return {
    firstKey,
    lastKey,
    points,
    hasBase,
    inputs,
    remove: [
      ...inputs.filter((layer) => isReplaced(layer, column, points)),
      ...hidden.filter((layer) => rangeCovers(column, layer.id)),
    ],
    urgency: (bytes - left) / Math.max(left, limits.bottomGainBytes),
  }
}

/**
 * True of an input that must leave the map, since states above the lowest point are stored anew: what
 * of it lies outside is copied. With one point only, what reaches out or across stays where it is:
 * the image at the point hides what is not needed.
 */
export function isCut(layer: PlanLayer, points: readonly Lsn[]): boolean {
  return points.length > 1 && layer.endLsn > (points[0] as Lsn) + 1
}

function isReplaced(layer: PlanLayer, range: KeyRange, points: readonly Lsn[]): boolean {
  if (isCut(layer, points)) return true
  return rangeCovers(range, layer.id) && layer.endLsn <= (points[0] as Lsn) + 1
}

/** What of a share lies in (hiderLsn, horizonLsn], if it is spread evenly over its LSNs. */
function bytesWithin(share: Share<PlanLayer>, hiderLsn: Lsn, horizonLsn: Lsn): number {
  const { id, endLsn } = share.layer
  if (id.kind === LayerKind.Image) return share.bytes
  const from = Math.max(id.startLsn, hiderLsn + 1)
  const to = Math.min(endLsn, horizonLsn + 1)
  return (share.bytes * (to - from)) / (endLsn - id.startLsn)
}
