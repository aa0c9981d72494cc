/** A timeline as object storage has it, without being open here. */
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { LayerEntry } from '../layers/layer.ts'
import { type LayerId, layerName, parseFileName } from '../layers/layer-name.ts'
import type { Manifest } from '../remote/manifest.ts'
import type { ManifestStore } from '../remote/manifest-store.ts'
import { layerFolder } from '../remote/paths.ts'

const LAYER_OBJECT = /\/timelines\/([0-9a-f]{32})\/layers\/([^/]+)$/

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

/** What the name of an object says when it is that of a layer; else null. */
export function parseLayerObject(name: string): { timelineId: TimelineId; id: LayerId } | null {
  const [, timelineId, layer] = LAYER_OBJECT.exec(name) ?? []
  const parsed = layer === undefined ? null : parseFileName(layer)
  if (parsed === null || parsed.places.length > 0) return null
  return { timelineId: timelineId as TimelineId, id: parsed.id }
}

/** Objects that hold its layers, those of other timelines included. */
export function layerObjects(
  tenantId: TenantId,
  { timelineId, manifest }: FoundTimeline,
): string[] {
  return manifest.layers.map((entry) => layerObject(tenantId, timelineId, entry))
}
