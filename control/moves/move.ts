/**
 * Moves one placement to another pageserver without a moment in which it cannot be read, and ends
 * what an earlier life of the control plane began. Pure: `next` says what to do, the shell does it and
 * answers; no clock, store or network.
 *
 * All that must survive is the placement's record. A control plane that dies anywhere makes a new
 * machine from it, and everything asked of a node is safe to repeat:
 *
 *   warm-up    the new one keeps copies of the layer files that the old one has on disk
 *   hold       the old one flushes, and writes nothing to object storage any more: it is stale, takes
 *              in WAL and serves reads
 *   (swap)     the generation is raised, and the new one is the holder
 *   attach     the new one attaches (`multi`: it releases no objects, which the old one may need) and
 *              takes in WAL, until it is where the old one was
 *   tell       computes turn to the new one; running queries follow
 *   clean-up   the old one lets go; then the new one is the only holder
 *   undo       instead, before the swap: the old one writes again, the new one lets go
 *
 * When the old one is lost, another takes over: the swap comes first, and nobody waits for the old
 * one. Whatever it still does carries a lower generation, and counts for nothing.
 */
import type { AttachMode } from '#libs/api/attach-mode.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { PlacementRecord } from '../records.ts'
import { finishMove, handOver, inPhase, secondaryAfter } from './placement-changes.ts'

/** A warm-up that takes longer has to do: what is missing is fetched on demand. */
export const WARM_UP_MS = 600_000
/** How long a holder that is left is waited for before the move goes on without it. */
export const PATIENCE_MS = 15_000
/**
 * A new holder that gets no further for so long is waited for no more: the old one may be in its way,
 * as when WAL comes from a stock server whose slot takes one reader at a time.
 */
export const STALLED_MS = 30_000

export type Positions = ReadonlyMap<string, Lsn>

export type MoveEffect =
  /** Store `next` if the record is still `expected`. */
  | { kind: 'swap'; expected: PlacementRecord; next: PlacementRecord }
  /** Let a node keep warm copies of what the primary has. */
  | { kind: 'warm'; node: number; primary: number }
  /** Let it flush, then be stale. */
  | { kind: 'hold'; node: number; generation: number }
  | { kind: 'attach'; node: number; generation: number; mode: AttachMode }
  /** Ask how far its timelines are. */
  | { kind: 'measure'; node: number }
  /** Tell all computes where the tenant is. */
  | { kind: 'tell' }
  | { kind: 'release'; node: number; primary: number | null }

export type MoveAnswer =
  | { kind: 'done' }
  /** After `warm`; null before it knows. */
  | { kind: 'warmth'; missingBytes: number | null }
  /** After `attach` and `measure`. */
  | { kind: 'positions'; positions: Positions }
  /** After `swap`: what the store holds now, whoever stored it; null when the tenant is gone. */
  | { kind: 'record'; placement: PlacementRecord | null }
  | { kind: 'failed'; reason: string }

export class Move {
  #placement: PlacementRecord | null
  /** Since when this phase is driven, and since when what is asked for fails. */
  #sinceMs: number
  #failingSinceMs: number | null = null
  #missingBytes: number | null = null
  #isHeld = false
  /** Where the new one has to get to; null before the old one was asked. */
  #goal: Positions | null = null
  #positions: Positions | null = null
  /** When the new one was seen to get on last. */
  #progressMs: number
  #isReleased = false
  #isDone = false
  #problem: string | null = null

  constructor(placement: PlacementRecord, nowMs: number) {
    this.#placement = placement
    this.#sinceMs = nowMs
    this.#progressMs = nowMs
  }

  /** What went wrong last, while it keeps going wrong. */
  get problem(): string | null {
    return this.#problem
  }

  get missingBytes(): number | null {
    return this.#missingBytes
  }

