/**
 * `zenith init`: makes the folder, starts the services, creates the first tenant with its branch
 * `main`, and stops the services again. Interrupted, it continues when repeated.
 */
import { existsSync, readdirSync, statSync } from 'node:fs'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import { newTenantId } from '#libs/ids.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { Installation, lockInstallation, shownPath } from '../installation/installation.ts'
import { applyMove, DEFAULT_PORTS, movePorts, portSlots } from '../installation/ports.ts'
import { FIRST_PAGESERVER, type Settings } from '../installation/settings.ts'
import { startServices } from '../installation/start-services.ts'
import { stopServices } from '../installation/stop-services.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'
import { s3ConfigOf } from './object-storage.ts'
import { startReport } from './services.ts'

const CREATE_TIMEOUT_MS = 180_000

export interface InitOptions extends CommonOptions {
  readonly safekeepers: number
  readonly pageservers: number
  readonly controlPort?: number
  readonly pageserverPort?: number
  readonly pageserverHttpPort?: number
  readonly safekeeperPort?: number
  readonly safekeeperHttpPort?: number
  readonly postgresPort?: number
  /** Client addresses of an etcd cluster. */
  readonly etcd?: readonly string[]
  /** Safekeepers speak TLS alone, with certificates of an authority made for it. */
  readonly tls?: boolean
  /** `s3://bucket/prefix`: where layers and WAL are kept. */
  readonly storage?: string
  readonly s3Endpoint?: string
  readonly s3Region?: string
  readonly s3PathStyle?: boolean
}

export async function init(options: InitOptions): Promise<void> {
  const context = new CommandContext(options)
  await initialize(context, options, { keepRunning: false })
}

/** Makes an installation; with `keepRunning` its services run on. */
export async function initialize(
  context: CommandContext,
  options: InitOptions,
  how: { keepRunning: boolean },
): Promise<void> {
  findPostgres()
  refuseOccupied(context.dir)
  const lock = await lockInstallation(context.dir, 'zenith init')
  try {
    const installation =
      Installation.openUnfinished(context.dir) ?? (await create(context, options))
    if (installation.settings.initialized) throw alreadyThere(context.dir)
    await startServices(installation, startReport(context))
    const tenantId = installation.settings.defaultTenant
    const tenant = await callControl(installation.controlUrl, 'createTenant', {
      body: { tenantId },
      timeoutMs: CREATE_TIMEOUT_MS,
    })
    installation.settings.initialized = true
    installation.save()
    if (!how.keepRunning) {
      await stopServices(installation, { stopped: () => undefined, failed: () => undefined })
    }
    context.show(
      { dir: context.dir, tenantId, timelineId: tenant.mainTimelineId, branch: 'main' },
      `Created tenant ${tenantId}\n` +
        `Created initial timeline ${tenant.mainTimelineId}\n` +
        `Created main branch in ${shownPath(context.dir)}\n`,
    )
  } finally {
    lock.release()
  }
}

async function create(context: CommandContext, options: InitOptions): Promise<Installation> {
  const settings = settingsOf(options)
  for (const move of await movePorts(portSlots(settings))) {
    applyMove(settings, move)
    const { label, port } = move.slot
    context.say(`Port ${port} (${label}) is taken; using ${move.port}.`)
  }
  return Installation.create(context.dir, settings)
}

function settingsOf(options: InitOptions): Settings {
  const pgPort = options.safekeeperPort ?? DEFAULT_PORTS.safekeeperPg
  const httpPort = options.safekeeperHttpPort ?? DEFAULT_PORTS.safekeeperHttp
  const numbers = Array.from({ length: options.safekeepers }, (_, index) => index)
  const askedPorts = []
  if (options.controlPort !== undefined) askedPorts.push('control.http')
  if (options.pageserverPort !== undefined) askedPorts.push('pageserver.pg')
  if (options.pageserverHttpPort !== undefined) askedPorts.push('pageserver.http')
  for (const index of numbers) {
    if (options.safekeeperPort !== undefined) askedPorts.push(`sk${index + 1}.pg`)
    if (options.safekeeperHttpPort !== undefined) askedPorts.push(`sk${index + 1}.http`)
  }
  return {
    initialized: false,
    defaultTenant: newTenantId(),
    askedPorts,
    etcd: options.etcd ?? [],
    tls: options.tls === true,
    s3: s3ConfigOf(options),
    firstEndpointPort: options.postgresPort ?? DEFAULT_PORTS.firstEndpoint,
    control: { httpPort: options.controlPort ?? DEFAULT_PORTS.controlHttp },
    pageservers: Array.from({ length: options.pageservers }, (_, index) => ({
      id: index + 1,
      name: index === 0 ? FIRST_PAGESERVER : `ps${index + 1}`,
      pgPort: (options.pageserverPort ?? DEFAULT_PORTS.pageserverPg) + index,
      httpPort: (options.pageserverHttpPort ?? DEFAULT_PORTS.pageserverHttp) + index,
    })),
    safekeepers: numbers.map((index) => ({
      id: index + 1,
      name: `sk${index + 1}`,
      pgPort: pgPort + index,
      httpPort: httpPort + index,
    })),
  }
}

/** Nothing that is not ours is touched, and nothing that is there is made again. */
function refuseOccupied(dir: string): void {
  if (!existsSync(dir)) return
  if (!statSync(dir).isDirectory()) {
    throw new ZenithError('already_exists', `${shownPath(dir)} is a file, so it is left alone.`, {
      hint: 'Name another place by --dir or ZENITH_DIR.',
    })
  }
  const unfinished = Installation.openUnfinished(dir)
  if (unfinished !== null) {
    if (unfinished.settings.initialized) throw alreadyThere(dir)
    return
  }
  const names = readdirSync(dir).filter((name) => name !== 'lock')
  if (names.length === 0) return
  throw new ZenithError(
    'already_exists',
    `${shownPath(dir)} is not empty and holds no config.toml, so it is left alone: ` +
      `there is ${names.slice(0, 3).join(', ')}${names.length > 3 ? ', ...' : ''}.`,
    {
      hint:
        'If an older Zenith made it, move it away. Otherwise name another folder by --dir or ' +
        'ZENITH_DIR.',
    },
  )
}

function alreadyThere(dir: string): ZenithError {
  return new ZenithError('already_exists', `There is a Zenith installation in ${shownPath(dir)}.`, {
    hint: 'Start it with "zenith start". To begin anew, stop it and delete that folder.',
  })
}
