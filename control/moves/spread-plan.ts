/**
 * How the shards of one tenant get onto as many pageservers as there are, one move after the other.
 * Pure: no clock, store or network.
 *
 * A move is made only from a pageserver that has at least two more shards of the tenant than the
 * one that it goes to. Each makes the tenant more even, so they come to an end, and a tenant that is
 * as even as it can be is left where it is, however uneven the pageservers' load by others.
 */
import type { PlacementRecord } from '../records.ts'
import type { Load } from './placing.ts'

export type SpreadStep =
  | { kind: 'move'; shard: number; from: number; to: number }
  /** A shard of it is on its way. */
  | { kind: 'wait' }
  | { kind: 'done' }

/**
 * The next step. `targets` are pageservers that answer and take tenants; shards of others stay where
 * they are.
 */
export function planSpread(
  placements: readonly PlacementRecord[],
  targets: readonly number[],
  load: Load,
): SpreadStep {
  if (placements.some(({ move }) => move !== undefined)) return { kind: 'wait' }
  const ownOf = (id: number) => placements.filter((one) => one.pageserverId === id).length
  const byLoad = (id: number) => load.get(id) ?? 0
  const [to] = targets.toSorted((a, b) => ownOf(a) - ownOf(b) || byLoad(a) - byLoad(b) || a - b)
  if (to === undefined) return { kind: 'done' }
  // What was taken over from a lost pageserver goes back there by itself. A shard with a warm copy
  // there is moved quickly; shard 0, which has most to do, stays before others do.
  const [leaves] = placements
    .filter(({ pageserverId, home }) => targets.includes(pageserverId) && home === undefined)
    .filter(({ pageserverId }) => ownOf(pageserverId) - ownOf(to) >= 2)
    .toSorted(
      (a, b) =>
        ownOf(b.pageserverId) - ownOf(a.pageserverId) ||
        byLoad(b.pageserverId) - byLoad(a.pageserverId) ||
        Number(b.secondary === to) - Number(a.secondary === to) ||
        b.shard - a.shard,
    )
  if (leaves === undefined) return { kind: 'done' }
  return { kind: 'move', shard: leaves.shard, from: leaves.pageserverId, to }
}
