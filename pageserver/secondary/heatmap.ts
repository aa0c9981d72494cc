/** What a secondary should have: the layer files on the disk of the primary. */
import type { Heatmap } from '#libs/api/pageserver-location.ts'
import type { Timeline } from '../timeline/timeline.ts'

/** Only layers that are in object storage: a secondary gets them from there. */
export function heatmapOf(timelines: readonly Timeline[]): Heatmap {
  return {
    timelines: timelines.map((timeline) => ({
      timelineId: timeline.timelineId,
      layers: timeline.residentPublished().map(({ fileName, objectName, sizeBytes, crc }) => ({
        file: fileName,
        object: objectName,
        sizeBytes,
        crc,
      })),
    })),
  }
}
