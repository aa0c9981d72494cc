/** How far pageservers are with the timelines of a tenant: of a sharded one the slowest shard. */
import type { PageserverTimeline } from '#libs/api/pageserver.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { onEach, servingPlacesIn } from './places.ts'
import type { Registry } from './registry.ts'
import { pageserverApi } from './remote.ts'

export type Positions = Pick<
  PageserverTimeline,
  'lastRecordLsn' | 'diskConsistentLsn' | 'remoteConsistentLsn'
>

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

function lowest(positions: readonly Positions[]): Positions {
  const least = (which: keyof Positions) =>
    formatLsn(Math.min(...positions.map((one) => parseLsn(one[which]))))
  return {
    lastRecordLsn: least('lastRecordLsn'),
    diskConsistentLsn: least('diskConsistentLsn'),
    remoteConsistentLsn: least('remoteConsistentLsn'),
  }
}
