/**
 * One WAL redo process: sandboxed single-user Postgres behind a pair of socket pipes.
 *
 * Requests go out in batches, replies come back in the same order, so completion is a FIFO. The
 * process is identified by this object, never by a pid or descriptor that may be used again.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { rm } from 'node:fs/promises'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { runAs } from '#libs/system-user.ts'
import { makeRedoDataDir } from './redo-data-dir.ts'
import { encodeRequests, type RedoRequest, ReplyReader } from './redo-request.ts'

/** Longest line and most lines of stderr that go to the log, per process. */
const LOG_LINE_LIMIT = 2000
const LOG_LINES_LIMIT = 200
/** Lines kept for the error message of a process that cannot start. */
const LAST_LINES = 5
const STOP_TIMEOUT_MS = 1000
const START_TIMEOUT_MS = 60_000

/** Everything small: redo needs a handful of buffers and no other process. */
const SETTINGS: readonly string[] = [
  'shared_buffers=64',
  'max_connections=1',
  'superuser_reserved_connections=0',
  'reserved_connections=0',
  'max_worker_processes=0',
  'max_parallel_workers=0',
  'max_wal_senders=0',
  'max_replication_slots=0',
  'autovacuum_max_workers=1',
  'max_prepared_transactions=0',
  'max_locks_per_transaction=10',
  'max_pred_locks_per_transaction=10',
  'wal_buffers=4',
  'shared_memory_type=mmap',
  'dynamic_shared_memory_type=mmap',
  'huge_pages=off',
  'fsync=off',
  'log_line_prefix=',
  'log_destination=stderr',
  'logging_collector=off',
  'timezone=UTC',
  'log_timezone=UTC',
]

export type RedoProcessOptions = {
  /** Full path of `postgres`. */
  postgres: string
  /** Name or path of the redo library, for `shared_preload_libraries`. */
  library: string
  dataDir: string
  timeoutMs: number
  log: Logger
}

export type RedoProcessEvents = {
  onReady: (process: RedoProcess) => void
  onReply: (process: RedoProcess, request: RedoRequest, status: number, page: Buffer) => void
  /** After each chunk of replies: time to send more. */
  onIdle: (process: RedoProcess) => void
  /** Called once; `inFlight` are the requests without reply, in order. */
  onDeath: (process: RedoProcess, inFlight: RedoRequest[], reason: string) => void
}

export const REDO_STATE = { starting: 'starting', ready: 'ready', dead: 'dead' } as const
export type RedoState = (typeof REDO_STATE)[keyof typeof REDO_STATE]

export class RedoProcess {
  state: RedoState = REDO_STATE.starting
  /** Whether it ever was ready: if not, the installation may be at fault. */
  greeted = false
  /** `performance.now()` of the last reply or start. */
  lastActiveMs: number = performance.now()
  /** Resolves when the process is gone and its directory removed. */
  readonly closed: Promise<void>
  readonly #options: RedoProcessOptions
  readonly #events: RedoProcessEvents
  readonly #inFlight: RedoRequest[] = []
  readonly #lastLines: string[] = []
  #inFlightHead = 0
  #child: ChildProcess | null = null
  #timer: NodeJS.Timeout | null = null
  #loggedLines = 0
  #killReason: string | null = null
  #resolveClosed!: () => void

