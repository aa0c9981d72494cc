/**
 * What a timeline takes over when it is detached from its ancestor: the layers of the whole chain
 * above it, up to where each part of the history ends for it. Nothing is copied; the objects stay in
 * the folders of the timelines that wrote them.
 *
 * Why names and generations are safe without a new generation: an object is queued for deletion only
 * when no manifest of the tenant refers to it, only layers that some live map holds are taken over,
 * and while a detach is under way its objects count as referred to. So no name that is queued is
 * ever taken over, and none that was taken over is written again.
 */
import type { TimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import { type LayerEntry, layerKey } from '../layers/layer.ts'

/** One timeline of the chain, nearest first. */
export interface Ancestry {
  timelineId: TimelineId
  /** Where the timeline before it in the chain leaves it. */
  branchLsn: Lsn
  startLsn: Lsn
  gcCutoffLsn: Lsn | null
  layers: readonly LayerEntry[]
}

export interface DetachPlan {
  adopt: LayerEntry[]
  /** Where the history begins. */
  startLsn: Lsn
  /** History below may be gone already; null = all is there. */
  gcCutoffLsn: Lsn | null
}

/** `chain` ends with the timeline that has no ancestor. `own` is the cutoff of the one detached. */
export function planDetach(own: Lsn | null, chain: readonly Ancestry[]): DetachPlan {
  const adopted = new Map<string, LayerEntry>()
  let ceilingLsn = Number.MAX_SAFE_INTEGER
  let startLsn = 0
  let gcCutoffLsn = own
  for (const part of chain) {
    ceilingLsn = Math.min(ceilingLsn, part.branchLsn + 1)
    startLsn = part.startLsn
    if (part.gcCutoffLsn !== null) {
      // The state at the branch point itself was kept for us.
      const cutoff = Math.min(part.gcCutoffLsn, ceilingLsn - 1)
      gcCutoffLsn = Math.max(gcCutoffLsn ?? 0, cutoff)
    }
    for (const entry of part.layers) {
      if (entry.id.startLsn >= ceilingLsn) continue
      const taken = {
        ...entry,
        origin: entry.origin ?? part.timelineId,
        ceilingLsn: Math.min(entry.ceilingLsn ?? ceilingLsn, ceilingLsn),
      }
      adopted.set(layerKey(taken), taken)
    }
  }
  return { adopt: [...adopted.values()], startLsn, gcCutoffLsn }
}
