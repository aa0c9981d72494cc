/**
 * Detaching a timeline from its ancestors: it takes over their layers up to where it left them, and
 * copies nothing. Siblings that left the ancestor at or before the same LSN become its children, so
 * that the ancestor can be deleted.
 */
import { ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Lock } from '#libs/lock.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { walStartOf } from '../remote/manifest.ts'
import type { StorageStep } from '../timeline/storage-context.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { type Ancestry, planDetach } from './detach-plan.ts'
import { layerObject } from './found-timeline.ts'
import type { Child } from './timeline-lives.ts'

/** Where a timeline leaves its ancestor. */
export interface BranchPlace {
  ancestorTimelineId: TimelineId
  ancestorLsn: Lsn
}

export interface DetachParts {
  tenantId: TenantId
  lock: Lock
  /** The timeline; throws when it is not open any more. */
  find: () => Timeline
  /** Other children of the ancestor. */
  siblings: () => Child[]
  /** Makes a sibling a child of the timeline, durably. */
  moveTo: (sibling: TimelineId) => Promise<void>
  /** Until told otherwise these objects are not to be released. */
  adopting: (names: ReadonlySet<string>) => void
  onStep: (step: StorageStep) => void
}

export async function detachHistory(from: BranchPlace, parts: DetachParts): Promise<Timeline> {
  await flushChain(parts.find())
  return await parts.lock.run(async () => {
    const timeline = parts.find()
    const { ancestor } = timeline
    if (ancestor === null) return timeline
    const { timelineId } = ancestor.timeline
    if (timelineId !== from.ancestorTimelineId || ancestor.lsn !== from.ancestorLsn) {
      throw new ZenithError(
        'conflict',
        `timeline ${timeline.timelineId} does not branch from ${from.ancestorTimelineId} at ${formatLsn(from.ancestorLsn)}`,
      )
    }
    await flushChain(timeline)
    // Siblings first: through us they read what they read before, and from then on their branch
    // points are ours. Were they to follow later, we might have let go of what they need.
    for (const sibling of parts.siblings()) {
      if (sibling.lsn > from.ancestorLsn) continue
      await parts.moveTo(sibling.timelineId)
      parts.onStep('sibling-moved')
    }
    parts.onStep('siblings-moved')
    await keepStatistics(timeline)
    await adoptHistory(timeline, parts)
    return timeline
  })
}

/** Everything of the ancestors that the timeline reads becomes durable layers. */
async function flushChain(timeline: Timeline): Promise<void> {
  await timeline.awaitAncestorWal()
  for (let at = timeline.ancestor; at !== null; at = at.timeline.ancestor) {
    if (at.timeline.remoteConsistentLsn < at.lsn) await at.timeline.flush()
  }
}

async function adoptHistory(timeline: Timeline, parts: DetachParts): Promise<void> {
  const chain: Ancestry[] = []
  for (let at = timeline.ancestor; at !== null; at = at.timeline.ancestor) {
    const { timelineId, startLsn, gcCutoffLsn, layers } = at.timeline
    const entries = [...layers.entries()]
    chain.push({ timelineId, branchLsn: at.lsn, startLsn, gcCutoffLsn, layers: entries })
  }
  const { adopt, startLsn, gcCutoffLsn } = planDetach(timeline.gcCutoffLsn, chain)
  const { tenantId } = parts
  parts.adopting(new Set(adopt.map((entry) => layerObject(tenantId, timeline.timelineId, entry))))
  try {
    if (gcCutoffLsn !== null) timeline.retention.raiseCutoff(gcCutoffLsn)
    await timeline.change({
      adopt,
      facts: {
        ...timeline.facts,
        ancestorTimelineId: null,
        ancestorLsn: null,
        startLsn,
        walStartLsn: walStartOf(timeline.facts),
      },
      ...(gcCutoffLsn === null ? {} : { gcCutoffLsn }),
    })
  } finally {
    parts.adopting(new Set())
  }
}

/** A compute that starts where the branch began gets the statistics that were kept there. */
async function keepStatistics(timeline: Timeline): Promise<void> {
  const lsn = timeline.ancestor?.lsn
  for (let at = timeline.ancestor; at !== null && at.lsn === lsn; at = at.timeline.ancestor) {
    const bundle = await at.timeline.statistics.get(at.lsn)
    if (bundle === null) continue
    if (timeline.lastRecordLsn === lsn) await timeline.statistics.put(lsn, bundle)
    return
  }
}
