/**
 * One Postgres server as a child process. It cannot outlive the supervisor: `setpriv` asks the
 * kernel to kill the postmaster when its parent dies, since a Postgres without its WAL proposer
 * only looks alive.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import {
  closeSync,
  fchownSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  statSync,
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { findPostgres } from '#libs/postgres-install.ts'
import { runAs } from '#libs/system-user.ts'

/** Status word of postmaster.pid, line 8 (LOCK_FILE_LINE_PM_STATUS in pidfile.h). */
const READY = 'ready'
const STATUS_LINE = 7
const POLL_MS = 4
/** After a quit signal the postmaster gives its children five seconds; more is not needed. */
const KILL_AFTER_MS = 1_000
const TAIL_BYTES = 4096
const MAX_LOG_BYTES = 16 * 1024 * 1024

export interface PostgresExit {
  readonly clean: boolean
  readonly reason: string
}

export class Postgres {
  readonly #child: ChildProcess
  readonly #dataFolder: string
  #exit: PostgresExit | null = null
  /** Resolves when the postmaster has ended. */
  readonly ended: Promise<PostgresExit>

  private constructor(child: ChildProcess, dataFolder: string) {
    this.#child = child
    this.#dataFolder = dataFolder
    this.ended = new Promise((resolve) => {
      const end = (exit: PostgresExit) => {
        this.#exit ??= exit
        resolve(this.#exit)
      }
      child.once('error', (error) =>
        end({ clean: false, reason: `Postgres could not be started: ${error.message}` }),
      )
      child.once('exit', (code, signal) =>
        end({
          clean: code === 0,
          reason: signal ? `Postgres ended by ${signal}` : `Postgres ended with code ${code}`,
        }),
      )
    })
  }

  /** Starts the server on a data folder; its output is appended to `logFile`. */
  static start(options: {
    prefix?: string | undefined
    dataFolder: string
    /** Settings on the command line. */
    settings: Readonly<Record<string, string>>
    /**
     * Where a connection from within the server goes that names neither host nor user (dblink,
     * postgres_fdw): to this server, as in a stock one whose socket is at libpq's default place.
     */
    self: { host: string; user: string }
    /** Where libpq within the server looks up services; default: nowhere. */
    serviceFile?: string
    logFile: string
  }): Postgres {
    const program = findPostgres(options.prefix).bin('postgres')
    const user = runAs()
    const log = openLog(options.logFile)
    const settings = Object.entries(options.settings).flatMap(([name, value]) => [
      '-c',
      `${name}=${value}`,
    ])
    if (user) fchownSync(log, user.uid, user.gid)
    const identity = user
      ? [`--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups', '--no-new-privs']
      : []
    const child = spawn(
      'setpriv',
      [...identity, '--pdeathsig', 'KILL', '--', program, '-D', options.dataFolder, ...settings],
      {
        stdio: ['ignore', log, log],
        cwd: options.dataFolder,
        env: childEnvironment(options.self, options.serviceFile),
      },
    )
    closeSync(log)
    return new Postgres(child, options.dataFolder)
  }

  get pid(): number | null {
    return this.#exit === null ? (this.#child.pid ?? null) : null
  }

  /** Resolves true once the server accepts connections, false when it ended before. */
  async ready(): Promise<boolean> {
    const file = join(this.#dataFolder, 'postmaster.pid')
    while (this.#exit === null) {
      if (statusLine(file) === READY) return true
      await sleep(POLL_MS)
    }
    return false
  }

  /** Fast shutdown: clients are cut off, the shutdown checkpoint is written and streamed. */
  stop(): void {
    this.#child.kill('SIGINT')
  }

  /** Ends it now, without a checkpoint; children too. Resolves when it has ended. */
  async kill(): Promise<void> {
    this.#child.kill('SIGQUIT')
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), KILL_AFTER_MS)
    await this.ended
    clearTimeout(timer)
  }
}

/** The log of earlier starts is kept, one file of it when it has grown large. */
function openLog(file: string): number {
  const size = statSync(file, { throwIfNoEntry: false })?.size ?? 0
  if (size > MAX_LOG_BYTES) renameSync(file, `${file}.1`)
  return openSync(file, 'a', 0o600)
}

/** Last lines of a log file, for the report of a crash. */
export function logTail(file: string, lines = 10): string {
  let descriptor: number | undefined
  try {
    descriptor = openSync(file, 'r')
    const { size } = fstatSync(descriptor)
    const buffer = Buffer.alloc(Math.min(TAIL_BYTES, size))
    readSync(descriptor, buffer, 0, buffer.length, size - buffer.length)
    return buffer.toString('utf8').trimEnd().split('\n').slice(-lines).join('\n')
  } catch {
    return ''
  } finally {
    if (descriptor !== undefined) closeSync(descriptor)
  }
}

function statusLine(file: string): string | null {
  try {
    return readFileSync(file, 'latin1').split('\n')[STATUS_LINE]?.trim() ?? null
  } catch {
    return null
  }
}

/** Only what Postgres needs: no secrets or PG* settings of whoever started us. */
function childEnvironment(
  self: { host: string; user: string },
  serviceFile: string | undefined,
): Record<string, string> {
  return {
    ...(serviceFile === undefined ? {} : { PGSERVICEFILE: serviceFile }),
    PATH: process.env['PATH'] ?? '/usr/bin:/bin',
    LC_ALL: 'C.UTF-8',
    TZ: 'UTC',
    PGHOST: self.host,
    PGUSER: self.user,
  }
}
