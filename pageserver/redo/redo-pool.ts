/**
 * A pool of WAL redo processes: (base page, records) in, page out.
 *
 * Processes are started when there is work and end after some minutes without, so an idle page
 * server has none. A request goes to the process with the least to do; what is asked for within
 * one turn of the event loop is sent with one write.
 *
 * A bad record kills its process, and the requests behind it on the same pipe must not suffer.
 * They are all sent again, but one at a time, on a process that does nothing else: whoever dies
 * there is certainly at fault. A request that has killed two processes fails with `corrupt`.
 */
import { assert, ZenithError } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { findPostgres } from '#libs/postgres-install.ts'
import { removeUnprivilegedDir, unprivilegedDir } from '#libs/system-user.ts'
import { join } from 'node:path'
import { REDO_STATE, RedoProcess } from './redo-process.ts'
import {
  PAGE_SIZE,
  type PageTag,
  REPLY_CHECKED_SHIFT,
  REPLY_OK,
  REPLY_STATUS_MASK,
  RedoRequest,
} from './redo-request.ts'

/** Requests on one pipe at once; more would only wait in the socket. */
const MAX_IN_FLIGHT = 32
/** Bytes on one pipe at once, unless a single request is larger. */
const MAX_IN_FLIGHT_BYTES = 8 * 1024 * 1024
/** Another process is worth its start when every process has so many requests to do. */
const LOAD_FOR_ANOTHER = 8
const DEATHS_TO_FAIL = 2
/** Processes in a row that die before they greet: then the installation is broken. */
const FAILED_STARTS_TO_FAIL = 3
const DEFAULT_IDLE_MS = 180_000
const DEFAULT_TIMEOUT_MS = 60_000

export type RedoPoolOptions = {
  /** Where the patched Postgres is; empty means the one that set-up recorded. */
  postgresPrefix?: string
  /** Folder of the processes' small data directories; the pool owns and removes it. */
  workDir: string
  log: Logger
  maxProcesses: number
  /** Name or path of the redo library. */
  library?: string
  idleTimeoutMs?: number
  requestTimeoutMs?: number
  /** Called for every page rebuilt, with the time since `apply` and the bytes sent. */
  onApplied?: (seconds: number, sizeBytes: number, recordCount: number) => void
}

/** Counters since the start, for metrics. */
export type RedoPoolStats = {
  processes: number
  pending: number
  spawned: number
  died: number
  applied: number
  records: number
  /** Images of wal_consistency_checking that the page rebuilt was equal to. */
  checked: number
  sentBytes: number
  failed: number
}

