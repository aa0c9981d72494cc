/** `zenith branch list|info|delete|rename|reset|restore|detach|archive|...`: the life of branches. */
import { callControl } from '#libs/api/control-client.ts'
import type { BranchDetails, ReplacedBranch } from '#libs/api/lifecycle.ts'
import { ZenithError } from '#libs/errors.ts'
import { computeOf, removeComputeDir, stopCompute } from '../installation/computes.ts'
import type { Installation } from '../installation/installation.ts'
import { stopProcess } from '../installation/service-process.ts'
import { formatBytes } from '../output/progress.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions, requireRunning } from './command-context.ts'
import { startPostgres } from './postgres.ts'

export interface DeleteOptions extends CommonOptions {
  readonly force?: boolean
  readonly evenMain?: boolean
}

export interface ReplaceOptions extends CommonOptions {
  readonly keepAs?: string
  readonly discard?: boolean
  readonly start?: boolean
  readonly dropSubscriptions?: boolean
}

/** Computes are stopped and ancestors flushed before the answer comes. */
const TIMEOUT_MS = 180_000
const LSN = /^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/

export async function branchList(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const branches = await callControl(installation.controlUrl, 'listBranchDetails', {
    params: { tenantId: context.tenantId(installation) },
  })
  const size = (bytes: number | null | undefined) =>
    bytes === null || bytes === undefined ? null : formatBytes(bytes)
  const rows = branches.map((branch) => [
    branch.name,
    stateOf(branch),
    branch.parent === null ? null : `${branch.parent}@${branch.branchLsn}`,
    size(branch.sizes?.logicalBytes),
    size(physicalOf(branch)),
    size(branch.sizes?.writtenBytes),
  ])
  const header = ['BRANCH', 'STATE', 'FROM', 'LOGICAL', 'PHYSICAL', 'WRITTEN']
  context.show(branches, formatTable(header, rows))
}

export async function branchInfo(name: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const params = { tenantId: context.tenantId(installation), name }
  const branch = await callControl(installation.controlUrl, 'getBranchDetails', { params })
  const { sizes, children, endpoints } = branch
  const lines: [string, string][] = [
    ['Branch', branch.name],
    ['State', stateOf(branch)],
    ['Timeline', branch.timelineId],
    [
      'From',
      branch.parent === null
        ? 'nothing: all history is its own'
        : `${branch.parent} at ${branch.branchLsn}`,
    ],
    ['Children', children.length === 0 ? 'none' : children.join(', ')],
    [
      'Postgres',
      endpoints.length === 0
        ? 'none'
        : endpoints.map((one) => `${one.name} (${one.status})`).join(', '),
    ],
  ]
  if (sizes === null) lines.push(['Sizes', 'not known while the pageserver does not answer'])
  else {
    const adopted = sizes.adoptedBytes
    const physical = formatBytes(sizes.ownBytes + adopted)
    lines.push(
      [
        'Logical',
        sizes.logicalBytes === null ? 'not known while archived' : formatBytes(sizes.logicalBytes),
      ],
      [
        'Physical',
        adopted === 0 ? physical : `${physical}, of which ${formatBytes(adopted)} taken over`,
      ],
      ['Written', `${formatBytes(sizes.writtenBytes)} of WAL since it began`],
    )
  }
  lines.push(['Behind', describeLag(branch)])
  const width = Math.max(...lines.map(([label]) => label.length))
  const text = lines.map(([label, value]) => `${`${label}:`.padEnd(width + 2)}${value}\n`)
  context.show(branch, text.join(''))
}

export async function branchDelete(name: string, options: DeleteOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change(`zenith branch delete ${name}`, async (installation) => {
    requireRunning(installation)
    const tenantId = context.tenantId(installation)
    const params = { tenantId, name }
    const before = await callControl(installation.controlUrl, 'getBranchDetails', { params })
    const deleted = await callControl(installation.controlUrl, 'deleteBranch', {
      params,
      query: {
        ...(options.force ? { force: 'true' } : {}),
        ...(options.evenMain ? { evenMain: 'true' } : {}),
      },
      timeoutMs: TIMEOUT_MS,
    })
    for (const { name: endpoint } of before.endpoints) {
      await stopProcess(computeOf(installation, tenantId, endpoint))
      removeComputeDir(installation, tenantId, endpoint)
    }
    context.show(deleted, `Deleted branch ${name}. The name is free again.\n`)
  })
}

export async function branchRename(
  name: string,
  to: string,
  options: CommonOptions,
): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const renamed = await callControl(installation.controlUrl, 'renameBranch', {
    params: { tenantId: context.tenantId(installation), name },
    body: { to },
  })
  context.show(
    renamed,
    `Branch ${name} is called ${to} now. Its Postgres servers keep their names.\n`,
  )
}

export async function branchReset(name: string, options: ReplaceOptions): Promise<void> {
  await replace(name, options, `zenith branch reset ${name}`, async (url, params) => {
    const body = {
      ...replaceBody(options),
      ...(options.dropSubscriptions ? { dropSubscriptions: true } : {}),
    }
    const done = await callControl(url, 'resetBranch', { params, body, timeoutMs: TIMEOUT_MS })
    return [done, `Branch ${name} shows its parent ${done.branch.parent} as of ${done.lsn}.`]
  })
}

