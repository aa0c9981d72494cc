/** Copies under way, one for each timeline at most: whoever asks for the same one again joins it. */
import { setTimeout as sleep } from 'node:timers/promises'
import { ZenithError } from '#libs/errors.ts'

/** How long one request waits for the end of a copy before it says how far it is. */
const PATIENCE_MS = 1_000

interface Job {
  readonly generation: number
  readonly abort: AbortController
  readonly done: Promise<void>
  copiedBytes: number
  totalBytes: number
}

export interface PullProgress {
  readonly finished: boolean
  readonly copiedBytes: number
  readonly totalBytes: number
}

export type PullRun = (
  signal: AbortSignal,
  progress: (copiedBytes: number, totalBytes: number) => void,
) => Promise<void>

export class PullJobs {
  readonly #jobs = new Map<string, Job>()

  /** Starts the copy unless one of this generation runs, waits a moment, and tells how far it is. */
  async run(key: string, generation: number, run: PullRun): Promise<PullProgress> {
    const running = this.#jobs.get(key)
    if (running && running.generation > generation) {
      throw new ZenithError(
        'precondition_failed',
        'a copy for a newer list of members is under way',
      )
    }
    if (running && running.generation < generation) await this.stop(key)
    const job = this.#jobs.get(key) ?? this.#start(key, generation, run)
    const finished = await Promise.race([
      job.done.then(() => true),
      sleep(PATIENCE_MS, false, { ref: false }),
    ])
    return { finished, copiedBytes: job.copiedBytes, totalBytes: job.totalBytes }
  }

  /** Calls a copy off, and waits until it has let go of its folder. */
  async stop(key: string): Promise<void> {
    const job = this.#jobs.get(key)
    job?.abort.abort()
    await job?.done.catch(() => {})
  }

  async close(): Promise<void> {
    await Promise.all([...this.#jobs.keys()].map((key) => this.stop(key)))
  }

  #start(key: string, generation: number, run: PullRun): Job {
    const abort = new AbortController()
    const progress = (copiedBytes: number, totalBytes: number) => {
      Object.assign(job, { copiedBytes, totalBytes })
    }
    const done = Promise.resolve()
      .then(() => run(abort.signal, progress))
      .finally(() => this.#jobs.delete(key))
    // Whoever asks next sees the error; between two requests nobody listens.
    done.catch(() => {})
    const job: Job = { generation, abort, done, copiedBytes: 0, totalBytes: 0 }
    this.#jobs.set(key, job)
    return job
  }
}
