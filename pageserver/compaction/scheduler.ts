/**
 * Which compaction job runs next: a pure decision over what each timeline says is due.
 *
 * L0 comes first over all timelines, since every read passes all L0 layers; then images, then
 * history below the cutoff. Among timelines the most urgent one goes first. A job of a lower kind
 * makes room when an L0 job is due.
 */
import { JOB_KINDS, type JobKind } from './job.ts'

/** So many failures in a row, and a timeline's compaction rests for long. */
export const FAILURES_TO_REST = 5
const RETRY_MS = 1_000
const FIRST_REST_MS = 600_000
const LONGEST_REST_MS = 86_400_000

export interface TargetState {
  id: string
  /** How much is to be gained, per kind; 0 = nothing to do. */
  due: Readonly<Record<JobKind, number>>
  /** Not before this time. */
  restUntilMs: number
}

export interface SchedulerState {
  nowMs: number
  running: { id: string; kind: JobKind } | null
  targets: readonly TargetState[]
}

export type Decision =
  | { do: 'start'; id: string; kind: JobKind }
  /** The running job is to end early. */
  | { do: 'preempt' }
  /** Nothing now; look again at the time, or when something happens when it is null. */
  | { do: 'wait'; untilMs: number | null }

/** Kinds come in the order of `JOB_KINDS`; of one kind, the timeline where most is due. */
export function nextJob(state: SchedulerState): Decision {
  const { nowMs, running, targets } = state
  const rested = targets.filter((target) => target.restUntilMs <= nowMs)
  if (running) {
    const mayPreempt = running.kind !== 'l0' && rested.some(({ due }) => due.l0 > 0)
    return mayPreempt ? { do: 'preempt' } : { do: 'wait', untilMs: null }
  }
  for (const kind of JOB_KINDS) {
    let best: TargetState | null = null
    for (const target of rested) {
      if (target.due[kind] > (best?.due[kind] ?? 0)) best = target
    }
    if (best) return { do: 'start', id: best.id, kind }
  }
  const later = targets.filter(
    ({ due, restUntilMs }) => restUntilMs > nowMs && JOB_KINDS.some((kind) => due[kind] > 0),
  )
  const untilMs = Math.min(...later.map(({ restUntilMs }) => restUntilMs))
  return { do: 'wait', untilMs: later.length > 0 ? untilMs : null }
}

/** How long a timeline rests after so many failures in a row. */
export function restAfter(failures: number): number {
  if (failures < FAILURES_TO_REST) return RETRY_MS * 2 ** (failures - 1)
  return Math.min(FIRST_REST_MS * 2 ** (failures - FAILURES_TO_REST), LONGEST_REST_MS)
}
