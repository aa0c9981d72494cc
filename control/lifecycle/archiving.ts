/**
 * Archiving: all WAL of the branch becomes layers in object storage, then the pageserver lets go of
 * the timeline. Safekeepers need nothing: they keep WAL from what the pageserver has flushed on, and
 * that is all of it.
 */
import { ZenithError } from '#libs/errors.ts'
import { formatLsn } from '#libs/lsn.ts'
import { isActive } from '../endpoint-state.ts'
import { recordKey, type TimelineRecord, type TimelineRecordState } from '../records.ts'
import { pageserverApi } from '../remote.ts'
import type { LifecycleContext } from './lifecycle.ts'
import { onHolders } from './on-holders.ts'
import { childrenOf } from './rules.ts'

/**
 * Goes on from wherever it stopped. With children or computes that came meanwhile, the branch
 * stays.
 */
export async function archiveStep(
  context: LifecycleContext,
  timeline: TimelineRecord,
): Promise<void> {
  const { registry, tips } = context
  const { tenantId, timelineId, branch } = timeline
  // What was made or started between the check and the intent counts.
  const children = childrenOf(timelineId, await registry.timelines(tenantId))
  const live = children.find(({ state }) => state !== 'archived')
  const running = (await context.endpoints.records(tenantId)).find(
    (one) => one.timelineId === timelineId && isActive(one.status),
  )
  if (live || running) {
    await settle(context, timeline, 'active')
    const what = live ? `child "${live.branch}"` : `Postgres "${running?.name}"`
    throw new ZenithError('conflict', `Branch "${branch}" cannot be archived: ${what} is in use.`)
  }
  const lsn = formatLsn(await tips.find(timeline))
  await onHolders(registry, tenantId, (place) =>
    pageserverApi.archiveTimeline(place, { tenantId, timelineId }, lsn),
  )
  await settle(context, timeline, 'archived')
}

/** Goes on from wherever it stopped. While the parent is not active, the branch stays archived. */
export async function unarchiveStep(
  context: LifecycleContext,
  timeline: TimelineRecord,
): Promise<void> {
  const { registry } = context
  const { tenantId, timelineId, ancestorTimelineId } = timeline
  const ids = { tenantId, timelineId }
  if (ancestorTimelineId !== null) {
    const parent = await registry.timeline(tenantId, ancestorTimelineId)
    if (parent.state !== 'active') {
      await settle(context, timeline, 'archived')
      throw new ZenithError('conflict', `The parent of "${timeline.branch}" is archived.`, {
        hint: `Bring the parent back first: zenith branch unarchive ${parent.branch}.`,
      })
    }
  }
  const members = await registry.members(timeline)
  await onHolders(registry, tenantId, async (place) => {
    await pageserverApi.unarchiveTimeline(place, ids)
    await pageserverApi.setSafekeepers(place, ids, members)
  })
  await settle(context, timeline, 'active')
}

/** Ends what the record says is under way; what came after that stays. */
async function settle(
  { registry }: LifecycleContext,
  timeline: TimelineRecord,
  state: TimelineRecordState,
): Promise<void> {
  const key = recordKey.timeline(timeline.tenantId, timeline.timelineId)
  await registry.change<TimelineRecord>(key, (current) =>
    current.state === timeline.state ? { ...current, state } : current,
  )
}
