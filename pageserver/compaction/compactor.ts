/**
 * Runs what the scheduler decides: one job at a time over all timelines of the page server, woken
 * when a timeline has changed. A timeline whose jobs fail again and again rests, which the log and
 * a metric say; its reads go on, dearer with time.
 */
import { errorMessage } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import type { CompactionRunner, JobKind } from './job.ts'
import { FAILURES_TO_REST, nextJob, restAfter, type SchedulerState } from './scheduler.ts'

/** A timeline, as the compactor sees it. */
export interface CompactionTarget {
  readonly tenantId: TenantId
  readonly timelineId: TimelineId
  due(kind: JobKind): number
  /** Plans and runs one job and enters its result; nothing to do is no error. */
  compact(kind: JobKind, runner: CompactionRunner, stop: AbortSignal): Promise<void>
}

interface Failures {
  count: number
  restUntilMs: number
}

export interface CompactorStats {
  /** Jobs that ended well, and not, by kind. */
  done: Record<JobKind, number>
  failed: Record<JobKind, number>
  /** Time spent in jobs. */
  seconds: Record<JobKind, number>
  preempted: number
  /** Timelines whose compaction rests after failures. */
  resting: number
}

export class Compactor {
  readonly runner: CompactionRunner
  readonly #log: Logger
  readonly #targets: () => Iterable<CompactionTarget>
  readonly #failures = new Map<string, Failures>()
  readonly #done = { l0: 0, images: 0, bottom: 0, own: 0 }
  readonly #failed = { l0: 0, images: 0, bottom: 0, own: 0 }
  readonly #seconds = { l0: 0, images: 0, bottom: 0, own: 0 }
  #preempted = 0
  #running: { id: string; kind: JobKind; stop: AbortController; done: Promise<void> } | null = null
  #timer: NodeJS.Timeout | null = null
  #wakeScheduled = false
  #closed = false

  constructor(runner: CompactionRunner, targets: () => Iterable<CompactionTarget>, log: Logger) {
    this.runner = runner
    this.#targets = targets
    this.#log = log
  }

  get stats(): CompactorStats {
    const resting = [...this.#failures.values()].filter(({ count }) => count >= FAILURES_TO_REST)
    return {
      done: this.#done,
      failed: this.#failed,
      seconds: this.#seconds,
      preempted: this.#preempted,
      resting: resting.length,
    }
  }

  /** Something has changed: looks for work soon. */
  wake(): void {
    if (this.#wakeScheduled || this.#closed) return
    this.#wakeScheduled = true
    setImmediate(() => {
      this.#wakeScheduled = false
      this.#look()
    })
  }

  /** Resolves when nothing is due, or what is due rests. For tests. */
  async settle(): Promise<void> {
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve))
      if (this.#running) await this.#running.done
      else if (!this.#wakeScheduled) return
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    if (this.#timer) clearTimeout(this.#timer)
    this.#running?.stop.abort()
    await this.runner.close()
    await this.#running?.done
  }

  #look(): void {
    if (this.#closed) return
    if (this.#timer) clearTimeout(this.#timer)
    this.#timer = null
    const targets = new Map([...this.#targets()].map((target) => [idOf(target), target]))
    for (const id of this.#failures.keys()) if (!targets.has(id)) this.#failures.delete(id)
    const state: SchedulerState = {
      nowMs: Date.now(),
      running: this.#running,
      targets: [...targets].map(([id, target]) => ({
        id,
        due: {
          l0: target.due('l0'),
          images: target.due('images'),
          bottom: target.due('bottom'),
          own: target.due('own'),
        },
        restUntilMs: this.#failures.get(id)?.restUntilMs ?? 0,
      })),
    }
    const decision = nextJob(state)
    if (decision.do === 'preempt') this.#preempt()
    else if (decision.do === 'start') {
      this.#start(targets.get(decision.id) as CompactionTarget, decision.kind)
    } else if (decision.untilMs !== null) {
      const delayMs = Math.max(decision.untilMs - state.nowMs, 1)
      this.#timer = setTimeout(() => this.wake(), delayMs)
      this.#timer.unref()
    }
  }

  #preempt(): void {
    const running = this.#running
    if (!running || running.stop.signal.aborted) return
    this.#preempted++
    running.stop.abort()
  }

  #start(target: CompactionTarget, kind: JobKind): void {
    const stop = new AbortController()
    const id = idOf(target)
    const startMs = performance.now()
    const done = target
      .compact(kind, this.runner, stop.signal)
      .then(
        () => {
          this.#done[kind]++
          this.#failures.delete(id)
        },
        (error: unknown) => {
          if (!stop.signal.aborted) this.#fail(target, kind, error)
        },
      )
      .finally(() => {
        this.#seconds[kind] += (performance.now() - startMs) / 1000
        this.#running = null
        this.wake()
      })
    this.#running = { id, kind, stop, done }
  }

  #fail(target: CompactionTarget, kind: JobKind, error: unknown): void {
    const id = idOf(target)
    this.#failed[kind]++
    const count = (this.#failures.get(id)?.count ?? 0) + 1
    const restMs = restAfter(count)
    this.#failures.set(id, { count, restUntilMs: Date.now() + restMs })
    const { tenantId, timelineId } = target
    const facts = { tenantId, timelineId, kind, failures: count, error: errorMessage(error) }
    if (count < FAILURES_TO_REST) this.#log.warn(facts, 'compaction failed and is tried again')
    else {
      const seconds = Math.round(restMs / 1000)
      this.#log.error(facts, `compaction failed ${count} times in a row and rests ${seconds} s`)
    }
  }
}

function idOf({ tenantId, timelineId }: CompactionTarget): string {
  return `${tenantId}/${timelineId}`
}
