/**
 * Runs compaction jobs in a worker thread, one at a time.
 *
 * The thread is started at the first job and kept. When it dies, by an error that nobody caught or
 * for want of memory, the job under way fails and the next one starts a new thread: nothing is lost,
 * since a job only makes files that no manifest names yet.
 */
import { Worker } from 'node:worker_threads'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { Lock } from '#libs/lock.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import type { LayerEntry } from '../layers/layer.ts'
import type { Appliers } from '../read/reconstruct.ts'
import { SYNC_FAILED } from '../threads/sync-failed.ts'
import type { CompactionJob, CompactionRunner } from './job.ts'
import { performJob } from './perform.ts'
import type { FetchRequest, FromWorker, ToWorker, WorkerConfig } from './worker-message.ts'

/** Of JavaScript objects; buffers come on top and are bounded by the jobs. */
const HEAP_MIB = 512

const WORKER_SCRIPT = new URL('./worker.ts', import.meta.url)

interface Running {
  resolve: (entries: LayerEntry[]) => void
  reject: (error: unknown) => void
}

export class ThreadRunner implements CompactionRunner {
  readonly #config: WorkerConfig
  readonly #store: ObjectStore
  readonly #script: URL
  readonly #lock = new Lock()
  #worker: Worker | null = null
  #running: Running | null = null
  #closed = false

  /** `store` serves layers whose local file is missing; `script` is what the thread runs. */
  constructor(config: WorkerConfig, store: ObjectStore, script = WORKER_SCRIPT) {
    this.#config = config
    this.#store = store
    this.#script = script
  }

  run(job: CompactionJob, stop?: AbortSignal): Promise<LayerEntry[]> {
    return this.#lock.run(() => this.#run(job, stop))
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#worker?.terminate()
    await this.#lock.idle()
  }

  async #run(job: CompactionJob, stop?: AbortSignal): Promise<LayerEntry[]> {
    if (this.#closed) throw new ZenithError('unavailable', 'compaction is shutting down')
    const worker = this.#worker ?? this.#start()
    const onStop = () => post(worker, { type: 'stop' })
    stop?.addEventListener('abort', onStop)
    try {
      return await new Promise((resolve, reject) => {
        this.#running = { resolve, reject }
        post(worker, { type: 'job', job })
        if (stop?.aborted) onStop()
      })
    } finally {
      this.#running = null
      stop?.removeEventListener('abort', onStop)
    }
  }

  #start(): Worker {
    const worker = new Worker(this.#script, {
      workerData: this.#config,
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
    })
    // The page server ends when its own work has ended.
    worker.unref()
    let reason = 'it ended'
    worker.on('message', (message: FromWorker) => this.#take(worker, message))
    worker.on('error', (error) => {
      reason = errorMessage(error)
    })
    worker.on('exit', (code) => {
      if (code === SYNC_FAILED) process.exit(SYNC_FAILED)
      if (this.#worker === worker) this.#worker = null
      this.#running?.reject(
        new ZenithError('unavailable', `the compaction thread is gone: ${reason}`),
      )
    })
    this.#worker = worker
    return worker
  }

  #take(worker: Worker, message: FromWorker): void {
    if (message.type === 'fetch') {
      void this.#fetch(message).then((answer) => post(worker, answer))
      return
    }
    const running = this.#running
    if (message.type === 'done') running?.resolve(message.entries)
    else running?.reject(new ZenithError(message.code, message.message))
  }

  async #fetch(request: FetchRequest): Promise<ToWorker> {
    const { id, name, range, path } = request
    try {
      const bytes = range ? await this.#store.getRange(name, range.offset, range.length) : null
      if (path !== null) await this.#store.getFile(name, path)
      return { type: 'fetched', id, bytes, error: null }
    } catch (error) {
      const code = error instanceof ZenithError ? error.code : 'unavailable'
      return { type: 'fetched', id, bytes: null, error: { code, message: errorMessage(error) } }
    }
  }
}

/** Runs jobs in the calling thread, for tests and for programs of one thread. */
export class LocalRunner implements CompactionRunner {
  readonly #store: ObjectStore
  readonly #appliers: Appliers
  readonly #lock = new Lock()
  #closed = false

  constructor(store: ObjectStore, appliers: Appliers) {
    this.#store = store
    this.#appliers = appliers
  }

  run(job: CompactionJob, stop?: AbortSignal): Promise<LayerEntry[]> {
    return this.#lock.run(() => {
      if (this.#closed) throw new ZenithError('unavailable', 'compaction is shutting down')
      const isStopping = () => this.#closed || stop?.aborted === true
      return performJob(job, { store: this.#store, appliers: this.#appliers, isStopping })
    })
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#lock.idle()
  }
}

function post(worker: Worker, message: ToWorker): void {
  worker.postMessage(message)
}
