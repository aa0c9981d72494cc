/**
 * Detaching: the pageserver does it, durably and repeatably; here the records follow. Siblings that
 * became children get their new parent first, so that the intent goes last.
 */
import { recordKey, type TimelineRecord } from '../records.ts'
import { pageserverApi } from '../remote.ts'
import type { LifecycleContext } from './lifecycle.ts'
import { onHolders } from './on-holders.ts'

/** Goes on from wherever it stopped; nothing without a detach that was begun. */
export async function detachStep(
  { registry, log }: LifecycleContext,
  timeline: TimelineRecord,
): Promise<void> {
  const { tenantId, timelineId, detaching } = timeline
  if (detaching === undefined) return
  const answers = await onHolders(registry, tenantId, (place) =>
    pageserverApi.detachTimeline(place, { tenantId, timelineId }, detaching),
  )
  const children = new Set(answers.flatMap((answer) => answer.children))
  for (const child of children) {
    const key = recordKey.timeline(tenantId, child)
    await registry.update<TimelineRecord>(key, (current) =>
      current === null || current.ancestorTimelineId === timelineId
        ? current
        : { ...current, ancestorTimelineId: timelineId },
    )
  }
  await registry.change<TimelineRecord>(recordKey.timeline(tenantId, timelineId), (current) => {
    const { detaching: _, ...rest } = current
    const startLsn = answers[0]?.startLsn
    return {
      ...rest,
      ancestorTimelineId: null,
      ancestorLsn: null,
      ...(startLsn === undefined ? {} : { historyStartLsn: startLsn }),
    }
  })
  log.info({ tenantId, timelineId, children: children.size }, 'timeline detached')
}
