/** `zenith pageserver`: which pageservers there are, and which of them serves which tenant. */
import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { callControl } from '#libs/api/control-client.ts'
import type { PageserverNode, TenantMoveInfo } from '#libs/api/fleet.ts'
import { ZenithError } from '#libs/errors.ts'
import { type Installation, shownPath } from '../installation/installation.ts'
import { DEFAULT_PORTS } from '../installation/ports.ts'
import { processState } from '../installation/process-record.ts'
import { stopProcess } from '../installation/service-process.ts'
import { startServices } from '../installation/start-services.ts'
import { CommandContext, type CommonOptions, requireRunning } from './command-context.ts'
import { describeMove } from './pageserver-list.ts'
import { pageserverId, pageserverName, tenantNamed } from './pageserver-names.ts'
import { startReport } from './services.ts'

const POLL_MS = 200

export interface MoveOptions extends CommonOptions {
  /** Seconds. */
  readonly timeout: number
  readonly shard?: number
}

export interface RemoveOptions extends CommonOptions {
  /** Seconds. */
  readonly timeout: number
  readonly lost?: boolean
  readonly undo?: boolean
}

export async function pageserverAdd(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change('zenith pageserver add', async (installation) => {
    requireRunning(installation)
    const { pageservers } = installation.settings
    const { nextId } = await callControl(installation.controlUrl, 'listPageservers')
    const id = Math.max(nextId, ...pageservers.map((one) => one.id + 1))
    const port = (name: 'pgPort' | 'httpPort', lowest: number) =>
      Math.max(lowest - 1, ...pageservers.map((one) => one[name])) + 1
    const added = {
      id,
      name: `ps${id}`,
      pgPort: port('pgPort', DEFAULT_PORTS.pageserverPg),
      httpPort: port('httpPort', DEFAULT_PORTS.pageserverHttp),
    }
    pageservers.push(added)
    // Stored first: when this is interrupted, "zenith start" goes on with it.
    installation.save()
    await startServices(installation, { ...startReport(context), alreadyRunning: () => undefined })
    context.show(
      added,
      `It takes new tenants from now on. Next:\n` +
        `  zenith pageserver move default ${added.name}\n` +
        `  zenith pageserver warm default ${added.name}\n`,
    )
  })
}

/** Moves a tenant, or all of its shards, or one of them. */
export async function pageserverMove(
  tenant: string,
  to: string,
  options: MoveOptions,
): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const tenantId = tenantNamed(installation, tenant)
  const id = pageserverId(installation, to)
  const moved: TenantMoveInfo[] = []
  for (const { shard } of await placementsOf(installation, tenantId, options.shard)) {
    const timeoutMs = options.timeout * 1000
    moved.push(await moveOne(context, installation, { tenantId, shard, to: id, timeoutMs }))
  }
  context.show(moved, '')
}

export async function pageserverAbort(tenant: string, options: MoveOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const info = await callControl(installation.controlUrl, 'abortMove', {
    params: { tenantId: tenantNamed(installation, tenant) },
    body: { ...(options.shard === undefined ? {} : { shard: options.shard }) },
  })
  const name = pageserverName(installation, info.pageserverId)
  context.show(info, `The tenant stays at ${name}.\n`)
}

export async function pageserverWarm(
  tenant: string,
  at: string,
  options: MoveOptions,
): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const tenantId = tenantNamed(installation, tenant)
  const secondary = at === 'none' ? null : pageserverId(installation, at)
  const changed: TenantMoveInfo[] = []
  for (const { shard } of await placementsOf(installation, tenantId, options.shard)) {
    changed.push(
      await callControl(installation.controlUrl, 'setSecondary', {
        params: { tenantId },
        body: { pageserverId: secondary, shard },
      }),
    )
  }
  context.show(
    changed,
    secondary === null
      ? 'No warm copy is kept any more.\n'
      : `${at} keeps a warm copy from now on, and takes over first when the tenant's pageserver is lost.\n`,
  )
}

export async function pageserverRemove(name: string, options: RemoveOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change('zenith pageserver remove', async (installation) => {
    requireRunning(installation)
    const id = pageserverId(installation, name)
    const setState = (state: PageserverNode['state'], lost = false) =>
      callControl(installation.controlUrl, 'setPageserverState', {
        params: { id },
        body: { state, lost },
      })
    if (options.undo === true) {
      const node = await setState('active')
      return context.show(node, `Pageserver ${name} takes new tenants again.\n`)
    }
    if (installation.pageservers.length === 1) {
      throw new ZenithError('precondition_failed', `${name} is the only pageserver.`, {
        hint: 'Add another one first: zenith pageserver add.',
      })
    }
    if (options.lost === true) await setState('removed', true)
    else {
      await drain(context, installation, id, { ...options, setState })
      await setState('removed')
    }
    await takeOut(context, installation, id)
  })
}

