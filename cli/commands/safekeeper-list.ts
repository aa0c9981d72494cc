/** `zenith safekeeper list`: the safekeepers, who keeps which branch, and changes under way. */
import type { MembershipInfo, SafekeeperNode } from '#libs/api/control.ts'
import { callControl } from '#libs/api/control-client.ts'
import { callSafekeeper, type SafekeeperTimeline } from '#libs/api/safekeeper.ts'
import { parseLsn } from '#libs/lsn.ts'
import type { Installation } from '../installation/installation.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'
import { safekeeperName, safekeeperNames } from './safekeeper-names.ts'

const ANSWER_TIMEOUT_MS = 2_000

interface Listed extends SafekeeperNode {
  name: string
  answers: boolean
  /** Bytes behind the end that any safekeeper knows, over all its timelines; null while it is away. */
  lagBytes: number | null
}

interface Kept extends MembershipInfo {
  /** Members that should have a copy and have none. */
  lost: number[]
}

export async function safekeeperList(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const url = installation.controlUrl
  const [{ safekeepers }, branches] = await Promise.all([
    callControl(url, 'listSafekeepers'),
    callControl(url, 'listMembers'),
  ])
  const held = await Promise.all(safekeepers.map(timelinesOf))
  const ends = newestCommits(held)
  const listed = safekeepers.map((node, index): Listed => {
    const timelines = held[index] ?? null
    return {
      ...node,
      name: safekeeperName(installation, node.id),
      answers: timelines !== null,
      lagBytes: timelines === null ? null : lagOf(timelines, ends),
    }
  })
  const kept = branches.map(
    (branch): Kept => ({ ...branch, lost: lostBy(branch, safekeepers, held) }),
  )
  context.show(
    { safekeepers: listed, branches: kept },
    [nodeTable(listed), branchTable(installation, kept), ...hints(installation, kept)].join('\n'),
  )
}

/** Members that answer and have no copy, although they should: their disk was lost, or is damaged. */
function lostBy(
  { timelineId, safekeepers: members }: MembershipInfo,
  nodes: readonly SafekeeperNode[],
  held: readonly (SafekeeperTimeline[] | null)[],
): number[] {
  return members.filter((id) => {
    const timelines = held[nodes.findIndex((node) => node.id === id)] ?? null
    return timelines !== null && !timelines.some((one) => one.timelineId === timelineId)
  })
}

function timelinesOf(node: SafekeeperNode): Promise<SafekeeperTimeline[] | null> {
  const baseUrl = `http://${node.host}:${node.httpPort}`
  return callSafekeeper(baseUrl, 'listTimelines', { timeoutMs: ANSWER_TIMEOUT_MS }).catch(
    () => null,
  )
}

function newestCommits(held: readonly (SafekeeperTimeline[] | null)[]): Map<string, number> {
  const ends = new Map<string, number>()
  for (const { timelineId, commitLsn } of held.flatMap((timelines) => timelines ?? [])) {
    ends.set(timelineId, Math.max(ends.get(timelineId) ?? 0, parseLsn(commitLsn)))
  }
  return ends
}

function lagOf(timelines: readonly SafekeeperTimeline[], ends: Map<string, number>): number {
  const lags = timelines.map(({ timelineId, flushLsn }) =>
    Math.max(0, (ends.get(timelineId) ?? 0) - parseLsn(flushLsn)),
  )
  return lags.reduce((sum, lag) => sum + lag, 0)
}

function nodeTable(listed: readonly Listed[]): string {
  return formatTable(
    ['SAFEKEEPER', 'ADDRESS', 'HTTP', 'STATE', 'TIMELINES', 'BEHIND'],
    listed.map(({ name, host, pgPort, httpPort, state, answers, timelines, lagBytes }) => [
      name,
      `${host}:${pgPort}`,
      `${host}:${httpPort}`,
      answers ? state : `${state}, does not answer`,
      timelines,
      lagBytes === null ? null : `${Math.ceil(lagBytes / 1024)} KiB`,
    ]),
  )
}

function branchTable(installation: Installation, branches: readonly Kept[]): string {
  const severalTenants = new Set(branches.map(({ tenantId }) => tenantId)).size > 1
  return formatTable(
    [...(severalTenants ? ['TENANT'] : []), 'BRANCH', 'KEPT BY', 'CHANGE'],
    branches.map((one) => [
      ...(severalTenants ? [one.tenantId] : []),
      one.branch,
      safekeeperNames(installation, one.safekeepers),
      changeOf(installation, one),
    ]),
  )
}

function changeOf(installation: Installation, info: Kept): string | null {
  const { newSafekeepers, phase, lacking, lost, deletions } = info
  if (newSafekeepers !== null) {
    const copied = info.nodes.find(({ totalBytes }) => totalBytes !== null && totalBytes > 0)
    const percent =
      copied === undefined
        ? ''
        : ` ${Math.floor((100 * (copied.copiedBytes ?? 0)) / (copied.totalBytes ?? 1))} %`
    return `to ${safekeeperNames(installation, newSafekeepers)}: ${phase}${percent}`
  }
  if (deletions.length > 0) return `${safekeeperNames(installation, deletions)} has to delete`
  if (lacking.length > 0) return `${safekeeperNames(installation, lacking)} lacks it`
  if (lost.length > 0) return `${safekeeperNames(installation, lost)} has lost it`
  return phase === 'done' ? null : phase
}

function hints(installation: Installation, branches: readonly Kept[]): string[] {
  const lines: string[] = []
  const lost = new Set(branches.flatMap((branch) => (branch.newSafekeepers ? [] : branch.lost)))
  for (const id of lost) {
    const name = safekeeperName(installation, id)
    lines.push(`${name} has lost what it should keep: "zenith safekeeper repair ${name}".\n`)
  }
  if (branches.some(({ safekeepers }) => safekeepers.length === 1)) {
    lines.push('One disk alone keeps a branch: "zenith safekeeper spread 3" gives it three.\n')
  }
  return lines
}
