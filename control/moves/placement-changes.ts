/** What a placement becomes when a move begins, goes on, is given up; and who holds what. Pure. */
import type { AttachMode } from '#libs/api/attach-mode.ts'
import { ZenithError } from '#libs/errors.ts'
import type { MovePhase, PlacementRecord } from '../records.ts'

/** Throws `conflict` while a move to somewhere else is under way. */
export function beginMove(placement: PlacementRecord, to: number, now: Date): PlacementRecord {
  const { move, pageserverId: from } = placement
  if (move !== undefined) {
    if (move.to === to && move.phase !== 'undo') return placement
    throw new ZenithError('conflict', `It is just being moved to pageserver ${move.to}.`, {
      hint: 'zenith pageserver list shows how far that is.',
    })
  }
  if (from === to) return placement
  const { home: _, ...rest } = placement
  return {
    ...rest,
    move: {
      from,
      to,
      phase: 'warm-up',
      fromGeneration: null,
      lost: false,
      startedAt: now.toISOString(),
    },
  }
}

/** Throws `conflict` when there is no move, or none that can be undone any more. */
export function abortMove(placement: PlacementRecord): PlacementRecord {
  const { move } = placement
  if (move?.phase === 'undo') return placement
  if (move?.phase === 'warm-up' || move?.phase === 'hold') return inPhase(placement, 'undo')
  const state = move ? 'has gone too far to be undone; it ends by itself' : 'is not under way'
  throw new ZenithError('conflict', `A move of this tenant ${state}.`, {
    hint: 'zenith pageserver list shows where tenants are.',
  })
}

/** The holder is lost: another takes over, under the next generation, and nobody waits for the old one. */
export function takeOver(placement: PlacementRecord, to: number, now: Date): PlacementRecord {
  const { pageserverId: from, generation, secondary } = placement
  return {
    ...placement,
    pageserverId: to,
    generation: generation + 1,
    secondary: secondary === to ? null : secondary,
    home: placement.home ?? from,
    move: {
      from,
      to,
      phase: 'attach',
      fromGeneration: generation,
      lost: true,
      startedAt: now.toISOString(),
    },
  }
}

/** The move goes on in this phase; without a move it stays as it is. */
export function inPhase(placement: PlacementRecord, phase: MovePhase): PlacementRecord {
  const { move } = placement
  return move === undefined ? placement : { ...placement, move: { ...move, phase } }
}

/** From here on the new one is the holder, and the old one stale. */
export function handOver(placement: PlacementRecord, lost: boolean): PlacementRecord {
  const { move, generation } = placement
  if (move === undefined) return placement
  return {
    ...placement,
    pageserverId: move.to,
    generation: generation + 1,
    move: { ...move, phase: 'attach', fromGeneration: generation, lost },
  }
}

/** The move is over, and the one that was left does not serve any more. */
export function finishMove(placement: PlacementRecord): PlacementRecord {
  const { move, ...rest } = placement
  if (move === undefined) return placement
  return { ...rest, secondary: secondaryAfter(placement) }
}

/** The one that was the warm copy serves now; then the one that is left keeps a copy in its place. */
export function secondaryAfter({ pageserverId, secondary, move }: PlacementRecord): number | null {
  if (secondary !== pageserverId) return secondary
  return move === undefined || move.lost ? null : move.from
}

export type Holding =
  | { kind: 'attach'; mode: AttachMode; generation: number }
  | { kind: 'secondary'; primary: number }

/**
 * What a pageserver holds of a placement; null when nothing. A node that starts is told this, under
 * a generation that was raised when it is the newest holder.
 */
export function holdingOf(placement: PlacementRecord, node: number): Holding | null {
  const { pageserverId, generation, secondary, move } = placement
  const twoHold = move !== undefined && isShared(move.phase)
  if (node === pageserverId) {
    return { kind: 'attach', mode: twoHold ? 'multi' : 'attached', generation }
  }
  if (twoHold && !move.lost && node === move.from && move.fromGeneration !== null) {
    // Once computes have been told it need not come back.
    if (move.phase === 'clean-up') return null
    return { kind: 'attach', mode: 'stale', generation: move.fromGeneration }
  }
  const warmsUp = move !== undefined && !twoHold && move.phase !== 'undo' && node === move.to
  return warmsUp || node === secondary ? { kind: 'secondary', primary: pageserverId } : null
}

/** Whom computes read from. */
export function servingNode({ pageserverId, move }: PlacementRecord): number {
  return move?.phase === 'attach' && !move.lost ? move.from : pageserverId
}

/** False for the moment in which nobody takes new timelines. */
export function takesWrites({ move }: PlacementRecord): boolean {
  return move === undefined || !['hold', 'attach', 'undo'].includes(move.phase)
}

function isShared(phase: MovePhase): boolean {
  return phase === 'attach' || phase === 'tell' || phase === 'clean-up'
}
