/**
 * The cutoff of a sharded timeline is that of shard 0: a state is readable when all shards have it,
 * so none may collect what another still shows. Shard 0 goes by the tenant's settings; the others
 * read its durable cutoff from object storage, and stay at or below it.
 */
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { tenantShardId, wholeTenant } from '#libs/sharding.ts'
import { ManifestStore } from '../remote/manifest-store.ts'
import { manifestFolder } from '../remote/paths.ts'

/** Whoever holds shard 0 has written its newest manifest; it is only read here. */
const ANY_GENERATION = 0xffffffff

/** Null while shard 0 keeps all of its history, or has none of the timeline. */
export async function firstShardCutoff(
  store: ObjectStore,
  tenantId: TenantId,
  timelineId: TimelineId,
  shardCount: number,
): Promise<Lsn | null> {
  const first = tenantShardId(wholeTenant(tenantId), 0, shardCount)
  const folder = manifestFolder(first, timelineId)
  const manifest = await new ManifestStore(store, folder, ANY_GENERATION).load()
  return manifest?.gcCutoffLsn ?? null
}