  constructor(options: RedoProcessOptions, events: RedoProcessEvents) {
    this.#options = options
    this.#events = events
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve
    })
    this.#start().catch((error: unknown) => {
      this.#lastLines.push(errorMessage(error))
      this.#die('could not be started')
    })
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  /** Requests sent and not answered yet. */
  get load(): number {
    return this.#inFlight.length - this.#inFlightHead
  }

  /** The last lines of its stderr, for error messages. */
  get lastWords(): string {
    return this.#lastLines.join(' ')
  }

  /** Sends a batch with one write. The process must be ready. */
  send(requests: readonly RedoRequest[]): void {
    if (this.load === 0) this.lastActiveMs = performance.now()
    for (const request of requests) this.#inFlight.push(request)
    // A failed write shows up as the death of the process.
    this.#child?.stdin?.write(encodeRequests(requests))
    this.#watch()
  }

  /** Ends the process; unanswered requests come back through `onDeath`. */
  kill(reason: string): void {
    this.#killReason ??= reason
    this.#child?.kill('SIGKILL')
  }

  /** Lets the process finish: closes its input, and kills it when it does not end by itself. */
  async stop(): Promise<void> {
    this.#killReason ??= 'stopped'
    this.#child?.stdin?.end()
    const timer = setTimeout(() => this.#child?.kill('SIGKILL'), STOP_TIMEOUT_MS)
    await this.closed
    clearTimeout(timer)
  }

  async #start(): Promise<void> {
    const { dataDir, postgres, library } = this.#options
    await makeRedoDataDir(dataDir)
    if (this.#killReason !== null) return this.#die(this.#killReason)
    const settings = [`shared_preload_libraries=${library}`, ...SETTINGS]
    const args = ['--single', '-D', dataDir, ...settings.flatMap((s) => ['-c', s]), 'postgres']
    const child = spawn(postgres, args, {
      cwd: dataDir,
      env: { LC_ALL: 'C', TZ: 'UTC' },
      // On Linux these are UNIX socket pairs, which beat pipes once requests are pipelined.
      stdio: ['pipe', 'pipe', 'pipe'],
      ...runAs(),
    })
    this.#child = child
    const replies = new ReplyReader(
      (valid) => this.#onGreeting(valid),
      (status, page) => this.#onReply(status, page),
    )
    child.on('error', (error) => {
      this.#lastLines.push(error.message)
      // Without a pid there was no process, so there will be no 'close'.
      if (child.pid === undefined) this.#die('could not be started')
    })
    // 'close' and not 'exit': replies written just before the end are still read.
    child.on('close', (code, signal) => this.#die(this.#killReason ?? exitReason(code, signal)))
    child.stdin.on('error', () => child.kill('SIGKILL'))
    child.stdout.on('error', () => child.kill('SIGKILL'))
    child.stdout.on('data', (chunk: Buffer) => {
      replies.push(chunk)
      if (this.state === REDO_STATE.ready) this.#events.onIdle(this)
    })
    child.stderr.setEncoding('utf8')
    child.stderr.on(
      'data',
      lineSplitter((line) => this.#logLine(line)),
    )
    this.#watch()
  }

  #onGreeting(valid: boolean): void {
    if (!valid) return this.kill('greeted with something else')
    this.greeted = true
    this.#unwatch()
    this.state = REDO_STATE.ready
    this.lastActiveMs = performance.now()
    this.#events.onReady(this)
  }

  #onReply(status: number, page: Buffer): void {
    if (this.load === 0) return this.kill('replied without a request')
    const request = this.#inFlight[this.#inFlightHead++] as RedoRequest
    if (this.#inFlightHead === this.#inFlight.length) {
      this.#inFlight.length = 0
      this.#inFlightHead = 0
    }
    this.lastActiveMs = performance.now()
    this.#events.onReply(this, request, status, page)
  }

  /** Kills the process when it owes a greeting or a reply for too long. */
  #watch(): void {
    if (this.#timer !== null) return
    const starting = this.state === REDO_STATE.starting
    if (!starting && this.load === 0) return
    const limitMs = starting ? START_TIMEOUT_MS : this.#options.timeoutMs
    const waitedMs = performance.now() - this.lastActiveMs
    if (waitedMs >= limitMs) return this.kill(`did not answer for ${Math.round(waitedMs)} ms`)
    this.#timer = setTimeout(() => {
      this.#timer = null
      this.#watch()
    }, limitMs - waitedMs)
    this.#timer.unref()
  }

  #unwatch(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }

  #die(reason: string): void {
    if (this.state === REDO_STATE.dead) return
    this.state = REDO_STATE.dead
    this.#unwatch()
    rm(this.#options.dataDir, { recursive: true, force: true })
      .catch((error: unknown) =>
        this.#options.log.warn({ error: errorMessage(error) }, 'redo directory stays behind'),
      )
      .finally(() => this.#resolveClosed())
    this.#events.onDeath(this, this.#inFlight.slice(this.#inFlightHead), reason)
  }

  #logLine(line: string): void {
    const text = line.slice(0, LOG_LINE_LIMIT)
    this.#lastLines.push(text)
    if (this.#lastLines.length > LAST_LINES) this.#lastLines.shift()
    if (this.#loggedLines++ >= LOG_LINES_LIMIT) return
    this.#options.log.warn({ redoPid: this.pid }, text)
  }
}

function exitReason(code: number | null, signal: string | null): string {
  return signal === null ? `exited with code ${code}` : `was killed by ${signal}`
}

function lineSplitter(onLine: (line: string) => void): (text: string) => void {
  let rest = ''
  return (text) => {
    const lines = (rest + text).split('\n')
    rest = (lines.pop() ?? '').slice(-LOG_LINE_LIMIT)
    for (const line of lines) if (line !== '') onLine(line)
  }
}
