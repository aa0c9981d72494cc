/** Changes who keeps a branch, and tells how far that is until it is in force. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { MembershipInfo } from '#libs/api/members.ts'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import type { Installation } from '../installation/installation.ts'
import type { CommandContext } from './command-context.ts'
import { safekeeperName, safekeeperNames } from './safekeeper-names.ts'

const POLL_MS = 200
/** In force it is anyhow; whoever is down is told when it is back. */
const ANNOUNCE_MS = 10_000
/** How long a problem may last before it is told. */
const PROBLEM_AFTER_MS = 5_000

export interface ChangeRequest {
  readonly timeline: MembershipInfo
  readonly safekeepers: readonly number[]
  readonly rebuild?: readonly number[]
  readonly timeoutMs: number
}

/**
 * Returns when the new members alone keep the branch. Throws `conflict` when the change was undone
 * meanwhile, and `timeout` when it takes longer; then it goes on by itself.
 */
export async function changeMembers(
  context: CommandContext,
  installation: Installation,
  { timeline, safekeepers, rebuild, timeoutMs }: ChangeRequest,
): Promise<MembershipInfo> {
  const { tenantId, timelineId, branch } = timeline
  const wanted = [...safekeepers].sort((a, b) => a - b)
  const url = installation.controlUrl
  const params = { tenantId, timelineId }
  const body = { safekeepers: wanted, ...(rebuild ? { rebuild: [...rebuild] } : {}) }
  let info = await callControl(url, 'changeMembers', { params, body })
  context.say(
    `Branch ${branch}: ${safekeeperNames(installation, timeline.safekeepers)} -> ` +
      `${safekeeperNames(installation, wanted)}`,
  )
  const deadline = Date.now() + timeoutMs
  const told = new Set<string>()
  let quietSince = Date.now()
  while (info.newSafekeepers !== null || info.phase === 'announce' || info.phase === 'waiting') {
    for (const line of progressOf(installation, info, Date.now() - quietSince > PROBLEM_AFTER_MS)) {
      if (told.has(line)) continue
      told.add(line)
      quietSince = Date.now()
      context.say(`  ${line}`)
    }
    if (info.newSafekeepers === null && Date.now() - quietSince > ANNOUNCE_MS) break
    if (Date.now() > deadline) throw late(branch, timeoutMs)
    await sleep(POLL_MS)
    info = await look(() => callControl(url, 'getMembers', { params }))
  }
  if (String(info.safekeepers) === String(wanted)) {
    context.say(`  done: kept by ${safekeeperNames(installation, wanted)}`)
    return info
  }
  throw new ZenithError('conflict', `The change of branch "${branch}" was undone meanwhile.`)
}

async function look(ask: () => Promise<MembershipInfo>): Promise<MembershipInfo> {
  try {
    return await ask()
  } catch (error) {
    if (!(error instanceof ZenithError) || error.code !== 'unavailable') throw error
    throw new ZenithError(
      'unavailable',
      'The control plane went away in the middle of the change.',
      {
        hint: 'The change goes on as soon as it runs: zenith start, then zenith safekeeper list.',
        cause: error,
      },
    )
  }
}

/** What is worth a line now; each is told once. */
function progressOf(installation: Installation, info: MembershipInfo, stuck: boolean): string[] {
  const lines: string[] = []
  for (const { id, copiedBytes, totalBytes } of info.nodes) {
    if (copiedBytes === null || totalBytes === null || totalBytes === 0) continue
    const tenths = Math.floor((10 * copiedBytes) / totalBytes)
    const megabytes = Math.ceil(totalBytes / 1024 / 1024)
    lines.push(`copying ${megabytes} MiB to ${safekeeperName(installation, id)}: ${tenths * 10} %`)
  }
  const phases: Record<string, string> = {
    switch: 'both groups of safekeepers must agree from now on',
    'catch-up': 'waiting until the new ones have everything',
    announce: 'in force; telling everybody',
  }
  const phase = phases[info.phase]
  if (phase !== undefined) lines.push(phase)
  if (stuck) {
    for (const { id, problem, ready } of info.nodes) {
      if (problem === null || ready) continue
      lines.push(`${safekeeperName(installation, id)} does not answer as it should: ${problem}`)
    }
  }
  return lines
}

function late(branch: string, timeoutMs: number): ZenithError {
  return new ZenithError(
    'timeout',
    `The change of branch "${branch}" is not in force after ${Math.round(timeoutMs / 1000)} s.`,
    {
      hint:
        'It goes on by itself: zenith safekeeper list shows how far it is, ' +
        `and zenith safekeeper abort ${branch} undoes it.`,
    },
  )
}
