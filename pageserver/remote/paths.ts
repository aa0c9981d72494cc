/** Names in object storage and in the local folder, made from parsed ids only. */
import { join } from 'node:path'
import type { TenantId, TimelineId } from '#libs/ids.ts'

/** In object storage: all of a tenant, or of one shard of it. */
export function tenantFolder(tenantId: TenantId): string {
  return `tenants/${tenantId}`
}

/** In object storage: the timelines of a tenant, or of one shard of it. */
export function timelinesFolder(tenantId: TenantId): string {
  return `${tenantFolder(tenantId)}/timelines`
}

/** In object storage: the layers of a timeline. */
export function layerFolder(tenantId: TenantId, timelineId: TimelineId): string {
  return `${timelinesFolder(tenantId)}/${timelineId}/layers`
}

/** In object storage: the manifests of a timeline. */
export function manifestFolder(tenantId: TenantId, timelineId: TimelineId): string {
  return `${timelinesFolder(tenantId)}/${timelineId}/manifests`
}

/** In object storage: the cumulative statistics of a timeline's computes. */
export function statisticsFolder(tenantId: TenantId, timelineId: TimelineId): string {
  return `${timelinesFolder(tenantId)}/${timelineId}/statistics`
}

/** Local folder of a timeline's layers, a cache of `layerFolder`. */
export function localFolder(root: string, tenantId: TenantId, timelineId: TimelineId): string {
  return join(root, 'tenants', tenantId, 'timelines', timelineId)
}
