/**
 * Reset and restore: a new timeline takes the name of an old one. The new one is complete before
 * anybody sees it; then its computes stop, and one compare-and-swap moves the name, the endpoints and
 * the old state, so that at no time there are two branches of the name, or none.
 *
 * Endpoints that write to the branch or follow it go with the name; those that show one LSN of the
 * old state stay with that.
 */
import { ZenithError } from '#libs/errors.ts'
import { isActive, modeOf } from '../endpoint-state.ts'
import {
  type BranchRecord,
  type EndpointRecord,
  recordKey,
  type Replacement,
  type TenantRecord,
  type TimelineRecord,
} from '../records.ts'
import type { Change } from '../store/store.ts'
import type { LifecycleContext } from './lifecycle.ts'
import { childrenOf, oldName } from './rules.ts'

const MAX_ATTEMPTS = 20

/** Gives the new timeline the name. Throws `unavailable` when the records change all the time. */
export async function replaceStep(
  context: LifecycleContext,
  timeline: TimelineRecord,
): Promise<void> {
  const replaces = timeline.replaces as Replacement
  const { tenantId } = timeline
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    await stopFollowers(context, tenantId, replaces.timelineId)
    if (await swapNames(context, timeline, replaces)) return
  }
  throw new ZenithError('unavailable', `The records of "${timeline.branch}" keep changing.`)
}

async function stopFollowers(
  { endpoints }: LifecycleContext,
  tenantId: string,
  timelineId: string,
): Promise<void> {
  for (const record of await endpoints.records(tenantId)) {
    if (record.timelineId !== timelineId || modeOf(record) === 'static') continue
    if (isActive(record.status)) await endpoints.stop(tenantId, record.name)
  }
}

/** False when a record changed meanwhile. */
async function swapNames(
  { registry, log }: LifecycleContext,
  timeline: TimelineRecord,
  replaces: Replacement,
): Promise<boolean> {
  const { tenantId, timelineId } = timeline
  const branches = await registry.branches(tenantId)
  const named = branches.find((one) => one.timelineId === replaces.timelineId)
  const old = await registry.read<TimelineRecord>(recordKey.timeline(tenantId, replaces.timelineId))
  const own = await registry.read<TimelineRecord>(recordKey.timeline(tenantId, timelineId))
  const branch = named ? await registry.findBranch(tenantId, named.name) : null
  const tenant = await registry.findTenant(tenantId)
  if (!old || !own || !branch || !tenant) {
    throw new ZenithError('internal', `timeline ${timelineId} replaces one that has no branch`)
  }
  const { name } = branch.value
  // Children that came meanwhile are kept, and their parent with them.
  const discard =
    replaces.keepAs === null &&
    childrenOf(replaces.timelineId, await registry.timelines(tenantId)).length === 0
  const taken = new Set(branches.map((one) => one.name))
  const asked = replaces.keepAs
  const keepAs = asked !== null && !taken.has(asked) ? asked : oldName(name, new Date(), taken)
  const changes: Change[] = [
    {
      key: branch.key,
      expectedVersion: branch.version,
      value: takenOver(branch.value, own.value, named?.parent ?? null),
    },
    { key: own.key, expectedVersion: own.version, value: settled(own.value, name, replaces) },
    {
      key: old.key,
      expectedVersion: old.version,
      value: discard ? { ...old.value, state: 'deleting' } : { ...old.value, branch: keepAs },
    },
  ]
  if (!discard) {
    const kept: BranchRecord = {
      name: keepAs,
      timelineId: replaces.timelineId,
      parent: branch.value.parent,
      branchLsn: branch.value.branchLsn,
      createdAt: branch.value.createdAt,
    }
    changes.push({ key: recordKey.branch(tenantId, keepAs), expectedVersion: 0, value: kept })
  }
  const endpoints = await endpointChanges(registry, old.value, {
    name,
    timelineId,
    keepAs,
    discard,
  })
  if (endpoints === null) return false
  changes.push(...endpoints)
  if (tenant.value.mainTimelineId === replaces.timelineId) {
    const value: TenantRecord = { ...tenant.value, mainTimelineId: timelineId }
    changes.push({ key: tenant.key, expectedVersion: tenant.version, value })
  }
  const stored = await registry.swap(changes)
  if (stored)
    log.info(
      { tenantId, branch: name, timelineId, keepAs: discard ? null : keepAs },
      'branch replaced',
    )
  return stored
}

function takenOver(
  branch: BranchRecord,
  timeline: TimelineRecord,
  parent: string | null,
): BranchRecord {
  return {
    ...branch,
    timelineId: timeline.timelineId,
    parent,
    branchLsn: timeline.ancestorLsn,
    createdAt: timeline.createdAt,
  }
}

function settled(timeline: TimelineRecord, name: string, replaces: Replacement): TimelineRecord {
  const { replaces: _, ...rest } = timeline
  const { ancestorTimelineId, ancestorLsn } = rest
  const detach = replaces.detach && ancestorTimelineId !== null && ancestorLsn !== null
  return {
    ...rest,
    branch: name,
    ...(detach ? { detaching: { ancestorTimelineId, ancestorLsn } } : {}),
  }
}

/** Null when one of them was started meanwhile. */
async function endpointChanges(
  registry: LifecycleContext['registry'],
  old: TimelineRecord,
  to: { name: string; timelineId: string; keepAs: string; discard: boolean },
): Promise<Change[] | null> {
  const changes: Change[] = []
  for (const { name, timelineId } of await registry.endpoints(old.tenantId)) {
    if (timelineId !== old.timelineId) continue
    const entry = await registry.read<EndpointRecord>(recordKey.endpoint(old.tenantId, name))
    if (!entry) return null
    const { key, version: expectedVersion, value } = entry
    if (modeOf(value) === 'static') {
      // One of a state that is discarded is removed with it.
      if (!to.discard)
        changes.push({ key, expectedVersion, value: { ...value, branch: to.keepAs } })
      continue
    }
    if (isActive(value.status)) return null
    const moved = { ...value, timelineId: to.timelineId, branch: to.name, lsn: null }
    changes.push({ key, expectedVersion, value: moved })
  }
  return changes
}
