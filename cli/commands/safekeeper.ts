/** `zenith safekeeper`: which safekeepers there are, and which of them keep which branch. */
import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { MembershipInfo, SafekeeperNode } from '#libs/api/members.ts'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import { type Installation, shownPath } from '../installation/installation.ts'
import { DEFAULT_PORTS } from '../installation/ports.ts'
import { stopProcess } from '../installation/service-process.ts'
import { startServices } from '../installation/start-services.ts'
import { CommandContext, type CommonOptions, requireRunning } from './command-context.ts'
import { changeMembers } from './members-progress.ts'
import { safekeeperId, safekeeperName, safekeeperNames } from './safekeeper-names.ts'
import { startReport } from './services.ts'

/** How long a safekeeper that is being removed may take to delete what it has. */
const DELETE_TIMEOUT_MS = 30_000

export interface ChangeOptions extends CommonOptions {
  /** Seconds. */
  readonly timeout: number
}

export async function safekeeperAdd(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change('zenith safekeeper add', async (installation) => {
    requireRunning(installation)
    const first = installation.settings.safekeepers[0]?.name ?? 'sk1'
    const [added] = await addSafekeepers(context, installation, 1)
    context.show(
      added,
      `It takes new branches from now on. Next:\n` +
        `  zenith safekeeper move <branch> --from ${first} --to ${added?.name}\n` +
        `  zenith safekeeper spread 3\n`,
    )
  })
}

/** New safekeepers of this machine: settings, folder, process, registration. */
async function addSafekeepers(
  context: CommandContext,
  installation: Installation,
  count: number,
): Promise<Installation['settings']['safekeepers']> {
  const { safekeepers } = installation.settings
  const { nextId } = await callControl(installation.controlUrl, 'listSafekeepers')
  const known = safekeepers.map(({ id }) => id)
  const first = Math.max(nextId, ...known.map((id) => id + 1))
  const port = (name: 'pgPort' | 'httpPort', lowest: number) =>
    Math.max(lowest - 1, ...safekeepers.map((one) => one[name])) + 1
  for (let id = first; id < first + count; id += 1) {
    const pgPort = port('pgPort', DEFAULT_PORTS.safekeeperPg)
    const httpPort = port('httpPort', DEFAULT_PORTS.safekeeperHttp)
    safekeepers.push({ id, name: `sk${id}`, pgPort, httpPort })
  }
  // Stored first: when this is interrupted, "zenith start" goes on with it.
  installation.save()
  await startServices(installation, { ...startReport(context), alreadyRunning: () => undefined })
  return safekeepers.slice(-count)
}

export async function safekeeperMove(
  branch: string,
  options: ChangeOptions & { from: string; to: string },
): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const from = safekeeperId(installation, options.from)
  const to = safekeeperId(installation, options.to)
  const timeline = await branchOf(context, installation, branch)
  if (!timeline.safekeepers.includes(from)) {
    throw new ZenithError(
      'precondition_failed',
      `${options.from} does not keep branch "${branch}".`,
      {
        hint: `It is kept by ${safekeeperNames(installation, timeline.safekeepers)}.`,
      },
    )
  }
  if (timeline.safekeepers.includes(to)) {
    throw new ZenithError('precondition_failed', `${options.to} keeps branch "${branch}" already.`)
  }
  const safekeepers = timeline.safekeepers.map((id) => (id === from ? to : id))
  const timeoutMs = options.timeout * 1000
  const info = await changeMembers(context, installation, { timeline, safekeepers, timeoutMs })
  context.show(info, '')
}

/** Gives every branch `count` safekeepers, new ones of this machine if there are too few. */
export async function safekeeperSpread(count: number, options: ChangeOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change('zenith safekeeper spread', async (installation) => {
    requireRunning(installation)
    const missing = count - (await activeNodes(installation)).length
    if (missing > 0) await addSafekeepers(context, installation, missing)
    const changed: MembershipInfo[] = []
    for (const timeline of await callControl(installation.controlUrl, 'listMembers')) {
      if (timeline.safekeepers.length >= count) continue
      const safekeepers = [...timeline.safekeepers]
      for (const { id } of await emptiestFirst(installation)) {
        if (safekeepers.length < count && !safekeepers.includes(id)) safekeepers.push(id)
      }
      const timeoutMs = options.timeout * 1000
      changed.push(await changeMembers(context, installation, { timeline, safekeepers, timeoutMs }))
    }
    const bears = Math.ceil(count / 2) - 1
    const loss = bears === 0 ? 'none may be lost' : `${bears} of them may be lost`
    context.show(
      changed,
      `Every branch is kept by ${count} safekeepers or more: ${loss} without losing a commit.\n`,
    )
  })
}

export async function safekeeperRemove(
  name: string,
  options: ChangeOptions & { shrink?: boolean; force?: boolean; undo?: boolean },
): Promise<void> {
  const context = new CommandContext(options)
  await context.change('zenith safekeeper remove', async (installation) => {
    requireRunning(installation)
    const id = safekeeperId(installation, name)
    const url = installation.controlUrl
    // First of all nothing new is placed on it, so that what is planned is all there is.
    const setState = (state: 'active' | 'draining') =>
      callControl(url, 'setSafekeeperState', { params: { id }, body: { state } })
    if (options.undo === true) {
      const node = await setState('active')
      return context.show(node, `Safekeeper ${name} takes new branches again.\n`)
    }
    await setState('draining')
    const plans = await planRemoval(installation, id, options.shrink === true).catch(
      async (error: unknown) => {
        await setState('active')
        throw error
      },
    )
    const timeoutMs = options.timeout * 1000
    for (const { timeline, safekeepers } of plans) {
      await changeMembers(context, installation, { timeline, safekeepers, timeoutMs })
    }
    const clean = await waitForDeletions(installation, id)
    if (!clean && options.force !== true) {
      throw new ZenithError(
        'timeout',
        `${name} keeps no branch any more, but has not deleted its copies.`,
        {
          hint: `Start it (zenith start) and repeat, or, if its disk goes: zenith safekeeper remove ${name} --force.`,
        },
      )
    }
    await callControl(url, 'setSafekeeperState', {
      params: { id },
      body: { state: 'removed', force: options.force === true },
    })
    await takeOut(context, installation, id, clean)
  })
}

