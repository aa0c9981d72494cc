/**
 * Collects the garbage of one timeline: moves its cutoff, then takes away whole layers that no
 * state that is kept needs.
 *
 * Order: the cutoff is raised in memory, so that no new read begins below it; it becomes durable,
 * with the leased LSNs below it; reads that began before have ended; what is removable is chosen
 * in one step with the retained points; the manifest without those layers is written; only then
 * files and objects go. A crash anywhere leaves at most layers too many.
 */
import type { Lsn } from '#libs/lsn.ts'
import type { LayerStore } from '../timeline/layer-store.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { findCutoffBounds, nextCutoff } from './cutoff.ts'
import { removableLayers } from './removable.ts'
import type { HistorySettings } from './settings.ts'

export interface Collected {
  cutoffLsn: Lsn | null
  /** Ascending; the last one is the cutoff. */
  retainedPoints: Lsn[]
  removedLayers: number
  removedBytes: number
}

/**
 * Not twice at the same time for one timeline. `exclusively` runs what must not meet the making of
 * a branch or a detach; it is short, while the search for the cutoff before it may not be.
 */
export async function collectTimeline(
  timeline: Timeline,
  store: LayerStore,
  history: HistorySettings,
  exclusively: (work: () => Promise<Collected>) => Promise<Collected>,
): Promise<Collected> {
  const bounds = await findCutoffBounds(timeline, history)
  return await exclusively(() => collect(timeline, store, bounds))
}

async function collect(
  timeline: Timeline,
  store: LayerStore,
  bounds: Awaited<ReturnType<typeof findCutoffBounds>>,
): Promise<Collected> {
  const { retention } = timeline
  retention.sweep()
  const cutoffLsn = nextCutoff({
    ...bounds,
    currentLsn: retention.cutoffLsn,
    horizonLsn: retention.leases.horizonLsn,
  })
  if (cutoffLsn !== null) retention.raiseCutoff(cutoffLsn)
  await persistCutoff(timeline, store)
  await retention.earlierReads()
  const retainedPoints = retention.retainedPoints()
  const { layers } = store
  const removable =
    retention.cutoffLsn === null ? [] : removableLayers(layers.shapes, retainedPoints)
  const remove = removable.map((shape) => layers.layerOf(shape))
  if (remove.length > 0) await store.change({ remove })
  return {
    cutoffLsn: retention.cutoffLsn,
    retainedPoints,
    removedLayers: remove.length,
    removedBytes: remove.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
  }
}

/** After a restart the leased LSNs are readable again just because the manifest names them. */
async function persistCutoff({ retention }: Timeline, store: LayerStore): Promise<void> {
  const { cutoffLsn } = retention
  if (cutoffLsn === null) return
  const leasedLsns = retention.leases.points.filter((lsn) => lsn < cutoffLsn)
  const same =
    cutoffLsn === store.gcCutoffLsn &&
    leasedLsns.length === store.leasedLsns.length &&
    leasedLsns.every((lsn, index) => lsn === store.leasedLsns[index])
  if (!same) await store.change({ gcCutoffLsn: cutoffLsn, leasedLsns })
}
