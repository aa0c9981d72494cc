/** `zenith safekeeper list`: the safekeepers, who keeps which branch, and changes under way. */
import type { MembershipInfo, SafekeeperNode } from '#libs/api/members.ts'
import { callControl } from '#libs/api/control-client.ts'
import type { Installation } from '../installation/installation.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'
import { safekeeperName, safekeeperNames } from './safekeeper-names.ts'

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
  const [{ safekeepers }, branches, looks] = await Promise.all([
    callControl(url, 'listSafekeepers'),
    callControl(url, 'listMembers'),
    callControl(url, 'inspectSafekeepers'),
  ])
  const listed = safekeepers.map((node): Listed => {
    const look = looks.find(({ id }) => id === node.id)
    const { answers, lagBytes } = look ?? { answers: false, lagBytes: null }
    return { ...node, name: safekeeperName(installation, node.id), answers, lagBytes }
  })
  const kept = branches.map(
    (branch): Kept => ({
      ...branch,
      lost: looks.filter(({ lost }) => lost.includes(branch.timelineId)).map(({ id }) => id),
    }),
  )
  context.show(
    { safekeepers: listed, branches: kept },
    [nodeTable(listed), branchTable(installation, kept), ...hints(installation, kept)].join('\n'),
  )
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