interface RemovalPlan {
  timeline: MembershipInfo
  safekeepers: number[]
}

/** Who keeps each branch afterwards. Throws before anything is changed when that is fewer. */
async function planRemoval(
  installation: Installation,
  id: number,
  shrink: boolean,
): Promise<RemovalPlan[]> {
  const name = safekeeperName(installation, id)
  const all = await callControl(installation.controlUrl, 'listMembers')
  const spare = (await emptiestFirst(installation)).filter((node) => node.id !== id)
  return all.flatMap((timeline) => {
    const { branch, newSafekeepers, safekeepers: members } = timeline
    if (newSafekeepers?.includes(id)) {
      throw new ZenithError('conflict', `Branch "${branch}" is just being moved to ${name}.`, {
        hint: `Wait for that, or undo it: zenith safekeeper abort ${branch}.`,
      })
    }
    if (!members.includes(id)) return []
    const left = members.filter((member) => member !== id)
    const instead = spare.find((node) => !members.includes(node.id))
    if (instead) return [{ timeline, safekeepers: [...left, instead.id] }]
    if (left.length === 0) {
      throw new ZenithError(
        'precondition_failed',
        `${name} is the only one that keeps branch "${branch}".`,
        {
          hint: 'Add another one first: zenith safekeeper add.',
        },
      )
    }
    if (shrink) return [{ timeline, safekeepers: left }]
    const [before, after] = [mayFail(members.length), mayFail(left.length)]
    throw new ZenithError(
      'precondition_failed',
      `Branch "${branch}" would be kept by ${left.length} instead of ${members.length} safekeepers, ` +
        `of which ${after} may fail instead of ${before}.`,
      {
        hint: 'Add another one first (zenith safekeeper add), or say that this is meant by --shrink.',
      },
    )
  })
}

const mayFail = (members: number): number => Math.ceil(members / 2) - 1

async function waitForDeletions(installation: Installation, id: number): Promise<boolean> {
  const deadline = Date.now() + DELETE_TIMEOUT_MS
  while (true) {
    const { safekeepers } = await callControl(installation.controlUrl, 'listSafekeepers')
    if ((safekeepers.find((node) => node.id === id)?.deletions ?? 0) === 0) return true
    if (Date.now() > deadline) return false
    await sleep(200)
  }
}

async function takeOut(
  context: CommandContext,
  installation: Installation,
  id: number,
  clean: boolean,
): Promise<void> {
  const { settings } = installation
  const index = settings.safekeepers.findIndex((one) => one.id === id)
  const service = installation.safekeepers[index]
  if (service === undefined) return
  await stopProcess(service)
  settings.safekeepers.splice(index, 1)
  installation.save()
  // What is left is a log and what it remembers of deletions; its id is never used again.
  if (clean) rmSync(service.dir, { recursive: true, force: true })
  const folder = clean ? '' : ` Its folder, ${shownPath(service.dir)}, is left: delete it.`
  context.show(
    { removed: service.name, folder: clean ? null : service.dir },
    `Safekeeper ${service.name} is removed.${folder}\n`,
  )
}

export async function safekeeperAbort(branch: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const { tenantId, timelineId } = await branchOf(context, installation, branch)
  const info = await callControl(installation.controlUrl, 'abortMembers', {
    params: { tenantId, timelineId },
  })
  const names = safekeeperNames(installation, info.safekeepers)
  context.show(info, `Undone: branch ${branch} is kept by ${names}, as before.\n`)
}

/** Gives a safekeeper that lost its disk, or cannot read it, its branches again. */
export async function safekeeperRepair(name: string, options: ChangeOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const id = safekeeperId(installation, name)
  const repaired: MembershipInfo[] = []
  for (const timeline of await callControl(installation.controlUrl, 'listMembers')) {
    const { safekeepers } = timeline
    if (!safekeepers.includes(id)) continue
    const timeoutMs = options.timeout * 1000
    const request = { timeline, safekeepers, rebuild: [id], timeoutMs }
    repaired.push(await changeMembers(context, installation, request))
  }
  context.show(repaired, `${name} has a whole copy of each of its ${repaired.length} branches.\n`)
}

async function activeNodes(installation: Installation): Promise<SafekeeperNode[]> {
  const { safekeepers } = await callControl(installation.controlUrl, 'listSafekeepers')
  return safekeepers.filter(({ state }) => state === 'active')
}

async function emptiestFirst(installation: Installation): Promise<SafekeeperNode[]> {
  const nodes = await activeNodes(installation)
  return nodes.sort((a, b) => a.timelines - b.timelines || a.id - b.id)
}

async function branchOf(
  context: CommandContext,
  installation: Installation,
  branch: string,
): Promise<MembershipInfo> {
  const tenantId = context.tenantId(installation)
  const all = await callControl(installation.controlUrl, 'listMembers')
  const found = all.find((one) => one.tenantId === tenantId && one.branch === branch)
  if (found) return found
  throw new ZenithError('not_found', `There is no branch "${branch}".`, {
    hint: 'zenith branch shows those there are.',
  })
}
