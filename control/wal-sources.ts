/** Where a pageserver gets a timeline's WAL: from its safekeepers, or from the stock server it follows. */
import type { PostgresSource, WalSource } from '#libs/api/node-info.ts'
import type { TenantId } from '#libs/ids.ts'
import { shardNumberOf } from '#libs/sharding.ts'
import type { TimelineRecord } from './records.ts'
import type { Registry } from './registry.ts'

const SOURCE_ID = 1

/** The slot of a tenant or shard; each shard has its own, since a slot has one reader. */
export function slotOf(slot: string, id: TenantId): string {
  const shard = shardNumberOf(id)
  return shard === null ? slot : `${slot}_${shard.number}`
}

export function followedSource(
  { server, slot }: NonNullable<TimelineRecord['follows']>,
  id: TenantId,
): PostgresSource {
  return { kind: 'postgres', id: SOURCE_ID, slot: slotOf(slot, id), ...server }
}

/** For the pageserver that has the tenant, or the shard, of that id. */
export async function walSourcesOf(
  registry: Registry,
  timeline: TimelineRecord,
  id: TenantId,
): Promise<WalSource[]> {
  const { follows } = timeline
  if (follows !== undefined) return follows.lost === true ? [] : [followedSource(follows, id)]
  return await registry.members(timeline)
}