async function drain(
  context: CommandContext,
  installation: Installation,
  id: number,
  how: { timeout: number; setState: (state: PageserverNode['state']) => Promise<unknown> },
): Promise<void> {
  const heirs = (await serving(installation)).filter((node) => node.id !== id)
  const here = (await placements(installation)).filter((one) => one.pageserverId === id)
  if (here.length > 0 && heirs.length === 0) {
    throw new ZenithError(
      'precondition_failed',
      'There is no other pageserver that takes tenants.',
      {
        hint: 'Add one first: zenith pageserver add.',
      },
    )
  }
  // First of all nothing new is placed on it, so that what is planned is all there is.
  await how.setState('draining')
  for (const { tenantId, shard } of here) {
    const [to] = (await serving(installation))
      .filter((node) => node.id !== id)
      .sort((a, b) => a.tenants - b.tenants)
    if (to === undefined) break
    const timeoutMs = how.timeout * 1000
    await moveOne(context, installation, { tenantId, shard, to: to.id, timeoutMs })
  }
}

/** Pageservers that take tenants, and answer. */
async function serving(installation: Installation): Promise<PageserverNode[]> {
  const { pageservers } = await callControl(installation.controlUrl, 'listPageservers')
  return pageservers.filter(({ state, answers }) => state === 'active' && answers)
}

function placements(installation: Installation): Promise<TenantMoveInfo[]> {
  return callControl(installation.controlUrl, 'listPlacements')
}

async function placementsOf(
  installation: Installation,
  tenantId: string,
  shard: number | undefined,
): Promise<TenantMoveInfo[]> {
  const own = (await placements(installation)).filter((one) => one.tenantId === tenantId)
  if (own.length === 0) {
    throw new ZenithError('not_found', `There is no tenant ${tenantId}.`, {
      hint: 'zenith tenant list shows the tenants there are.',
    })
  }
  const chosen = shard === undefined ? own : own.filter((one) => one.shard === shard)
  if (chosen.length > 0) return chosen
  throw new ZenithError('not_found', `Tenant ${tenantId} has no shard ${shard}.`, {
    hint: `It has ${own.length}, from 0 on.`,
  })
}

/** Returns when the new one is the only holder; tells how far it is on the way. */
async function moveOne(
  context: CommandContext,
  installation: Installation,
  {
    tenantId,
    shard,
    to,
    timeoutMs,
  }: { tenantId: string; shard: number; to: number; timeoutMs: number },
): Promise<TenantMoveInfo> {
  const url = installation.controlUrl
  let info = await callControl(url, 'moveTenant', { params: { tenantId }, body: { to, shard } })
  const deadline = Date.now() + timeoutMs
  let told = ''
  while (info.move !== null) {
    const line = `  ${describeMove(installation, info)}`
    if (line !== told) context.say(line)
    told = line
    if (Date.now() > deadline) {
      throw new ZenithError('timeout', `The move has not ended within ${timeoutMs / 1000} s.`, {
        hint: 'It goes on by itself: zenith pageserver list shows how far it is.',
      })
    }
    await sleep(POLL_MS)
    const own = (await placements(installation)).find(
      (one) => one.tenantId === tenantId && one.shard === shard,
    )
    info = own ?? { ...info, move: null }
  }
  if (info.pageserverId !== to) {
    throw new ZenithError('conflict', 'The move was given up meanwhile.')
  }
  const all = (await placements(installation)).filter((one) => one.tenantId === tenantId)
  const what = all.length > 1 ? `shard ${shard} of ` : ''
  context.say(`  done: ${pageserverName(installation, to)} serves ${what}tenant ${tenantId}`)
  return info
}

async function takeOut(
  context: CommandContext,
  installation: Installation,
  id: number,
): Promise<void> {
  const { pageservers } = installation.settings
  const index = pageservers.findIndex((one) => one.id === id)
  const service = installation.pageservers[index]
  if (service === undefined) return
  if (processState(service.pidFile).kind === 'alive') await stopProcess(service)
  pageservers.splice(index, 1)
  installation.save()
  // A cache of what object storage has; what it had not uploaded is read again from WAL.
  rmSync(service.dir, { recursive: true, force: true })
  context.show(
    { removed: service.name },
    `Pageserver ${service.name} is removed, with its folder ${shownPath(service.dir)}.\n`,
  )
}
