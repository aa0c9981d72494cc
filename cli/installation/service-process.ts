/** Starts and stops one service process, and knows what to say when it does not do what it should. */
import { spawn } from 'node:child_process'
import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { stringify } from 'smol-toml'
import { ZenithError } from '#libs/errors.ts'
import { requestText } from '#libs/http/client.ts'
import { type Service, shownPath } from './installation.ts'
import { logTail } from './log-tail.ts'
import { HOST } from './ports.ts'
import { forgetProcess, processState, recordProcess } from './process-record.ts'

/** A pageserver with much to load may take its time; a process that ends is noticed at once. */
const START_TIMEOUT_MS = 120_000
/** A clean stop of a pageserver writes and uploads what is in memory. */
const STOP_TIMEOUT_MS = 120_000
const POLL_MS = 15
const MAX_LOG_BYTES = 16 * 1024 * 1024

export interface SpawnedProcess {
  readonly pid: number
  /** Size of the log when it started: what comes after is its own. */
  readonly logStart: number
  /** How it ended, or null while it runs: `exit code 1`, `SIGKILL`. */
  ending(): string | null
}

/** Starts a TypeScript program of this project that outlives the command; its output goes to a log. */
export function spawnDetached(options: {
  program: string
  args: readonly string[]
  dir: string
  logFile: string
  pidFile: string
}): SpawnedProcess {
  mkdirSync(options.dir, { recursive: true })
  const log = openLog(options.logFile)
  const logStart = fstatSync(log).size
  const script = fileURLToPath(new URL(`../../${options.program}`, import.meta.url))
  const child = spawn(process.execPath, [script, ...options.args], {
    cwd: options.dir,
    detached: true,
    stdio: ['ignore', log, log],
  })
  closeSync(log)
  if (child.pid === undefined) {
    throw new ZenithError('internal', `${process.execPath} could not be started.`)
  }
  recordProcess(options.pidFile, child.pid)
  child.unref()
  let ending: string | null = null
  child.on('error', (error) => {
    ending = error.message
  })
  child.on('exit', (code, signal) => {
    ending = signal ?? `exit code ${code}`
  })
  return { pid: child.pid, logStart, ending: () => ending }
}

/** Writes the settings of a service and starts it; `waitUntilHealthy` tells when it is up. */
export function spawnService(service: Service, settings: Record<string, unknown>): SpawnedProcess {
  mkdirSync(service.dir, { recursive: true })
  const header = '# Written by "zenith start" from config.toml of the installation.\n'
  writeFileSync(service.configFile, header + stringify(settings))
  return spawnDetached({
    program: `${service.kind}/main.ts`,
    args: ['--config', service.configFile],
    dir: service.dir,
    logFile: service.logFile,
    pidFile: service.pidFile,
  })
}

/** Throws with the end of the log when the process ends instead of becoming healthy. */
export async function waitUntilHealthy(service: Service, child: SpawnedProcess): Promise<void> {
  const deadline = Date.now() + START_TIMEOUT_MS
  let health: Health = { healthy: false, reason: 'it does not answer' }
  while (Date.now() < deadline) {
    const ending = child.ending()
    if (ending !== null) {
      forgetProcess(service.pidFile)
      throw crashed(`The ${service.title} could not start (${ending}).`, service.logFile, child)
    }
    health = await probeHealth(service, 2_000)
    if (health.healthy) return
    await sleep(POLL_MS)
  }
  throw crashed(
    `The ${service.title} is not ready after ${START_TIMEOUT_MS / 1000} s: ${health.reason}.`,
    service.logFile,
    child,
  )
}

export interface Health {
  readonly healthy: boolean
  /** What is the matter when it is not healthy. */
  readonly reason: string
}

/**
 * Asks a service how it is. Never throws. An answer counts only if it is from the process of this
 * installation: two that start at once may have chosen the same free ports, and who came second must
 * not take the other's services for its own while its process is about to end.
 */
export async function probeHealth(service: Service, timeoutMs: number): Promise<Health> {
  try {
    const ca = service.authority
    const url = `${ca === null ? 'http' : 'https'}://${HOST}:${service.httpPort}/healthz`
    const tls = ca === null ? null : { ca: readFileSync(ca, 'utf8') }
    const answer = await requestText('GET', url, undefined, { timeoutMs, tls })
    const { status, pid } = JSON.parse(answer.text) as { status?: string; pid?: number }
    if (pid !== undefined && !isProcess(service, pid)) {
      return { healthy: false, reason: `another process, ${pid}, answers on its port` }
    }
    return { healthy: answer.status === 200, reason: status ?? `it answers ${answer.status}` }
  } catch (error) {
    const late = error instanceof ZenithError && error.code === 'timeout'
    const reason = late ? `no answer within ${timeoutMs / 1000} s` : 'it does not answer'
    return { healthy: false, reason }
  }
}

function isProcess({ pidFile }: Service, pid: number): boolean {
  const state = processState(pidFile)
  return state.kind === 'alive' && state.pid === pid
}

/**
 * Stops a process by SIGTERM and waits until it has ended; true when there was one to stop. With
 * `immediate` it is killed: what was acknowledged survives that, the next start takes longer.
 */
export async function stopProcess(
  process_: { readonly title: string; readonly pidFile: string; readonly logFile: string },
  options: { immediate?: boolean } = {},
): Promise<boolean> {
  const state = processState(process_.pidFile)
  if (state.kind !== 'alive') {
    forgetProcess(process_.pidFile)
    return false
  }
  signal(state.pid, options.immediate === true ? 'SIGKILL' : 'SIGTERM')
  const deadline = Date.now() + STOP_TIMEOUT_MS
  while (processState(process_.pidFile).kind === 'alive') {
    if (Date.now() > deadline) {
      throw new ZenithError(
        'timeout',
        `The ${process_.title} (process ${state.pid}) has not stopped within ` +
          `${STOP_TIMEOUT_MS / 1000} s. Its log is ${shownPath(process_.logFile)}.`,
        { hint: 'Wait and repeat "zenith stop", or use "zenith stop --immediate".' },
      )
    }
    await sleep(POLL_MS)
  }
  forgetProcess(process_.pidFile)
  return true
}

/** An error that shows the end of the log of a process that was just started. */
function crashed(message: string, logFile: string, child: SpawnedProcess): ZenithError {
  return new ZenithError('unavailable', `${message}\n${describeLog(logFile, child.logStart)}`)
}

/** The end of a log, indented, with where the rest is; `from` leaves out what earlier runs wrote. */
export function describeLog(logFile: string, from = 0): string {
  const lines = logTail(logFile, { from })
  if (lines.length === 0) return `Its log, ${shownPath(logFile)}, is empty.`
  const tail = lines.map((line) => `    ${line}`).join('\n')
  return `Its log, ${shownPath(logFile)}, ends:\n${tail}`
}

function openLog(file: string): number {
  // One older log is kept, so that a crash loop cannot fill the disk.
  const size = statSync(file, { throwIfNoEntry: false })?.size ?? 0
  if (size > MAX_LOG_BYTES) renameSync(file, `${file}.1`)
  return openSync(file, 'a', 0o644)
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ESRCH') return
    if (code === 'EPERM') {
      throw new ZenithError('precondition_failed', `Process ${pid} belongs to another user.`, {
        hint: 'Run the command as the user who started it.',
      })
    }
    throw error
  }
}
