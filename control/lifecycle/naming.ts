/** Renaming: one compare-and-swap over the branch, its timeline and its endpoints. */
import { ZenithError } from '#libs/errors.ts'
import {
  type BranchRecord,
  type EndpointRecord,
  recordKey,
  type TimelineRecord,
} from '../records.ts'
import type { Registry } from '../registry.ts'
import type { Change } from '../store/store.ts'

const MAX_ATTEMPTS = 20

/** Throws `not_found`, `already_exists` for a name in use. */
export async function renameBranch(
  registry: Registry,
  tenantId: string,
  name: string,
  to: string,
): Promise<void> {
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const { timelineId } = await registry.branch(tenantId, name)
    if (name === to) return
    if (await registry.findBranch(tenantId, to)) {
      throw new ZenithError('already_exists', `There is a branch named "${to}" already.`, {
        hint: 'Choose another name; zenith branch shows the names in use.',
      })
    }
    const changes = await renameChanges(registry, { tenantId, timelineId, name, to })
    if (changes !== null && (await registry.swap(changes))) return
  }
  throw new ZenithError('unavailable', `The records of "${name}" keep changing.`)
}

/** Null when a record went away meanwhile. */
async function renameChanges(
  registry: Registry,
  { tenantId, timelineId, name, to }: Record<'tenantId' | 'timelineId' | 'name' | 'to', string>,
): Promise<Change[] | null> {
  const branch = await registry.findBranch(tenantId, name)
  const timeline = await registry.read<TimelineRecord>(recordKey.timeline(tenantId, timelineId))
  if (!branch || !timeline) return null
  const renamed: BranchRecord = { ...branch.value, name: to }
  const changes: Change[] = [
    { key: branch.key, expectedVersion: branch.version, value: null },
    { key: recordKey.branch(tenantId, to), expectedVersion: 0, value: renamed },
    {
      key: timeline.key,
      expectedVersion: timeline.version,
      value: { ...timeline.value, branch: to },
    },
  ]
  for (const endpoint of await registry.endpoints(tenantId)) {
    if (endpoint.timelineId !== timelineId) continue
    const key = recordKey.endpoint(tenantId, endpoint.name)
    const entry = await registry.read<EndpointRecord>(key)
    if (!entry) return null
    changes.push({ key, expectedVersion: entry.version, value: { ...entry.value, branch: to } })
  }
  return changes
}
