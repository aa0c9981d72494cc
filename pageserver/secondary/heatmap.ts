/** What a secondary should have: the layer files on the disk of the primary. */
import { access } from 'node:fs/promises'
import type { Heatmap } from '#libs/api/pageserver-location.ts'
import type { Layer } from '../layers/layer.ts'
import type { Timeline } from '../timeline/timeline.ts'

/** Only layers that are in object storage: a secondary gets them from there. */
export async function heatmapOf(timelines: readonly Timeline[]): Promise<Heatmap> {
  return {
    timelines: await Promise.all(
      timelines.map(async (timeline) => {
        const layers = await residentLayers(timeline.publishedLayers())
        return {
          timelineId: timeline.timelineId,
          layers: layers.map(({ fileName, objectName, sizeBytes, crc }) => ({
            file: fileName,
            object: objectName,
            sizeBytes,
            crc,
          })),
        }
      }),
    ),
  }
}

async function residentLayers(layers: readonly Layer[]): Promise<Layer[]> {
  const resident: Layer[] = []
  for (const layer of layers) {
    const isThere = await access(layer.path).then(
      () => true,
      () => false,
    )
    if (isThere) resident.push(layer)
  }
  return resident
}
