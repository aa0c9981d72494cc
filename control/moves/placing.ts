/** Which pageserver a tenant gets, and who takes over. Pure but for `loadOf`. */
import { ZenithError } from '#libs/errors.ts'
import type { NodeRecord, PlacementRecord } from '../records.ts'
import type { Registry } from '../registry.ts'

/** How many placements each pageserver serves, or is about to serve. */
export type Load = ReadonlyMap<number, number>

/** How many placements each pageserver has, or will have once moves are through. */
export async function loadOf(registry: Registry): Promise<Load> {
  const load = new Map<number, number>()
  for (const { placements } of await registry.tenants()) {
    for (const { pageserverId, move } of placements) {
      const id = move?.to ?? pageserverId
      load.set(id, (load.get(id) ?? 0) + 1)
    }
  }
  return load
}

/** The least loaded first; equal ones in the order of their ids. */
export function leastLoaded(nodes: readonly NodeRecord[], load: Load): NodeRecord[] {
  const of = ({ id }: NodeRecord) => load.get(id) ?? 0
  return nodes
    .filter(({ state }) => state === undefined)
    .toSorted((a, b) => of(a) - of(b) || a.id - b.id)
}

/**
 * The pageservers of a new tenant, one for each of its shards and in their order; a pageserver may
 * get several. Throws `precondition_failed` when none takes tenants.
 */
export function choosePageservers(
  nodes: readonly NodeRecord[],
  load: Load,
  shards: number,
): number[] {
  const filled = new Map(load)
  return Array.from({ length: shards }, () => {
    const [first] = leastLoaded(nodes, filled)
    if (first) {
      filled.set(first.id, (filled.get(first.id) ?? 0) + 1)
      return first.id
    }
    throw new ZenithError('precondition_failed', 'No pageserver takes new tenants.', {
      hint: 'Start the services first: zenith start. To add one: zenith pageserver add.',
    })
  })
}

/**
 * Who takes over from a lost pageserver: the one that a move was leaving (it still serves), else the
 * one with a warm copy, else the least loaded. `nodes` are those that answer.
 */
export function chooseHeir(
  { move, secondary }: PlacementRecord,
  nodes: readonly NodeRecord[],
  load: Load,
): number {
  const preferred = [move?.from, move?.to, secondary]
  const found = preferred.find((id) => nodes.some((node) => node.id === id))
  const [first] = leastLoaded(nodes, load)
  const heir = found ?? first?.id
  if (heir !== undefined && heir !== null) return heir
  throw new ZenithError('unavailable', 'No other pageserver answers that could take over.', {
    hint: 'zenith status shows which one is down; zenith start starts it again.',
  })
}
