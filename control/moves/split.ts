/**
 * Splits the shards of a tenant into more without a moment in which it cannot be read or written.
 * Pure: `next` says what to do, the shell does it and answers; no clock, store or network.
 *
 * All that must survive is the tenant's record. A control plane that dies anywhere makes a new
 * machine from it, and everything asked of a node is safe to repeat:
 *
 *   hold       the parents flush, and write nothing to object storage any more: they are stale, take
 *              in WAL and serve reads
 *   (swap)     the children are the tenant's shards, with generations above those of their parents
 *   attach     each child takes over its parent's timelines, which copies no data, and takes in WAL
 *              until it is where the parent was
 *   tell       computes turn to the children; running queries follow
 *   clean-up   the parents are let go
 *
 * There is no way back: up to the swap nothing has changed, and after it the children have all that
 * the parents had. A parent that does not answer is not waited for: its generation is not the
 * newest any more, so whatever it still does counts for nothing.
 */
import type { Lsn } from '#libs/lsn.ts'
import type { TenantRecord } from '../records.ts'
import { PATIENCE_MS, type Positions, STALLED_MS } from './move.ts'
import {
  finishSplit,
  handOverSplit,
  inSplitPhase,
  type SplitState,
  withLost,
} from './split-changes.ts'

export type SplitEffect =
  /** Store `next` if the record is still `expected`. */
  | { kind: 'swap'; expected: SplitState; next: SplitState }
  /** Let these parents flush, then be stale. */
  | { kind: 'hold'; shards: number[] }
  /** Attach all children; they take over from their parents as long as the phase is `attach`. */
  | { kind: 'attach' }
  /** Ask how far the timelines of these parents are. */
  | { kind: 'measure'; shards: number[] }
  /** Tell all computes where the tenant is. */
  | { kind: 'tell' }
  /** Let go of these parents. */
  | { kind: 'release'; shards: number[] }
  /** A shard is being moved, or taken over from a pageserver that was lost. */
  | { kind: 'wait' }

export type SplitAnswer =
  | { kind: 'done' }
  /** Of `hold`, `attach`, `measure`, `release`: by shard, those that answered; and why others did not. */
  | { kind: 'shards'; done: ReadonlyMap<number, Positions>; reason: string | null }
  /** After `swap`: what the store holds now, whoever stored it; null when the tenant is gone. */
  | { kind: 'record'; state: SplitState | null }
  | { kind: 'failed'; reason: string }

export class Split {
  #state: SplitState | null
  #failingSinceMs: number | null = null
  /** Parents that are held, or released. */
  readonly #settled = new Set<number>()
  /** Where children have to get to, by timeline; null before all parents were asked. */
  #goal: Map<string, Lsn> | null = null
  readonly #measured = new Map<number, Positions>()
  #positions: ReadonlyMap<number, Positions> | null = null
  /** When a child was seen to get on last. */
  #progressMs: number
  #isDone = false
  #problem: string | null = null

  constructor(state: SplitState, nowMs: number) {
    this.#state = state
    this.#progressMs = nowMs
  }

  /** What went wrong last, while it keeps going wrong. */
  get problem(): string | null {
    return this.#problem
  }

