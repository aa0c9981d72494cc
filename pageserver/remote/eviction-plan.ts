/** Which local files go when the disk is too full. Pure: the files and the need in, a list out. */
import type { Lsn } from '#libs/lsn.ts'
import { compareKeys, type Key } from '../keyspace/key.ts'

export interface EvictionCandidate {
  tenantId: string
  sizeBytes: number
  lastAccessMs: number
  /** End of its history: of files that were used at one time the older go first. */
  endLsn: Lsn
  /** Newer images stand for it, so that only reads of the past come to it. */
  isCovered: boolean
}

export interface EvictionNeed {
  bytesToFree: number
  /** So much of what a tenant used last stays, about. */
  floorBytes: number
}

/**
 * The files to drop, in order, until enough is free or nothing may go any more: first what images
 * stand for, then what was used least recently. The candidates are all local files, of which none
 * may be the only copy.
 */
export function planEviction<T extends EvictionCandidate>(
  candidates: readonly T[],
  { bytesToFree, floorBytes }: EvictionNeed,
): T[] {
  const leastUseful = candidates.toSorted(
    (a, b) =>
      Number(b.isCovered) - Number(a.isCovered) ||
      a.lastAccessMs - b.lastAccessMs ||
      a.endLsn - b.endLsn ||
      b.sizeBytes - a.sizeBytes,
  )
  const kept = floorOf(leastUseful, floorBytes)
  const chosen: T[] = []
  let freed = 0
  for (const candidate of leastUseful) {
    if (freed >= bytesToFree) break
    if (kept.has(candidate)) continue
    chosen.push(candidate)
    freed += candidate.sizeBytes
  }
  return chosen
}

/** The most useful files of each tenant, until they reach the floor. */
function floorOf<T extends EvictionCandidate>(
  leastUseful: readonly T[],
  floorBytes: number,
): Set<T> {
  const kept = new Set<T>()
  const keptBytes = new Map<string, number>()
  for (const candidate of leastUseful.toReversed()) {
    const bytes = keptBytes.get(candidate.tenantId) ?? 0
    if (bytes >= floorBytes) continue
    kept.add(candidate)
    keptBytes.set(candidate.tenantId, bytes + candidate.sizeBytes)
  }
  return kept
}

export interface CoverLayer {
  firstKey: Key
  lastKey: Key
  startLsn: Lsn
  endLsn: Lsn
  isImage: boolean
}

/** More comparisons than this are not worth a better order. */
const MAX_COMPARISONS = 5_000_000

/**
 * For each layer, whether images above it hold all of its keys, with no retained point between: no
 * read of such a point, nor of the newest state, comes to the layer. For very many layers nobody
 * looks, and none is.
 */
export function coveredLayers(
  layers: readonly CoverLayer[],
  retainedPoints: readonly Lsn[],
): boolean[] {
  const images = layers
    .filter(({ isImage }) => isImage)
    .sort((a, b) => compareKeys(a.firstKey, b.firstKey))
  if (layers.length * images.length > MAX_COMPARISONS) return layers.map(() => false)
  return layers.map((layer) => {
    const above = images.filter(
      ({ startLsn }) =>
        startLsn >= layer.endLsn - 1 &&
        startLsn > layer.startLsn &&
        !retainedPoints.some((point) => point >= layer.startLsn && point < startLsn),
    )
    return holdAll(above, layer)
  })
}

/** Whether the images, in the order of their first keys, leave no gap in the layer's range. */
function holdAll(images: readonly CoverLayer[], { firstKey, lastKey }: CoverLayer): boolean {
  let wanted = firstKey
  for (const image of images) {
    if (compareKeys(image.firstKey, wanted) > 0) return false
    if (compareKeys(image.lastKey, wanted) < 0) continue
    if (compareKeys(image.lastKey, lastKey) >= 0) return true
    wanted = { ...image.lastKey, blk: image.lastKey.blk + 1 }
  }
  return false
}
