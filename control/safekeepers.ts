/** Safekeepers as nodes: which there are, what they hold, and taking them out of service. */
import type { SafekeeperLook, SafekeeperNode } from '#libs/api/members.ts'
import { ZenithError } from '#libs/errors.ts'
import { parseLsn } from '#libs/lsn.ts'
import { type NodeRecord, recordKey, type TimelineRecord } from './records.ts'
import { addressOf, type Registry } from './registry.ts'
import { safekeeperApi } from './remote.ts'

export type SafekeeperState = 'active' | 'draining' | 'removed'

/** Those in service, by id. */
export async function listSafekeepers(registry: Registry): Promise<SafekeeperNode[]> {
  const timelines = await registry.timelines()
  const nodes = await registry.nodes('safekeeper')
  return nodes.map((node) => infoOf(node, timelines))
}

/** Asks each one in service what it has. */
export async function inspectSafekeepers(registry: Registry): Promise<SafekeeperLook[]> {
  const timelines = await registry.timelines()
  const nodes = await registry.nodes('safekeeper')
  const held = await Promise.all(
    nodes.map((node) => safekeeperApi.timelines(node).catch(() => null)),
  )
  const ends = new Map<string, number>()
  for (const { timelineId, commitLsn } of held.flatMap((one) => one ?? [])) {
    ends.set(timelineId, Math.max(ends.get(timelineId) ?? 0, parseLsn(commitLsn)))
  }
  return nodes.map(({ id }, index) => {
    const own = held[index] ?? null
    if (own === null) return { id, answers: false, lagBytes: null, lost: [] }
    const lags = own.map(({ timelineId, flushLsn }) =>
      Math.max(0, (ends.get(timelineId) ?? 0) - parseLsn(flushLsn)),
    )
    const has = new Set(own.map(({ timelineId }) => timelineId))
    const lost = timelines.filter(
      ({ state, safekeepers, timelineId }) =>
        state === 'active' && safekeepers.includes(id) && !has.has(timelineId),
    )
    return {
      id,
      answers: true,
      lagBytes: lags.reduce((sum, lag) => sum + lag, 0),
      lost: lost.map(({ timelineId }) => timelineId),
    }
  })
}

/** The first id that no safekeeper has or had. */
export async function nextSafekeeperId(registry: Registry): Promise<number> {
  const ids = (await registry.allNodes('safekeeper')).map(({ id }) => id)
  return Math.max(0, ...ids) + 1
}

/**
 * Changes what a safekeeper is for. Throws `precondition_failed` when it is to be removed and still
 * keeps a timeline; a copy that it has yet to delete does not count with `force`: the disk goes.
 */
export async function setSafekeeperState(
  registry: Registry,
  id: number,
  state: SafekeeperState,
  force: boolean,
): Promise<SafekeeperNode> {
  await registry.node('safekeeper', id)
  if (state === 'removed') await checkEmpty(registry, id, force)
  const key = recordKey.node('safekeeper', id)
  const node = await registry.change<NodeRecord>(key, (current) => ({
    ...addressOf(current),
    ...(state === 'active' ? {} : { state }),
  }))
  return infoOf(node, await registry.timelines())
}

async function checkEmpty(registry: Registry, id: number, force: boolean): Promise<void> {
  for (const timeline of await registry.timelines()) {
    if (!keeps(timeline, id) && (force || !deletes(timeline, id))) continue
    const what = keeps(timeline, id) ? 'still keeps' : 'still has to delete its copy of'
    throw new ZenithError(
      'precondition_failed',
      `Safekeeper ${id} ${what} branch "${timeline.branch}".`,
      { hint: 'zenith safekeeper list shows what it holds; move that away first.' },
    )
  }
}

function keeps({ safekeepers, newSafekeepers = [] }: TimelineRecord, id: number): boolean {
  return safekeepers.includes(id) || newSafekeepers.includes(id)
}

function deletes({ deletions = [] }: TimelineRecord, id: number): boolean {
  return deletions.some(({ node }) => node === id)
}

function infoOf(node: NodeRecord, timelines: readonly TimelineRecord[]): SafekeeperNode {
  return {
    ...addressOf(node),
    state: node.state ?? 'active',
    timelines: timelines.filter((timeline) => keeps(timeline, node.id)).length,
    deletions: timelines.filter((timeline) => deletes(timeline, node.id)).length,
  }
}