  /** What to do now; null when there is nothing left. */
  next(nowMs: number): MoveEffect | null {
    const placement = this.#placement
    const move = placement?.move
    if (placement === null || move === undefined) return null
    const { generation, pageserverId, secondary } = placement
    const { from, to } = move
    switch (move.phase) {
      case 'warm-up':
        if (this.#isWarm(nowMs)) return this.#swap(inPhase(placement, 'hold'))
        return { kind: 'warm', node: to, primary: from }
      case 'hold':
        if (this.#isHeld) return this.#swap(handOver(placement, false))
        if (this.#hasFailedLong(nowMs)) return this.#swap(handOver(placement, true))
        return { kind: 'hold', node: from, generation }
      case 'attach':
        if (this.#hasCaughtUp(move.lost, nowMs)) return this.#swap(inPhase(placement, 'tell'))
        if (this.#positions !== null && this.#goal === null) {
          if (!this.#hasFailedLong(nowMs)) return { kind: 'measure', node: from }
          return this.#swap({ ...placement, move: { ...move, lost: true } })
        }
        return { kind: 'attach', node: to, generation, mode: 'multi' }
      case 'tell':
        return this.#isDone ? this.#swap(inPhase(placement, 'clean-up')) : { kind: 'tell' }
      case 'clean-up': {
        if (this.#isDone) return this.#swap(finishMove(placement))
        const keepsCopy = secondaryAfter(placement) === from
        const isReleased = this.#isReleased || move.lost || this.#hasFailedLong(nowMs)
        if (isReleased) return { kind: 'attach', node: to, generation, mode: 'attached' }
        return { kind: 'release', node: from, primary: keepsCopy ? to : null }
      }
      case 'undo': {
        if (this.#isReleased) return this.#swap(finishMove(placement))
        if (this.#isDone && this.#hasFailedLong(nowMs)) return this.#swap(finishMove(placement))
        if (!this.#isDone) return { kind: 'attach', node: from, generation, mode: 'attached' }
        return { kind: 'release', node: to, primary: secondary === to ? pageserverId : null }
      }
    }
  }

  /** The answer to an effect of `next`. */
  answered(effect: MoveEffect, answer: MoveAnswer, nowMs: number): void {
    if (answer.kind === 'record') return this.#adopt(answer.placement, nowMs)
    if (answer.kind === 'failed') {
      this.#problem = answer.reason
      this.#failingSinceMs ??= nowMs
      return
    }
    this.#problem = null
    this.#failingSinceMs = null
    switch (effect.kind) {
      case 'warm':
        this.#missingBytes = answer.kind === 'warmth' ? answer.missingBytes : null
        break
      case 'hold':
        this.#isHeld = true
        break
      case 'attach':
        if (effect.mode === 'attached') this.#isDone = true
        if (answer.kind === 'positions') this.#notePositions(answer.positions, nowMs)
        break
      case 'measure':
        if (answer.kind === 'positions') this.#goal = answer.positions
        break
      case 'tell':
        this.#isDone = true
        break
      case 'release':
        this.#isReleased = true
        break
      case 'swap':
        // Its answer is a record.
        break
    }
  }

  #notePositions(positions: Positions, nowMs: number): void {
    const sum = (of: Positions) => [...of.values()].reduce((total, lsn) => total + lsn, 0)
    if (this.#positions === null || sum(positions) > sum(this.#positions)) this.#progressMs = nowMs
    this.#positions = positions
  }

  /** What was learned counts for one phase of one generation. */
  #adopt(placement: PlacementRecord | null, nowMs: number): void {
    this.#placement = placement
    this.#sinceMs = nowMs
    this.#progressMs = nowMs
    this.#failingSinceMs = null
    this.#missingBytes = null
    this.#isHeld = false
    this.#goal = null
    this.#positions = null
    this.#isReleased = false
    this.#isDone = false
  }

  #swap(next: PlacementRecord): MoveEffect {
    return { kind: 'swap', expected: this.#placement as PlacementRecord, next }
  }

  #isWarm(nowMs: number): boolean {
    if (this.#failingSinceMs !== null) return false
    return this.#missingBytes === 0 || nowMs - this.#sinceMs >= WARM_UP_MS
  }

  #hasCaughtUp(lost: boolean, nowMs: number): boolean {
    const positions = this.#positions
    if (positions === null || this.#failingSinceMs !== null) return false
    if (lost) return true
    if (this.#goal === null) return false
    if (nowMs - this.#progressMs >= STALLED_MS) return true
    return [...this.#goal].every(([timelineId, lsn]) => (positions.get(timelineId) ?? lsn) >= lsn)
  }

  #hasFailedLong(nowMs: number): boolean {
    return this.#failingSinceMs !== null && nowMs - this.#failingSinceMs >= PATIENCE_MS
  }
}
