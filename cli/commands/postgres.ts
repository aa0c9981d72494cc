/** `zenith pg ...`: the Postgres servers (endpoints) of a tenant. */
import type { EndpointInfo } from '#libs/api/endpoint-info.ts'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import {
  removeComputeDir,
  spawnCompute,
  stopCompute,
  waitUntilRunning,
} from '../installation/computes.ts'
import { type Installation, shownPath } from '../installation/installation.ts'
import { isLsnText } from '../branch-place.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions, requireRunning } from './command-context.ts'

export const SUPERUSER = 'zenith_admin'
export const DATABASE = 'postgres'

/** A port that the user did not choose is chosen anew this often when another program was quicker. */
const PORT_TRIES = 3

export interface PlaceOptions extends CommonOptions {
  readonly branch?: string
  readonly port?: number
  readonly lsn?: string
  readonly at?: string
  readonly replica?: boolean
}

export interface CreateOptions extends PlaceOptions {
  readonly set?: Readonly<Record<string, string>>
}

export async function pgStart(name: string, options: PlaceOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change(`zenith pg start ${name}`, async (installation, release) => {
    requireRunning(installation)
    const target = await stateOf(context, installation, name, options)
    const info = await startPostgres(context, installation, target.name, {
      ...options,
      ...target.place,
      release,
    })
    context.show(endpointJson(info), `Starting postgres node at '${connectionString(info)}'\n`)
  })
}

/**
 * Starts an endpoint, which is made when there is none of that name but a branch. `release` is
 * called when the rest is only waiting, so that other commands can go on.
 */
export async function startPostgres(
  context: CommandContext,
  installation: Installation,
  name: string,
  how: Pick<PlaceOptions, 'branch' | 'port' | 'lsn' | 'at' | 'replica'> & { release?: () => void },
): Promise<EndpointInfo> {
  const tenantId = context.tenantId(installation)
  const url = installation.controlUrl
  const params = { tenantId, name }
  const existing = await findEndpoint(installation, tenantId, name)
  if (existing !== null && how.branch !== undefined && how.branch !== existing.branch) {
    throw new ZenithError(
      'conflict',
      `Postgres "${name}" belongs to branch "${existing.branch}", not "${how.branch}".`,
      { hint: `Choose another name: zenith pg start <name> --branch ${how.branch}.` },
    )
  }
  if (existing !== null && isReadOnly(how)) {
    throw new ZenithError(
      'conflict',
      `Postgres "${name}" is there already, as ${describeMode(existing)}.`,
      { hint: `Start it without these options, or remove it: zenith pg destroy ${name}.` },
    )
  }
  const branch = existing?.branch ?? how.branch ?? (isReadOnly(how) ? 'main' : name)
  if (existing === null) {
    const body = { name, branch, ...requestOf(how) }
    await callControl(url, 'createEndpoint', { params: { tenantId }, body })
  }
  const own = how.port ?? existing?.requestedPort ?? null
  const path = shownPath(installation.endpointDir(tenantId, name))
  for (let triesLeft = PORT_TRIES; ; triesLeft -= 1) {
    const port = how.port === undefined ? {} : { port: how.port }
    const spec = await callControl(url, 'startEndpoint', { params, body: port }).catch(
      async (error: unknown) => {
        // A refused command leaves nothing behind.
        if (existing === null) {
          await callControl(url, 'deleteEndpoint', { params }).catch(() => undefined)
        }
        throw error
      },
    )
    context.say(
      `Starting ${existing === null ? 'new' : 'existing'} postgres ${name} on ${branch}...`,
    )
    context.say(
      `Extracting base backup to create postgres instance: path=${path} port=${spec.port}`,
    )
    const child = spawnCompute(installation, spec)
    how.release?.()
    try {
      return await waitUntilRunning(installation, spec, child)
    } catch (error) {
      const portTaken = error instanceof ZenithError && error.code === 'conflict'
      if (!portTaken || own !== null || triesLeft === 0) throw error
      context.say(`${error.message} Trying another port.`)
    }
  }
}

export async function pgStop(name: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change(`zenith pg stop ${name}`, async (installation) => {
    requireRunning(installation)
    const tenantId = context.tenantId(installation)
    const before = await endpointNamed(installation, tenantId, name)
    const info = await stopCompute(installation, tenantId, name)
    const text =
      before.status === 'stopped' ? `Postgres ${name} is not running.` : `Stopped postgres ${name}.`
    context.show(endpointJson(info), `${text}\n`)
  })
}

export async function pgCreate(name: string, options: CreateOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change(`zenith pg create ${name}`, async (installation) => {
    requireRunning(installation)
    const { set: settings } = options
    const info = await callControl(installation.controlUrl, 'createEndpoint', {
      params: { tenantId: context.tenantId(installation) },
      body: {
        name,
        branch: options.branch ?? (isReadOnly(options) ? 'main' : name),
        ...requestOf(options),
        ...(settings === undefined ? {} : { settings }),
      },
    })
    context.show(
      endpointJson(info),
      `Created postgres ${name} on ${info.branch}: start it with "zenith pg start ${name}".\n`,
    )
  })
}

