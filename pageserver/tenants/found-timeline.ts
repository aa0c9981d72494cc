/** A timeline as object storage has it, without being open here. */
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { LayerEntry } from '../layers/layer.ts'
import { layerName } from '../layers/layer-name.ts'
import type { Manifest } from '../remote/manifest.ts'
import type { ManifestStore } from '../remote/manifest-store.ts'
import { layerFolder } from '../remote/paths.ts'

export interface FoundTimeline {
  timelineId: TimelineId
  manifests: ManifestStore
  manifest: Manifest
}

/** The object of a layer that a timeline refers to. */
export function layerObject(
  tenantId: TenantId,
  timelineId: TimelineId,
  { id, origin, splitFrom }: Pick<LayerEntry, 'id' | 'origin' | 'splitFrom'>,
): string {
  return `${layerFolder(splitFrom ?? tenantId, origin ?? timelineId)}/${layerName(id)}`
}

/** Objects that hold its layers, those of other timelines included. */
export function layerObjects(
  tenantId: TenantId,
  { timelineId, manifest }: FoundTimeline,
): string[] {
  return manifest.layers.map((entry) => layerObject(tenantId, timelineId, entry))
}
