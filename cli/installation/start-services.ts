/**
 * Starts the services of an installation, in the order in which they need each other: the control
 * plane and the safekeepers at once, then the pageservers, which ask the control plane for their
 * tenants. Addresses are registered each time, since ports may have changed.
 */
import { assert, ZenithError } from '#libs/errors.ts'
import { callControl } from '#libs/api/control-client.ts'
import type { S3Config } from '#libs/object-store/s3-config.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import type { Installation, Service } from './installation.ts'
import { applyMove, HOST, movePorts, portSlots } from './ports.ts'
import { processState } from './process-record.ts'
import { probeHealth, spawnService, stopProcess, waitUntilHealthy } from './service-process.ts'
import { prepareTrust, type TrustedNode, type TrustOptions } from './trust.ts'

export interface StartReport {
  /** A port that was taken has been replaced. */
  moved(label: string, from: number, to: number): void
  started(service: Service, durationMs: number): void
  alreadyRunning(service: Service): void
}

/** Starts what does not run. When one fails, those started here are stopped again. */
export async function startServices(
  installation: Installation,
  report: StartReport,
): Promise<void> {
  // Said before anything is started: the pageserver cannot work without it.
  const postgresPrefix = findPostgres().prefix
  if (installation.settings.s3 !== null) await checkBucket(installation.settings.s3)
  const stopped = installation.services.filter((one) => processState(one.pidFile).kind !== 'alive')
  await replaceTakenPorts(installation, stopped, report)
  const trust = await prepareTrust(trustOf(installation))
  const started: Service[] = []
  const start = async (service: Service, settings: Record<string, unknown>): Promise<void> => {
    if (processState(service.pidFile).kind === 'alive') return await checkRunning(service, report)
    const startMs = Date.now()
    const child = spawnService(service, {
      ...commonSettings(installation, service),
      ...trust.get(service.name),
      ...settings,
    })
    started.push(service)
    await waitUntilHealthy(service, child)
    report.started(service, Date.now() - startMs)
  }

  try {
    const first = {
      first_endpoint_port: installation.settings.firstEndpointPort,
      ...(installation.settings.etcd.length > 0 ? { store: etcdSettings(installation) } : {}),
    }
    const shared = {
      control_plane_url: installation.controlUrl,
      discovery: discoverySettings(installation),
      object_store: installation.settings.s3 ?? {
        kind: 'local_fs',
        path: installation.objectStoreDir,
      },
    }
    const results = await Promise.allSettled([
      start(installation.control, first),
      ...installation.safekeepers.map((one) => start(one, { ...shared, name: one.name })),
    ])
    for (const result of results) if (result.status === 'rejected') throw result.reason
    await registerNodes(installation)
    const pageserver = { ...shared, postgres_prefix: postgresPrefix }
    const last = await Promise.allSettled(
      installation.pageservers.map((one) => start(one, pageserver)),
    )
    for (const result of last) if (result.status === 'rejected') throw result.reason
  } catch (error) {
    for (const service of started.reverse()) await stopProcess(service).catch(() => undefined)
    throw error
  }
}

/** Services would start without it, and wait; whoever types the command should hear why. */
async function checkBucket(config: S3Config): Promise<void> {
  const { S3ObjectStore } = await import('#libs/object-store/s3-store.ts')
  await new S3ObjectStore(config).check()
}

/** How services find each other: by the hub in the control plane, unless there is an etcd. */
function discoverySettings(installation: Installation): Record<string, unknown> {
  if (installation.settings.etcd.length > 0) return etcdSettings(installation)
  return { kind: 'embedded', url: installation.controlUrl }
}

/** Each installation has a prefix of its own, so that several can share an etcd. */
function etcdSettings({ settings }: Installation): Record<string, unknown> {
  return { kind: 'etcd', endpoints: settings.etcd, prefix: `/zenith/${settings.defaultTenant}/` }
}

function trustOf(installation: Installation): TrustOptions {
  const { dir, settings, control } = installation
  const nodes = [...installation.pageservers, ...installation.safekeepers].map(
    (service): TrustedNode => ({
      kind: service.kind === 'pageserver' ? 'pageserver' : 'safekeeper',
      id: idOf(installation, service),
      ...placeOf(service),
    }),
  )
  return { dir, controlDir: control.dir, nodes, tls: settings.tls }
}

function placeOf({ name, dir }: Service): { name: string; dir: string; host: string } {
  return { name, dir, host: HOST }
}

async function replaceTakenPorts(
  installation: Installation,
  stopped: readonly Service[],
  report: StartReport,
): Promise<void> {
  const names = new Set(stopped.map(({ name }) => name))
  const slots = portSlots(installation.settings).filter(({ key }) =>
    names.has(key.split('.')[0] ?? ''),
  )
  const moves = await movePorts(slots)
  for (const move of moves) {
    applyMove(installation.settings, move)
    report.moved(move.slot.label, move.slot.port, move.port)
  }
  if (moves.length > 0) installation.save()
}

async function checkRunning(service: Service, report: StartReport): Promise<void> {
  const health = await probeHealth(service, 5_000)
  if (health.healthy) return report.alreadyRunning(service)
  throw new ZenithError('unavailable', `The ${service.title} runs, but ${health.reason}.`, {
    hint: 'Run "zenith stop" and "zenith start"; "zenith status" shows its log.',
  })
}

function commonSettings(installation: Installation, service: Service): Record<string, unknown> {
  const id = idOf(installation, service)
  const pg = service.pgPort === null ? {} : { listen_pg_host: HOST, listen_pg_port: service.pgPort }
  return { id, ...pg, listen_http_host: HOST, listen_http_port: service.httpPort }
}

function idOf({ settings }: Installation, { kind, name }: Service): number {
  if (kind === 'control') return 1
  const nodes = kind === 'safekeeper' ? settings.safekeepers : settings.pageservers
  const node = nodes.find((one) => one.name === name)
  assert(node !== undefined, `${name} is in the settings`)
  return node.id
}

async function registerNodes(installation: Installation): Promise<void> {
  const { pageservers, safekeepers } = installation.settings
  const url = installation.controlUrl
  const body = ({ pgPort, httpPort }: { pgPort: number; httpPort: number }) => ({
    host: HOST,
    pgPort,
    httpPort,
  })
  for (const one of pageservers) {
    await callControl(url, 'registerPageserver', { params: { id: one.id }, body: body(one) })
  }
  for (const one of safekeepers) {
    await callControl(url, 'registerSafekeeper', { params: { id: one.id }, body: body(one) })
  }
}
