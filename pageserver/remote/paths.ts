/** Names in object storage and in the local folder, made from parsed ids only. */
import { join } from 'node:path'
import type { TenantId, TimelineId } from '#libs/ids.ts'

export function timelinesFolder(tenantId: TenantId): string {
  return `tenants/${tenantId}/timelines`
}

export function layerFolder(tenantId: TenantId, timelineId: TimelineId): string {
  return `${timelinesFolder(tenantId)}/${timelineId}/layers`
}

export function manifestFolder(tenantId: TenantId, timelineId: TimelineId): string {
  return `${timelinesFolder(tenantId)}/${timelineId}/manifests`
}

export function statisticsFolder(tenantId: TenantId, timelineId: TimelineId): string {
  return `${timelinesFolder(tenantId)}/${timelineId}/statistics`
}

/** Local folder of a timeline's layers, a cache of `layerFolder`. */
export function localFolder(root: string, tenantId: TenantId, timelineId: TimelineId): string {
  return join(root, 'tenants', tenantId, 'timelines', timelineId)
}
