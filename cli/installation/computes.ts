/** The compute processes of an installation, as far as the command line starts and stops them. */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import type { EndpointInfo } from '#libs/api/endpoint-info.ts'
import { callControl } from '#libs/api/control-client.ts'
import { ZenithError } from '#libs/errors.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { removeUnprivilegedDir } from '#libs/system-user.ts'
import type { Installation } from './installation.ts'
import { processState } from './process-record.ts'
import { describeLog, type SpawnedProcess, spawnDetached, stopProcess } from './service-process.ts'

const START_TIMEOUT_MS = 120_000
const POLL_MS = 20

export interface ComputeProcess {
  readonly title: string
  readonly tenantId: string
  readonly endpoint: string
  readonly dir: string
  readonly pidFile: string
  readonly logFile: string
}

/** Starts the process for a spec that the control plane has just given out. */
export function spawnCompute(installation: Installation, spec: ComputeSpec): SpawnedProcess {
  const compute = computeOf(installation, spec.tenantId, spec.endpoint)
  mkdirSync(compute.dir, { recursive: true })
  const specFile = join(compute.dir, 'spec.json')
  const postgresPrefix = findPostgres().prefix
  // It holds the compute's token.
  rmSync(specFile, { force: true })
  writeFileSync(specFile, `${JSON.stringify({ ...spec, postgresPrefix }, null, 2)}\n`, {
    mode: 0o600,
  })
  return spawnDetached({
    program: 'compute/main.ts',
    args: ['--spec', specFile],
    dir: compute.dir,
    logFile: compute.logFile,
    pidFile: compute.pidFile,
  })
}

/** What Postgres says last when something else listens on its port (ServerLoop's sockets, postmaster.c). */
const PORT_TAKEN = 'could not create any TCP/IP sockets'

/**
 * Waits until Postgres accepts connections. Throws with the reason and the end of the log: `conflict`
 * when another program took the port after it had been found free, else `unavailable`, `timeout`.
 */
export async function waitUntilRunning(
  installation: Installation,
  spec: ComputeSpec,
  child: SpawnedProcess,
): Promise<EndpointInfo> {
  const deadline = Date.now() + START_TIMEOUT_MS
  const params = { tenantId: spec.tenantId, name: spec.endpoint }
  const compute = computeOf(installation, spec.tenantId, spec.endpoint)
  for (;;) {
    // Read before asking: a process that reported its end and left is then not taken for silent.
    const ending = child.ending()
    const info = await callControl(installation.controlUrl, 'getEndpoint', { params })
    if (info.attempt === spec.attempt && info.status === 'running') return info
    const failed = info.attempt !== spec.attempt || isOver(info.status)
    if (failed || ending !== null) {
      if (info.attempt === spec.attempt && info.error?.includes(PORT_TAKEN) === true) {
        throw new ZenithError(
          'conflict',
          `Another program has just taken port ${spec.port}, where Postgres "${spec.endpoint}" was to listen.`,
          { hint: `Try again, or choose another: zenith pg start ${spec.endpoint} --port <port>.` },
        )
      }
      const reason = info.error ?? `its process ended (${ending ?? info.status})`
      throw new ZenithError(
        'unavailable',
        `Postgres "${spec.endpoint}" could not start: ${reason}\n${describeLog(compute.logFile, child.logStart)}`,
        settingsHint(info),
      )
    }
    if (Date.now() > deadline) {
      throw new ZenithError(
        'timeout',
        `Postgres "${spec.endpoint}" is not up after ${START_TIMEOUT_MS / 1000} s.\n` +
          describeLog(compute.logFile, child.logStart),
        { hint: 'A compute needs a majority of the safekeepers: see "zenith status".' },
      )
    }
    await sleep(POLL_MS)
  }
}

/** A setting may be what keeps Postgres from starting, so the way back is shown. */
function settingsHint({ name, settings, systemSettings }: EndpointInfo): { hint?: string } {
  const chosen = Object.entries({ ...settings, ...systemSettings })
  const [first] = chosen
  if (first === undefined) return {}
  const list = chosen.map(([setting, value]) => `${setting}=${value}`).join(', ')
  const reset = chosen.length === 1 ? `--reset ${first[0]}` : '--reset <setting>'
  return {
    hint: `Settings of its own: ${list}. To put one back to its default: zenith pg set ${name} ${reset}`,
  }
}

/** Stops one compute through the control plane, then makes sure that its process has gone. */
export async function stopCompute(
  installation: Installation,
  tenantId: string,
  endpoint: string,
): Promise<EndpointInfo> {
  const params = { tenantId, name: endpoint }
  const info = await callControl(installation.controlUrl, 'stopEndpoint', {
    params,
    timeoutMs: 90_000,
  })
  await stopProcess(computeOf(installation, tenantId, endpoint))
  return info
}

/** Removes the folder of an endpoint: its data is in the storage, not there. */
export function removeComputeDir(
  installation: Installation,
  tenantId: string,
  endpoint: string,
): void {
  const dir = installation.endpointDir(tenantId, endpoint)
  removeUnprivilegedDir(join(dir, 'pgdata'))
  rmSync(dir, { recursive: true, force: true })
}

/** The computes whose processes are alive, whatever the control plane knows. */
export function liveComputes(installation: Installation): ComputeProcess[] {
  const found: ComputeProcess[] = []
  for (const tenantId of foldersIn(installation.computesDir)) {
    for (const endpoint of foldersIn(join(installation.computesDir, tenantId))) {
      const compute = computeOf(installation, tenantId, endpoint)
      if (processState(compute.pidFile).kind === 'alive') found.push(compute)
    }
  }
  return found
}

export function computeOf(
  installation: Installation,
  tenantId: string,
  endpoint: string,
): ComputeProcess {
  const dir = installation.endpointDir(tenantId, endpoint)
  return {
    title: `Postgres "${endpoint}"`,
    tenantId,
    endpoint,
    dir,
    pidFile: join(dir, 'compute.pid'),
    logFile: join(dir, 'compute.log'),
  }
}

function isOver(status: EndpointInfo['status']): boolean {
  return status === 'crashed' || status === 'fenced' || status === 'stopped'
}

function foldersIn(dir: string): string[] {
  if (!existsSync(dir)) return []
  const entries = readdirSync(dir, { withFileTypes: true })
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
}