export async function branchRestore(
  name: string,
  place: string,
  options: ReplaceOptions,
): Promise<void> {
  await replace(name, options, `zenith branch restore ${name}`, async (url, params) => {
    const body = { ...replaceBody(options), ...(LSN.test(place) ? { lsn: place } : { at: place }) }
    const done = await callControl(url, 'restoreBranch', { params, body, timeoutMs: TIMEOUT_MS })
    return [done, `Branch ${name} is as it was at ${done.lsn}.`]
  })
}

export async function branchDetach(name: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const params = { tenantId: context.tenantId(installation), name }
  const { controlUrl } = installation
  const before = await callControl(controlUrl, 'getBranchDetails', { params })
  const detached = await callControl(controlUrl, 'detachBranch', {
    params,
    body: {},
    timeoutMs: TIMEOUT_MS,
  })
  context.show(
    detached,
    before.parent === null
      ? `Branch ${name} depends on no other branch already.\n`
      : `Branch ${name} no longer needs ${before.parent}; nothing was copied.\n` +
          `When nothing else does: zenith branch delete ${before.parent}\n`,
  )
}

export async function branchArchive(name: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const archived = await callControl(installation.controlUrl, 'archiveBranch', {
    params: { tenantId: context.tenantId(installation), name },
    body: {},
    timeoutMs: TIMEOUT_MS,
  })
  context.show(
    archived,
    `Branch ${name} is kept in object storage only. Bring it back: zenith branch unarchive ${name}\n`,
  )
}

export async function branchUnarchive(name: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const params = { tenantId: context.tenantId(installation), name }
  const { controlUrl } = installation
  const before = await callControl(controlUrl, 'getBranchDetails', { params })
  const active = await callControl(controlUrl, 'unarchiveBranch', {
    params,
    body: {},
    timeoutMs: TIMEOUT_MS,
  })
  const text =
    before.state === 'active'
      ? `Branch ${name} is not archived.`
      : `Branch ${name} is back as it was. Start it: zenith pg start ${name}`
  context.show(active, `${text}\n`)
}

export async function branchProtect(
  name: string,
  on: boolean,
  options: CommonOptions,
): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const branch = await callControl(installation.controlUrl, 'protectBranch', {
    params: { tenantId: context.tenantId(installation), name },
    body: { protected: on },
  })
  const text = on
    ? `Branch ${name} is protected: it is not deleted, reset or restored.\n`
    : `Branch ${name} is not protected any more.\n`
  context.show(branch, text)
}

/** Computes that ran are started again on what the branch is now, unless that is not wanted. */
async function replace(
  name: string,
  options: ReplaceOptions,
  purpose: string,
  run: (
    url: string,
    params: { tenantId: string; name: string },
  ) => Promise<[ReplacedBranch, string]>,
): Promise<void> {
  const context = new CommandContext(options)
  await context.change(purpose, async (installation) => {
    requireRunning(installation)
    const params = { tenantId: context.tenantId(installation), name }
    const [done, text] = await run(installation.controlUrl, params)
    const lines = [text]
    if (done.kept !== null) {
      lines.push(`What it was before is branch ${done.kept}: zenith branch delete ${done.kept}`)
    }
    lines.push(...(await restart(context, installation, done.stopped, options.start !== false)))
    context.show(done, `${lines.join('\n')}\n`)
  })
}

async function restart(
  context: CommandContext,
  installation: Installation,
  names: readonly string[],
  wanted: boolean,
): Promise<string[]> {
  const lines: string[] = []
  for (const name of names) {
    await stopCompute(installation, context.tenantId(installation), name)
    if (!wanted) {
      lines.push(`Postgres ${name} was stopped. Start it again: zenith pg start ${name}`)
      continue
    }
    try {
      await startPostgres(context, installation, name, {})
      lines.push(`Postgres ${name} was started anew.`)
    } catch (error) {
      throw new ZenithError(
        'unavailable',
        `The branch is done, but postgres "${name}" did not start again: ${error instanceof Error ? error.message : String(error)}`,
        { hint: `Start it: zenith pg start ${name}.`, cause: error },
      )
    }
  }
  return lines
}

function replaceBody({ keepAs, discard }: ReplaceOptions): { keepAs?: string; discard?: boolean } {
  return { ...(keepAs === undefined ? {} : { keepAs }), ...(discard ? { discard } : {}) }
}

function stateOf(branch: BranchDetails): string {
  return branch.protected ? `${branch.state}, protected` : branch.state
}

/** How far the pageserver is behind what Postgres has committed. */
function describeLag({ lag, state }: BranchDetails): string {
  if (state === 'archived') return 'nothing: it is archived'
  if (lag === null) return 'not known while the pageserver or its safekeepers do not answer'
  const { bytes, ms, unstoredBytes } = lag
  const age = ms === null ? '' : `, the oldest of it ${(ms / 1000).toFixed(1)} s old`
  const behind = bytes === 0 ? 'nothing' : `${formatBytes(bytes)} of WAL${age}`
  return unstoredBytes === 0
    ? `${behind}; all is in object storage`
    : `${behind}; ${formatBytes(unstoredBytes)} not in object storage yet`
}

function physicalOf({ sizes }: BranchDetails): number | null {
  return sizes === null ? null : sizes.ownBytes + sizes.adoptedBytes
}