export class RedoPool {
  readonly #options: RedoPoolOptions
  readonly #postgres: string
  readonly #workDir: string
  readonly #processes = new Set<RedoProcess>()
  readonly #inFlightBytes = new Map<RedoProcess, number>()
  /** Processes that end because they had nothing to do. */
  readonly #stopping = new Set<Promise<void>>()
  /** Requests not sent yet, oldest first from `#queueHead`. */
  #queue: RedoRequest[] = []
  #queueHead = 0
  /** Requests whose process died under them: each must run alone now. */
  readonly #suspects: RedoRequest[] = []
  #suspectProcess: RedoProcess | null = null
  #dispatchScheduled = false
  #failedStarts = 0
  #nextDir = 0
  #closing = false
  readonly #idleTimer: NodeJS.Timeout
  readonly #stats = {
    spawned: 0,
    died: 0,
    applied: 0,
    records: 0,
    checked: 0,
    sentBytes: 0,
    failed: 0,
  }
  readonly #readyWaiters: { resolve: () => void; reject: (error: Error) => void }[] = []

  constructor(options: RedoPoolOptions) {
    assert(options.maxProcesses >= 1, 'the redo pool needs at least one process')
    this.#options = options
    this.#postgres = findPostgres(options.postgresPrefix).bin('postgres')
    removeUnprivilegedDir(options.workDir)
    this.#workDir = unprivilegedDir(options.workDir)
    const idleMs = options.idleTimeoutMs ?? DEFAULT_IDLE_MS
    this.#idleTimer = setInterval(() => this.#stopIdle(idleMs), Math.max(idleMs / 4, 10))
    this.#idleTimer.unref()
  }

  /**
   * Rebuilds a page: `records` in LSN order, each with the LSN of its end, applied to `base` (null
   * for a page that its first record initialises). Buffers are read until the promise settles and
   * must not change. Rejects with `corrupt` when a record cannot be applied, `unavailable` when
   * redo cannot run at all.
   */
  apply(
    tag: PageTag,
    base: Buffer | null,
    endLsns: readonly number[],
    records: readonly Buffer[],
  ): Promise<Buffer> {
    assert(endLsns.length === records.length, 'every record needs the LSN of its end')
    assert(base === null || base.length === PAGE_SIZE, 'a base image is one page')
    const request = new RedoRequest(tag, base, endLsns, records, performance.now())
    if (this.#closing) request.reject(closedError())
    else {
      this.#queue.push(request)
      this.#scheduleDispatch()
    }
    return request.promise
  }

  /** Starts a process before it is needed; resolves when it is ready. */
  async warm(): Promise<void> {
    for (const process of this.#processes) if (process.state === REDO_STATE.ready) return
    if (this.#closing) throw closedError()
    const ready = new Promise<void>((resolve, reject) => {
      this.#readyWaiters.push({ resolve, reject })
    })
    this.#spawnIfBusy()
    await ready
  }

  get stats(): RedoPoolStats {
    let pending = this.#queue.length - this.#queueHead + this.#suspects.length
    for (const process of this.#processes) pending += process.load
    return { ...this.#stats, processes: this.#processes.size, pending }
  }

  /** Process ids, for tests and diagnosis. */
  get pids(): number[] {
    return [...this.#processes].flatMap((process) => process.pid ?? [])
  }

  /** Ends all processes. Requests not answered yet fail with `unavailable`. */
  async close(): Promise<void> {
    if (this.#closing) return
    this.#closing = true
    clearInterval(this.#idleTimer)
    this.#failAll(closedError())
    await Promise.all([...[...this.#processes].map((process) => process.stop()), ...this.#stopping])
    removeUnprivilegedDir(this.#options.workDir)
  }

  #scheduleDispatch(): void {
    if (this.#dispatchScheduled) return
    this.#dispatchScheduled = true
    queueMicrotask(() => {
      this.#dispatchScheduled = false
      this.#dispatch()
    })
  }

  /** Hands out as much work as the processes may have. */
  #dispatch(): void {
    if (this.#closing) return
    this.#dispatchSuspects()
    const batches = new Map<RedoProcess, RedoRequest[]>()
    while (this.#queueHead < this.#queue.length) {
      const process = this.#leastLoaded(batches)
      if (process === null) break
      const request = this.#queue[this.#queueHead++] as RedoRequest
      const batch = batches.get(process)
      if (batch === undefined) batches.set(process, [request])
      else batch.push(request)
      this.#addInFlightBytes(process, request.sizeBytes)
    }
    for (const [process, batch] of batches) process.send(batch)
    this.#trimQueue()
    this.#spawnIfBusy()
  }

  #leastLoaded(batches: Map<RedoProcess, RedoRequest[]>): RedoProcess | null {
    let best: RedoProcess | null = null
    let bestLoad = MAX_IN_FLIGHT
    for (const process of this.#processes) {
      if (process.state !== REDO_STATE.ready || process === this.#suspectProcess) continue
      const bytes = this.#inFlightBytes.get(process) ?? 0
      if (bytes >= MAX_IN_FLIGHT_BYTES) continue
      const load = process.load + (batches.get(process)?.length ?? 0)
      if (load < bestLoad) {
        best = process
        bestLoad = load
      }
    }
    return best
  }

  #dispatchSuspects(): void {
    if (this.#suspects.length === 0) {
      if (this.#suspectProcess?.load === 0) this.#suspectProcess = null
      return
    }
    if (this.#suspectProcess === null) {
      for (const process of this.#processes) {
        if (process.state !== REDO_STATE.ready) continue
        if (this.#suspectProcess === null || process.load < this.#suspectProcess.load) {
          this.#suspectProcess = process
        }
      }
    }
    if (this.#suspectProcess?.load !== 0) return
    const request = this.#suspects.shift() as RedoRequest
    this.#addInFlightBytes(this.#suspectProcess, request.sizeBytes)
    this.#suspectProcess.send([request])
  }

  #spawnIfBusy(): void {
    const waiting = this.#queue.length - this.#queueHead + this.#suspects.length
    let load = waiting + this.#readyWaiters.length
    for (const process of this.#processes) {
      // One start at a time: it takes some 15 ms, after which things may look different.
      if (process.state === REDO_STATE.starting) return
      load += process.load
    }
    if (load === 0 || this.#processes.size >= this.#options.maxProcesses) return
    if (load > this.#processes.size * LOAD_FOR_ANOTHER) this.#spawn()
  }

  #spawn(): void {
    this.#stats.spawned++
    const process = new RedoProcess(
      {
        postgres: this.#postgres,
        library: this.#options.library ?? 'zenith_walredo',
        dataDir: join(this.#workDir, String(this.#nextDir++)),
        timeoutMs: this.#options.requestTimeoutMs ?? DEFAULT_TIMEOUT_MS,
        log: this.#options.log,
      },
      {
        onReady: () => this.#ready(),
        onReply: (from, request, status, page) => this.#replied(from, request, status, page),
        onIdle: () => this.#dispatch(),
        onDeath: (dead, inFlight, reason) => this.#died(dead, inFlight, reason),
      },
    )
    this.#processes.add(process)
  }

  #ready(): void {
    this.#failedStarts = 0
    for (const waiter of this.#readyWaiters.splice(0)) waiter.resolve()
    this.#dispatch()
  }

  #replied(process: RedoProcess, request: RedoRequest, status: number, page: Buffer): void {
    this.#addInFlightBytes(process, -request.sizeBytes)
    if ((status & REPLY_STATUS_MASK) !== REPLY_OK) {
      this.#stats.failed++
      request.reject(missingPageError(request))
      return
    }
    this.#stats.applied++
    this.#stats.records += request.records.length
    this.#stats.checked += status >>> REPLY_CHECKED_SHIFT
    this.#stats.sentBytes += request.sizeBytes
    const seconds = (performance.now() - request.queuedAtMs) / 1000
    this.#options.onApplied?.(seconds, request.sizeBytes, request.records.length)
    request.resolve(page)
  }

  #died(process: RedoProcess, inFlight: RedoRequest[], reason: string): void {
    this.#processes.delete(process)
    this.#inFlightBytes.delete(process)
    if (this.#suspectProcess === process) this.#suspectProcess = null
    if (this.#closing) {
      for (const request of inFlight) request.reject(closedError())
      return
    }
    if (reason !== 'stopped') {
      this.#stats.died++
      this.#options.log.warn(
        { reason, inFlight: inFlight.length, page: inFlight[0]?.describe() },
        'WAL redo process died',
      )
    }
    // Finished replies were written before the end, so the first without one is the likely culprit.
    for (const [index, request] of inFlight.entries()) {
      if (index === 0) request.deaths++
      if (request.deaths < DEATHS_TO_FAIL) this.#suspects.push(request)
      else {
        this.#stats.failed++
        request.reject(badRecordError(request, reason, process.lastWords))
      }
    }
    if (!process.greeted) this.#startFailed(reason, process.lastWords)
    this.#dispatch()
  }

  #startFailed(reason: string, lastWords: string): void {
    if (++this.#failedStarts < FAILED_STARTS_TO_FAIL) return
    this.#failedStarts = 0
    const said = lastWords === '' ? '' : `: ${lastWords}`
    this.#failAll(
      new ZenithError('unavailable', `The WAL redo process ${reason} before it was ready${said}`, {
        hint: 'Run ./zenith up, which builds Postgres and its redo library again.',
      }),
    )
  }

  #failAll(error: Error): void {
    for (const waiter of this.#readyWaiters.splice(0)) waiter.reject(error)
    for (const request of this.#suspects.splice(0)) request.reject(error)
    for (const request of this.#queue.splice(this.#queueHead)) request.reject(error)
    this.#trimQueue()
  }

  #trimQueue(): void {
    if (this.#queueHead === 0) return
    if (this.#queueHead === this.#queue.length) this.#queue.length = 0
    else if (this.#queueHead < 1024) return
    else this.#queue = this.#queue.slice(this.#queueHead)
    this.#queueHead = 0
  }

  #addInFlightBytes(process: RedoProcess, sizeBytes: number): void {
    this.#inFlightBytes.set(process, (this.#inFlightBytes.get(process) ?? 0) + sizeBytes)
  }

  #stopIdle(idleMs: number): void {
    const oldestMs = performance.now() - idleMs
    for (const process of this.#processes) {
      const idle = process.state === REDO_STATE.ready && process.load === 0
      if (!idle || process.lastActiveMs > oldestMs || process === this.#suspectProcess) continue
      this.#processes.delete(process)
      const stopped = process.stop().finally(() => this.#stopping.delete(stopped))
      this.#stopping.add(stopped)
    }
  }
}

function closedError(): ZenithError {
  return new ZenithError('unavailable', 'The page server is stopping and rebuilds no more pages.')
}

function missingPageError(request: RedoRequest): ZenithError {
  return new ZenithError(
    'corrupt',
    `WAL changes ${request.describe()}, but the page did not exist before it.`,
    { hint: 'An older version of the page is missing from the layers of this timeline.' },
  )
}

function badRecordError(request: RedoRequest, reason: string, lastWords: string): ZenithError {
  const said = lastWords === '' ? '' : ` It said: ${lastWords}`
  return new ZenithError(
    'corrupt',
    `WAL redo ${reason} while it rebuilt ${request.describe()}.${said}`,
    { hint: 'Other pages are not affected; pg_waldump shows the record.' },
  )
}
