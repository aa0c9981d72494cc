/**
 * What is kept of one key's history: a pure decision over the versions that its values at the
 * retained points are made of.
 *
 * The lowest point gets an image. Above it each value keeps its versions since the point below while
 * they are few, else becomes a page of its own. A point at which nothing is new keeps nothing.
 */
import { assert } from '#libs/errors.ts'
import type { Lsn } from '#libs/lsn.ts'
import { isBaseKind, PAGE_SIZE } from '../keyspace/key-class.ts'

/** More records than this become a page. */
const MAX_KEPT_RECORDS = 16
const MAX_KEPT_BYTES = PAGE_SIZE / 4

/** A version, as far as the decision goes. */
export interface VersionFacts {
  kind: number
  lsn: Lsn
  value: { length: number }
}

/** The versions of a key's value at a point: newest first, down to one that needs nothing older. */
export interface PointChain<V extends VersionFacts> {
  /** Index of the point. */
  point: number
  chain: readonly V[]
}

/** How a value at a point is stored. */
export type Keep<V extends VersionFacts> =
  /** In the image at the lowest point. */
  | { how: 'base'; chain: readonly V[] }
  /** The versions as they are, oldest first; what they need lies in what is kept below. */
  | { how: 'versions'; versions: readonly V[] }
  /** One page at the LSN of the newest version. */
  | { how: 'page'; lsn: Lsn; chain: readonly V[] }
  /** There is no value any more, and no version says so: something has to hide what lies below. */
  | { how: 'gone'; lsn: Lsn }

/**
 * Walks the points from the horizon down and tells where to look next. `isAlive` says whether the
 * key exists at a point: the blocks of dropped and truncated relations are needed only where a value
 * above is made of them.
 */
export class PointWalk<V extends VersionFacts> {
  readonly #points: readonly Lsn[]
  readonly #oldestLsn: Lsn
  readonly #isAlive: (point: number) => boolean
  readonly #found: PointChain<V>[] = []
  /** The state up to here needs nothing that is kept: it is the ancestor's. */
  #coveredLsn: Lsn = -1
  #next: number

  /** Versions below `oldestLsn` are an ancestor's, which keeps them. */
  constructor(points: readonly Lsn[], oldestLsn: Lsn, isAlive: (point: number) => boolean) {
    this.#points = points
    this.#oldestLsn = oldestLsn
    this.#isAlive = isAlive
    this.#next = this.#aliveFrom(points.length - 1)
  }

  /** Index of the point whose chain is wanted; -1 = no more. */
  get next(): number {
    return this.#next
  }

  /** Takes the chain of the point asked for. */
  take(chain: readonly V[]): void {
    const newest = chain[0]
    if (newest === undefined) {
      // An image without the key may have taken a tombstone's place, so there may be one below.
      this.#found.push({ point: this.#next, chain })
      this.#next = this.#aliveFrom(this.#next - 1)
      return
    }
    if (newest.lsn < this.#oldestLsn) {
      this.#coveredLsn = this.#oldestLsn - 1
      this.#next = -1
      return
    }
    this.#found.push({ point: this.#next, chain })
    let lower = this.#next - 1
    while (lower >= 0 && (this.#points[lower] as Lsn) >= newest.lsn) lower--
    const oldest = chain[chain.length - 1] as V
    const needsLower = lower >= 0 && oldest.lsn <= (this.#points[lower] as Lsn)
    this.#next = needsLower ? lower : this.#aliveFrom(lower)
  }

  /** What is kept, oldest first. */
  keeps(): Keep<V>[] {
    assert(this.#next < 0, 'all points were looked at')
    const keeps: Keep<V>[] = []
    let coveredLsn = this.#coveredLsn
    for (const { point, chain } of this.#found.toReversed()) {
      const lsn = this.#points[point] as Lsn
      if (chain.length > 0) keeps.push(this.#keep(chain, coveredLsn))
      else if (keeps.length > 0 && keeps[keeps.length - 1]?.how !== 'gone') {
        // As low as it can be: an image above, which lacks the key, hides what lies above its floor.
        keeps.push({ how: 'gone', lsn: coveredLsn + 1 })
      }
      coveredLsn = lsn
    }
    return keeps
  }

  /** `coveredLsn` is the point up to which what is kept already gives the value; -1 = none. */
  #keep(chain: readonly V[], coveredLsn: Lsn): Keep<V> {
    const newest = chain[0] as V
    const lowestLsn = this.#points[0] as Lsn
    if (newest.lsn <= lowestLsn) return { how: 'base', chain }
    const versions = chain.filter(({ lsn }) => lsn > coveredLsn).reverse()
    if (isBaseKind(newest.kind)) return { how: 'versions', versions }
    const [oldest] = versions
    const bytes = versions.reduce((sum, { value }) => sum + value.length, 0)
    const isSelfMade = isBaseKind((oldest as V).kind) && (oldest as V).lsn > lowestLsn
    const isFew = versions.length <= MAX_KEPT_RECORDS && bytes <= MAX_KEPT_BYTES
    if (isFew && (isSelfMade || coveredLsn >= 0)) return { how: 'versions', versions }
    return { how: 'page', lsn: newest.lsn, chain }
  }

  #aliveFrom(point: number): number {
    let at = point
    while (at >= 0 && !this.#isAlive(at)) at--
    return at
  }
}
