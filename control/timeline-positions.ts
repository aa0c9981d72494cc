/** How far pageservers are with the timelines of a tenant: of a sharded one the slowest shard. */
import type { PageserverTimeline } from '#libs/api/pageserver.ts'
import type { WalLag } from '#libs/api/branch-info.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { onEach, servingPlacesIn } from './places.ts'
import type { Registry } from './registry.ts'
import { pageserverApi } from './remote.ts'

type LsnPositions = Pick<
  PageserverTimeline,
  'lastRecordLsn' | 'diskConsistentLsn' | 'remoteConsistentLsn'
>

export interface Positions extends LsnPositions {
  /** Age of the oldest WAL that is known to be there and was not taken in; null when not known. */
  lagMs: number | null
}

/** How far a timeline is behind what safekeepers have committed. */
export function lagBehind(commitLsn: Lsn, positions: Positions): WalLag {
  const bytes = Math.max(commitLsn - parseLsn(positions.lastRecordLsn), 0)
  const unstoredBytes = Math.max(commitLsn - parseLsn(positions.remoteConsistentLsn), 0)
  // One that does not know yet of the newest WAL thinks that it has all.
  return { bytes, ms: bytes === 0 ? 0 : positions.lagMs || null, unstoredBytes }
}

/** By timeline; those that not every shard could be asked for are left out. */
export async function positionsOf(
  registry: Registry,
  tenantId: string,
): Promise<Map<string, Positions>> {
  const places = await servingPlacesIn(registry, await registry.tenant(tenantId))
  const answers = await onEach(places, (place) => pageserverApi.timelines(place, tenantId)).catch(
    () => [],
  )
  const positions = new Map<string, Positions>()
  for (const [timelineId, ofShards] of Map.groupBy(answers.flat(), (one) => one.timelineId)) {
    if (ofShards.length === places.length) positions.set(timelineId, lowest(ofShards))
  }
  return positions
}

function lowest(positions: readonly PageserverTimeline[]): Positions {
  const least = (which: keyof LsnPositions) =>
    formatLsn(Math.min(...positions.map((one) => parseLsn(one[which]))))
  const lags = positions.map(({ walReceiver }) => walReceiver?.lagMs ?? null)
  return {
    lagMs: lags.includes(null) ? null : Math.max(...lags.map((ms) => ms ?? 0)),
    lastRecordLsn: least('lastRecordLsn'),
    diskConsistentLsn: least('diskConsistentLsn'),
    remoteConsistentLsn: least('remoteConsistentLsn'),
  }
}