export async function pgDestroy(name: string, options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change(`zenith pg destroy ${name}`, async (installation) => {
    requireRunning(installation)
    const tenantId = context.tenantId(installation)
    const info = await callControl(installation.controlUrl, 'deleteEndpoint', {
      params: { tenantId, name },
    })
    removeComputeDir(installation, tenantId, name)
    context.show(
      endpointJson(info),
      `Destroyed postgres ${name}; branch ${info.branch} and its data stay.\n`,
    )
  })
}

export async function pgList(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openRunning()
  const endpoints = await callControl(installation.controlUrl, 'listEndpoints', {
    params: { tenantId: context.tenantId(installation) },
  })
  // An endpoint usually has the name of its branch; a column of its own is for the other case.
  const named = endpoints.some(({ name, branch }) => name !== branch)
  const readOnly = endpoints.some(({ mode }) => mode !== 'primary')
  const table = formatTable(
    [
      'BRANCH',
      'ADDRESS',
      'LSN',
      'STATUS',
      ...(named ? ['NAME'] : []),
      ...(readOnly ? ['MODE', 'LAG'] : []),
    ],
    endpoints.map(({ name, branch, host, port, lsn, status, mode, lagBytes }) => [
      branch,
      port === null ? null : `${host}:${port}`,
      lsn,
      status,
      ...(named ? [name] : []),
      ...(readOnly ? [mode, lagBytes === null ? null : `${lagBytes} B`] : []),
    ]),
  )
  const errors = endpoints.filter(({ error }) => error !== null)
  const reasons = errors.map(({ name, status, error }) => `${name} ${status}: ${error}\n`)
  context.show(endpoints.map(endpointJson), table)
  context.remark(reasons.join(''))
}

/**
 * `pg start dev --at <time|lsn>` shows an earlier state of branch dev beside a Postgres of that name:
 * it is named for both. A name that is no branch is the name of the server, as ever.
 */
async function stateOf(
  context: CommandContext,
  installation: Installation,
  name: string,
  { at, branch, replica }: PlaceOptions,
): Promise<{ name: string; place: { branch?: string } }> {
  if (at === undefined || branch !== undefined || replica === true) return { name, place: {} }
  const branches = await callControl(installation.controlUrl, 'listBranches', {
    params: { tenantId: context.tenantId(installation) },
  })
  if (!branches.some((one) => one.name === name)) return { name, place: {} }
  const suffix = at.toLowerCase().replaceAll(/[^0-9a-z]+/g, '-')
  return { name: `${name}-at-${suffix}`, place: { branch: name } }
}

/** Read-only servers are named for what they show, so they are on branch main unless told. */
function isReadOnly({ lsn, at, replica }: Pick<PlaceOptions, 'lsn' | 'at' | 'replica'>): boolean {
  return lsn !== undefined || at !== undefined || replica === true
}

/** The part of a request that says what kind of server it shall be. */
function requestOf({
  port,
  lsn,
  at,
  replica,
}: Pick<PlaceOptions, 'port' | 'lsn' | 'at' | 'replica'>) {
  if ((lsn !== undefined || at !== undefined) && replica === true) {
    throw new ZenithError('invalid_argument', 'A replica follows its branch, so it has no LSN.', {
      hint: 'Give one of --lsn, --at and --replica.',
    })
  }
  return {
    ...(port === undefined ? {} : { port }),
    ...(lsn === undefined && at === undefined ? {} : { mode: 'static' as const }),
    ...(at === undefined ? {} : isLsnText(at) ? { lsn: formatLsn(parseLsn(at)) } : { at }),
    ...(lsn === undefined || lsn === 'end' ? {} : { lsn: formatLsn(parseLsn(lsn)) }),
    ...(replica === true ? { mode: 'replica' as const } : {}),
  }
}

function describeMode({ mode, branch, readLsn }: EndpointInfo): string {
  if (mode === 'static') return `a read-only view of branch ${branch} at ${readLsn}`
  return mode === 'replica' ? `a replica of branch ${branch}` : `the primary of branch ${branch}`
}

export function connectionString({ host, port }: EndpointInfo): string {
  return `host=${host} port=${port} user=${SUPERUSER} dbname=${DATABASE}`
}

export function connectionUri({ host, port }: EndpointInfo): string {
  return `postgresql://${SUPERUSER}@${host}:${port}/${DATABASE}`
}

export function endpointJson(info: EndpointInfo) {
  const { name, branch, timelineId, mode, readLsn, status, host, port } = info
  const { lsn, lagBytes, error, createdAt, startedAt } = info
  return {
    name,
    branch,
    timelineId,
    mode,
    readLsn,
    status,
    host,
    port,
    user: SUPERUSER,
    database: DATABASE,
    uri: status === 'running' ? connectionUri(info) : null,
    lsn,
    lagBytes,
    error,
    createdAt,
    startedAt,
  }
}

async function findEndpoint(
  installation: Installation,
  tenantId: string,
  name: string,
): Promise<EndpointInfo | null> {
  const params = { tenantId }
  const endpoints = await callControl(installation.controlUrl, 'listEndpoints', { params })
  return endpoints.find((one) => one.name === name) ?? null
}

async function endpointNamed(
  installation: Installation,
  tenantId: string,
  name: string,
): Promise<EndpointInfo> {
  return await callControl(installation.controlUrl, 'getEndpoint', { params: { tenantId, name } })
}
