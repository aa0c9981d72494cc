/**
 * Objects of shards that were split: deleted when none of the shards that there are now refers to
 * them. Which these are the control plane gathers from all of them.
 */
import { ZenithError } from '#libs/errors.ts'
import type { TenantId } from '#libs/ids.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { shardNumberOf, wholeTenant } from '#libs/sharding.ts'
import { tenantFolder } from '../remote/paths.ts'

/**
 * Deletes all objects of a former shard but those to be kept; returns how many are left. Manifests go
 * first: what is left of the folder then is no timeline to anybody. Throws `invalid_argument` for
 * what is not a former shard of the tenant.
 */
export async function sweepFormer(
  store: ObjectStore,
  own: TenantId,
  former: TenantId,
  keep: ReadonlySet<string>,
): Promise<number> {
  const countOf = (id: TenantId) => shardNumberOf(id)?.count ?? 1
  if (wholeTenant(own) !== wholeTenant(former) || countOf(former) >= countOf(own)) {
    throw new ZenithError('invalid_argument', `${former} is not what ${own} was split from`)
  }
  const { objects } = await store.list(tenantFolder(former))
  const gone = objects.map(({ name }) => name).filter((name) => !keep.has(name))
  await store.deleteAll(gone.filter((name) => name.includes('/manifests/')))
  await store.deleteAll(gone.filter((name) => !name.includes('/manifests/')))
  return objects.length - gone.length
}
