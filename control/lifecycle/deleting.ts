/**
 * Deletion of a branch: names first, then the pageservers, then the safekeepers, the record last.
 *
 *   'deleting' → no children? → name and endpoints gone → pageservers → safekeepers → record gone
 *
 * Until the name is gone it can be taken back, when a child turns out to have been made meanwhile.
 */
import { ZenithError } from '#libs/errors.ts'
import { isActive } from '../endpoint-state.ts'
import { type BranchRecord, recordKey, type TimelineRecord } from '../records.ts'
import { pageserverApi, safekeeperApi } from '../remote.ts'
import type { LifecycleContext } from './lifecycle.ts'
import { onHolders } from './on-holders.ts'
import { childrenOf, hasChildren } from './rules.ts'

type Records = Pick<LifecycleContext, 'registry'>

/** Goes on from wherever it stopped. With children that came meanwhile, the branch stays. */
export async function deleteStep(
  context: LifecycleContext,
  timeline: TimelineRecord,
): Promise<void> {
  const { registry } = context
  const { tenantId, timelineId } = timeline
  const ids = { tenantId, timelineId }
  const branch = await branchOf(context, timeline)
  if (branch) {
    const children = childrenOf(timelineId, await registry.timelines(tenantId))
    if (children.length > 0) {
      await takeBack(context, timeline)
      throw hasChildren(branch.name, children)
    }
  }
  await removeEndpoints(context, timeline)
  await removeName(context, timeline)
  await onHolders(registry, tenantId, (place) => pageserverApi.deleteTimeline(place, ids))
  await deleteFromSafekeepers(context, timeline)
  await registry.update<TimelineRecord>(recordKey.timeline(tenantId, timelineId), () => null)
  context.log.info(ids, 'timeline deleted')
}

/** The name may be used anew from now on. */
export async function removeName(context: Records, timeline: TimelineRecord): Promise<void> {
  const branch = await branchOf(context, timeline)
  if (branch === null) return
  const key = recordKey.branch(timeline.tenantId, branch.name)
  await context.registry.update<BranchRecord>(key, (current) =>
    current?.timelineId === timeline.timelineId ? null : current,
  )
}

/** With the WAL that they have in object storage. Those that are out of service have nothing. */
export async function deleteFromSafekeepers(
  { registry }: Records,
  timeline: TimelineRecord,
): Promise<void> {
  const ids = [
    ...timeline.safekeepers,
    ...(timeline.newSafekeepers ?? []),
    ...(timeline.deletions ?? []).map(({ node }) => node),
  ]
  const nodes = await Promise.all([...new Set(ids)].map((id) => registry.node('safekeeper', id)))
  const results = await Promise.allSettled(
    nodes
      .filter(({ state }) => state !== 'removed')
      .map((node) =>
        safekeeperApi.deleteTimeline(node, timeline, timeline.membershipGeneration, true),
      ),
  )
  for (const result of results) if (result.status === 'rejected') throw result.reason
}

async function branchOf(
  { registry }: Records,
  { tenantId, timelineId }: TimelineRecord,
): Promise<BranchRecord | null> {
  const branches = await registry.branches(tenantId)
  return branches.find((branch) => branch.timelineId === timelineId) ?? null
}

/** A start that is under way sees the intent, and takes itself back; then its record can go. */
export async function removeEndpoints(
  { registry, endpoints }: Records & Pick<LifecycleContext, 'endpoints'>,
  { tenantId, timelineId, branch }: TimelineRecord,
): Promise<void> {
  for (const endpoint of await endpoints.records(tenantId)) {
    if (endpoint.timelineId !== timelineId) continue
    if (isActive(endpoint.status)) {
      throw new ZenithError(
        'unavailable',
        `Postgres "${endpoint.name}" on branch "${branch}" has yet to end.`,
      )
    }
    await registry.update(recordKey.endpoint(tenantId, endpoint.name), () => null)
  }
}

async function takeBack({ registry }: LifecycleContext, timeline: TimelineRecord): Promise<void> {
  const key = recordKey.timeline(timeline.tenantId, timeline.timelineId)
  await registry.change<TimelineRecord>(key, ({ wasArchived, ...current }) => ({
    ...current,
    state: wasArchived === true ? 'archived' : 'active',
  }))
}
