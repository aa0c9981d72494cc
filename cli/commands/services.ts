/** `zenith start`, `stop` and `status`. */
import { callControl } from '#libs/api/control-client.ts'
import type { EndpointInfo } from '#libs/api/endpoint-info.ts'
import { type Installation, type Service, shownPath } from '../installation/installation.ts'
import { HOST } from '../installation/ports.ts'
import { processState } from '../installation/process-record.ts'
import { describeLog, probeHealth } from '../installation/service-process.ts'
import { type StartReport, startServices } from '../installation/start-services.ts'
import { type StopReport, stopServices } from '../installation/stop-services.ts'
import { formatTable } from '../output/table.ts'
import { CommandContext, type CommonOptions } from './command-context.ts'

/** Exit codes of `status`, as those of `pg_ctl status` and `systemctl status`. */
const STATUS_EXIT = { running: 0, crashed: 1, stopped: 3 } as const

export async function start(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  await context.change('zenith start', async (installation) => {
    await startServices(installation, startReport(context))
    context.show(await servicesOf(installation), '')
  })
}

export async function stop(options: CommonOptions & { immediate?: boolean }): Promise<void> {
  const context = new CommandContext(options)
  const run = async (installation: Installation): Promise<void> => {
    const stopped: string[] = []
    const count = await stopServices(installation, stopReport(context, stopped), options)
    context.show({ stopped }, count === 0 ? 'Zenith is not running.\n' : '')
  }
  await context.change('zenith stop', run, { unfinished: true })
}

/** Sets the exit code: 0 all run, 1 something crashed or does not answer, 3 all stopped. */
export async function status(options: CommonOptions): Promise<void> {
  const context = new CommandContext(options)
  const installation = context.openAny()
  const services = await servicesOf(installation)
  const endpoints = await endpointsOf(installation)
  const bad = services.filter((one) => one.status !== 'running' && one.status !== 'stopped')
  const allStopped = services.every((one) => one.status === 'stopped')
  const someStopped = !allStopped && services.some((one) => one.status === 'stopped')

  const text = [serviceTable(services)]
  if (endpoints.length > 0) text.push(endpointTable(endpoints))
  if (allStopped) text.push('Zenith is stopped: start it with "zenith start".\n')
  for (const one of bad) text.push(`${sentence(one)}\n${describeLog(one.logFile)}\n`)
  context.show(
    { dir: context.dir, services, endpoints: endpoints.map(endpointJson) },
    text.join('\n'),
  )
  if (bad.length > 0 || someStopped) process.exitCode = STATUS_EXIT.crashed
  else process.exitCode = allStopped ? STATUS_EXIT.stopped : STATUS_EXIT.running
}

export interface ServiceStatus {
  readonly name: string
  readonly title: string
  readonly status: 'running' | 'stopped' | 'crashed' | 'unhealthy'
  /** Why it is unhealthy, or null. */
  readonly reason: string | null
  readonly pid: number | null
  readonly host: string
  readonly httpPort: number
  readonly pgPort: number | null
  readonly logFile: string
}

export async function servicesOf(installation: Installation): Promise<ServiceStatus[]> {
  return await Promise.all(installation.services.map(statusOf))
}

async function statusOf(service: Service): Promise<ServiceStatus> {
  const { name, title, httpPort, pgPort, logFile } = service
  const state = processState(service.pidFile)
  const common = { name, title, host: HOST, httpPort, pgPort, logFile }
  if (state.kind === 'none' || state.kind === 'before-boot') {
    return { ...common, status: 'stopped', reason: null, pid: null }
  }
  if (state.kind === 'ended') return { ...common, status: 'crashed', reason: null, pid: null }
  const health = await probeHealth(service, 3_000)
  const status = health.healthy ? 'running' : 'unhealthy'
  return { ...common, status, reason: health.healthy ? null : health.reason, pid: state.pid }
}

/** Endpoints that run or should; none while the control plane does not answer. */
async function endpointsOf(installation: Installation): Promise<EndpointInfo[]> {
  if (processState(installation.control.pidFile).kind !== 'alive') return []
  try {
    const url = installation.controlUrl
    const tenants = await callControl(url, 'listTenants', { timeoutMs: 3_000 })
    const lists = await Promise.all(
      tenants.map(({ tenantId }) =>
        callControl(url, 'listEndpoints', { params: { tenantId }, timeoutMs: 10_000 }),
      ),
    )
    return lists.flat()
  } catch {
    // The table of services tells what is wrong.
    return []
  }
}

function serviceTable(services: readonly ServiceStatus[]): string {
  return formatTable(
    ['SERVICE', 'ADDRESS', 'HTTP', 'PID', 'STATUS'],
    services.map(({ title, host, pgPort, httpPort, pid, status: word }) => [
      title,
      pgPort === null ? null : `${host}:${pgPort}`,
      `${host}:${httpPort}`,
      pid,
      word,
    ]),
  )
}

function endpointTable(endpoints: readonly EndpointInfo[]): string {
  return formatTable(
    ['POSTGRES', 'BRANCH', 'ADDRESS', 'LSN', 'STATUS'],
    endpoints.map(({ name, branch, host, port, lsn, status: word }) => [
      name,
      branch,
      port === null ? null : `${host}:${port}`,
      lsn,
      word,
    ]),
  )
}

function endpointJson({ name, branch, host, port, lsn, status: word }: EndpointInfo) {
  return { name, branch, host, port, lsn, status: word }
}

function sentence({ title, status: word, reason }: ServiceStatus): string {
  if (word === 'crashed') return `The ${title} has crashed; "zenith start" starts it again.`
  return `The ${title} runs but is not well: ${reason}.`
}

/** Says what a start does, line by line. */
export function startReport(context: CommandContext): StartReport {
  const address = ({ pgPort, httpPort }: Service): string => `${HOST}:${pgPort ?? httpPort}`
  const verb = (service: Service, what: string): string =>
    `${service.title.charAt(0).toUpperCase()}${service.title.slice(1)} ${what}`
  return {
    moved: (label, from, to) => context.say(`Port ${from} (${label}) is taken; using ${to}.`),
    started: (service, durationMs) =>
      context.say(
        `${verb(service, 'started')} at ${address(service)} in ${shownPath(service.dir)} (${seconds(durationMs)})`,
      ),
    alreadyRunning: (service) =>
      context.say(`${verb(service, 'is running already')} at ${address(service)}`),
  }
}

function stopReport(context: CommandContext, stopped: string[]): StopReport {
  return {
    stopped: (title, durationMs) => {
      stopped.push(title)
      context.say(`${title} stopped (${seconds(durationMs)})`)
    },
    failed: (title, reason) => process.stderr.write(`${title} did not stop: ${reason}\n`),
  }
}

function seconds(durationMs: number): string {
  return `${(durationMs / 1000).toFixed(1)} s`
}
