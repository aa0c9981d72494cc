/**
 * Life of one compute, as a pure state machine: `next(state, event)` gives the next state and what
 * to do. The shell (`supervisor.ts`) runs the effects and turns their results into events.
 *
 *   electing ─elected→ fetching ─fetched→ starting ─ready→ running
 *                                                             │ stop asked
 *                                                         stopping ─postgres ended cleanly→
 *                                                         committing ─committed→ ended: stopped
 *
 * From anywhere: fenced → kill Postgres → ended: fenced; a failure or an unexpected end of Postgres
 * → ended: crashed. It never goes back: a new start is a new process on an empty data folder, since
 * nothing local may be trusted after a crash. Only a replica may begin anew by itself, from another
 * base backup, when its primary has outgrown it: running ─outgrown→ renewing ─postgres ended→ fetching.
 */
export type Phase =
  | 'electing'
  | 'fetching'
  | 'starting'
  | 'running'
  | 'renewing'
  | 'stopping'
  | 'committing'
  | 'killing'
  | 'ended'

export type Outcome = 'stopped' | 'crashed' | 'fenced'

export interface LifecycleState {
  readonly phase: Phase
  /** How it will end, or has ended: known from `killing` on. */
  readonly outcome: Outcome | null
  /** Why it crashed or was fenced. */
  readonly reason: string | null
}

export type LifecycleEvent =
  | { readonly kind: 'elected' }
  | { readonly kind: 'fetched' }
  | { readonly kind: 'ready' }
  /** The primary has settings that this replica cannot follow. */
  | { readonly kind: 'outgrown' }
  | { readonly kind: 'stop-asked' }
  /** A clean stop took too long: a quorum is missing. What was acknowledged is safe anyway. */
  | { readonly kind: 'stop-overdue' }
  /** Postgres ended; `clean` when by a shutdown it finished in order (exit code 0). */
  | { readonly kind: 'postgres-ended'; readonly clean: boolean; readonly reason: string }
  | { readonly kind: 'committed' }
  | { readonly kind: 'fenced'; readonly reason: string }
  | { readonly kind: 'failed'; readonly reason: string }

export type Effect =
  | 'fetch-base-backup'
  | 'start-postgres'
  | 'stream'
  /** SIGINT: clients are cut off, a shutdown checkpoint is written and streamed. */
  | 'stop-postgres'
  | 'kill-postgres'
  | 'finish-proposer'
  /** Tell the control plane the new status. */
  | 'report'
  | 'exit'

export interface Step {
  readonly state: LifecycleState
  readonly effects: readonly Effect[]
}

export const INITIAL_STATE: LifecycleState = { phase: 'electing', outcome: null, reason: null }

export const EXIT_CODE: Record<Outcome, number> = { stopped: 0, crashed: 1, fenced: 3 }

/** Phases in which a Postgres process may exist. */
const WITH_POSTGRES: readonly Phase[] = ['starting', 'running', 'renewing', 'stopping']

export function next(state: LifecycleState, event: LifecycleEvent): Step {
  const { phase } = state
  if (phase === 'ended') return { state, effects: [] }
  if (phase === 'killing') {
    return event.kind === 'postgres-ended' ? end(state) : { state, effects: [] }
  }
  switch (event.kind) {
    case 'elected':
      return phase === 'electing' ? go('fetching', ['fetch-base-backup']) : stay(state)
    case 'fetched':
      return phase === 'fetching' ? go('starting', ['start-postgres']) : stay(state)
    case 'ready':
      return phase === 'starting' ? go('running', ['stream', 'report']) : stay(state)
    case 'outgrown':
      return phase === 'running' ? go('renewing', ['kill-postgres', 'report']) : stay(state)
    case 'stop-asked':
      return stop(state)
    case 'stop-overdue':
      return phase === 'stopping' || phase === 'committing'
        ? leave(
            state,
            'stopped',
            'the clean stop took too long: a majority of safekeepers is missing',
          )
        : stay(state)
    case 'postgres-ended':
      if (phase === 'renewing') return go('fetching', ['fetch-base-backup'])
      return phase === 'stopping' && event.clean
        ? go('committing', ['finish-proposer'])
        : end({ phase, outcome: 'crashed', reason: event.reason })
    case 'committed':
      return phase === 'committing' ? end({ phase, outcome: 'stopped', reason: null }) : stay(state)
    case 'fenced':
      return leave(state, 'fenced', event.reason)
    case 'failed':
      return leave(state, 'crashed', event.reason)
  }
}

function stop(state: LifecycleState): Step {
  const { phase } = state
  if (phase === 'electing' || phase === 'fetching') {
    return end({ phase, outcome: 'stopped', reason: null })
  }
  if (phase === 'renewing') {
    return { state: { phase: 'killing', outcome: 'stopped', reason: null }, effects: ['report'] }
  }
  return phase === 'starting' || phase === 'running'
    ? go('stopping', ['stop-postgres', 'report'])
    : stay(state)
}

/** Ends for a reason; Postgres, if there is one, goes first. */
function leave(state: LifecycleState, outcome: Outcome, reason: string): Step {
  const leaving = { phase: state.phase, outcome, reason }
  return WITH_POSTGRES.includes(state.phase)
    ? { state: { ...leaving, phase: 'killing' }, effects: ['kill-postgres'] }
    : end(leaving)
}

function end(state: LifecycleState): Step {
  return { state: { ...state, phase: 'ended' }, effects: ['report', 'exit'] }
}

function go(phase: Phase, effects: readonly Effect[]): Step {
  return { state: { phase, outcome: null, reason: null }, effects }
}

function stay(state: LifecycleState): Step {
  return { state, effects: [] }
}