  /** What to do now; null when there is nothing left. */
  next(nowMs: number): SplitEffect | null {
    const state = this.#state
    const split = state?.split
    if (!state || split === undefined) return null
    if (state.placements.some(({ move }) => move !== undefined)) return { kind: 'wait' }
    switch (split.phase) {
      case 'hold': {
        const left = this.#unsettled(state.placements)
        if (left.length === 0 || this.#hasFailedLong(nowMs)) {
          return this.#swap(handOverSplit(state, left))
        }
        return { kind: 'hold', shards: left }
      }
      case 'attach': {
        if (this.#positions === null) return { kind: 'attach' }
        const parents = split.parents.map(({ shard }) => shard)
        const asked = parents.filter((shard) => !split.lost.includes(shard))
        const left = asked.filter((shard) => !this.#measured.has(shard))
        if (left.length > 0) {
          if (!this.#hasFailedLong(nowMs)) return { kind: 'measure', shards: left }
          return this.#swap(withLost(state, left))
        }
        if (this.#hasCaughtUp(nowMs)) return this.#swap(inSplitPhase(state, 'tell'))
        return { kind: 'attach' }
      }
      case 'tell':
        return this.#isDone ? this.#swap(inSplitPhase(state, 'clean-up')) : { kind: 'tell' }
      case 'clean-up': {
        const left = this.#unsettled(split.parents).filter((shard) => !split.lost.includes(shard))
        if (left.length > 0 && !this.#hasFailedLong(nowMs)) return { kind: 'release', shards: left }
        // A timeline that was just being made when the split began is in the record by now.
        return this.#positions === null ? { kind: 'attach' } : this.#swap(finishSplit(state))
      }
    }
  }

  /** The answer to an effect of `next`. */
  answered(effect: SplitEffect, answer: SplitAnswer, nowMs: number): void {
    switch (answer.kind) {
      case 'record':
        return this.#adopt(answer.state, nowMs)
      case 'failed':
        return this.#note(answer.reason, nowMs)
      case 'done':
        this.#note(null, nowMs)
        if (effect.kind === 'tell') this.#isDone = true
        return
      case 'shards':
        this.#note(answer.reason, nowMs)
        if (effect.kind === 'hold' || effect.kind === 'release') {
          for (const shard of answer.done.keys()) this.#settled.add(shard)
        }
        if (effect.kind === 'measure') this.#measure(answer.done)
        if (effect.kind === 'attach' && answer.reason === null) this.#advance(answer.done, nowMs)
    }
  }

  #note(problem: string | null, nowMs: number): void {
    this.#problem = problem
    if (problem === null) this.#failingSinceMs = null
    else this.#failingSinceMs ??= nowMs
  }

  #unsettled(shards: readonly { shard: number }[]): number[] {
    return shards.map(({ shard }) => shard).filter((shard) => !this.#settled.has(shard))
  }

  #measure(done: ReadonlyMap<number, Positions>): void {
    for (const [shard, positions] of done) this.#measured.set(shard, positions)
    const goal = new Map<string, Lsn>()
    for (const positions of this.#measured.values()) {
      for (const [timelineId, lsn] of positions) {
        goal.set(timelineId, Math.max(goal.get(timelineId) ?? 0, lsn))
      }
    }
    this.#goal = goal
  }

  #advance(positions: ReadonlyMap<number, Positions>, nowMs: number): void {
    if (this.#positions === null || sumOf(positions) > sumOf(this.#positions)) {
      this.#progressMs = nowMs
    }
    this.#positions = positions
  }

  #hasCaughtUp(nowMs: number): boolean {
    if (this.#failingSinceMs !== null || this.#positions === null) return false
    if (nowMs - this.#progressMs >= STALLED_MS) return true
    const goal = this.#goal ?? new Map<string, Lsn>()
    return [...this.#positions.values()].every((child) =>
      [...goal].every(([timelineId, lsn]) => (child.get(timelineId) ?? lsn) >= lsn),
    )
  }

  #hasFailedLong(nowMs: number): boolean {
    return this.#failingSinceMs !== null && nowMs - this.#failingSinceMs >= PATIENCE_MS
  }

  /** What was learned counts for one phase of one record. */
  #adopt(state: SplitState | null, nowMs: number): void {
    this.#state = state
    this.#progressMs = nowMs
    this.#failingSinceMs = null
    this.#settled.clear()
    this.#goal = null
    this.#measured.clear()
    this.#positions = null
    this.#isDone = false
  }

  #swap(next: SplitState): SplitEffect {
    return { kind: 'swap', expected: this.#state as SplitState, next }
  }
}

/** The parts of a tenant that a split looks at. */
export function splitStateOf(tenant: TenantRecord): SplitState {
  const { shardCount, stripeBlocks, placements, split, formerCounts, spread, lastSplit } = tenant
  return {
    shardCount,
    stripeBlocks,
    placements,
    ...(split === undefined ? {} : { split }),
    ...(formerCounts === undefined ? {} : { formerCounts }),
    ...(spread === undefined ? {} : { spread }),
    ...(lastSplit === undefined ? {} : { lastSplit }),
  }
}

function sumOf(positions: ReadonlyMap<number, Positions>): number {
  let total = 0
  for (const one of positions.values()) for (const lsn of one.values()) total += lsn
  return total
}
