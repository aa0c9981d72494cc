/**
 * What models of moves and of splits have in common: pageservers that come and go, and a machine that
 * is run against them by a control plane that can die between any two steps, and whose answers can be
 * lost after the work was done.
 */
import fc from 'fast-check'
import { expect } from 'vitest'
import type { AttachMode } from '#libs/api/attach-mode.ts'

export const NOW = new Date('2026-01-01T00:00:00Z')
export const TIMELINE = 'b'.repeat(32)
export const NODES = [1, 2, 3]

/** Of a tenant or shard, at one pageserver. */
export interface Holder {
  mode: AttachMode
  generation: number
  lsn: number
}

interface Machine<Effect, Answer> {
  next(nowMs: number): Effect | null
  answered(effect: Effect, answer: Answer | Lost, nowMs: number): void
}

interface Lost {
  kind: 'failed'
  reason: string
}

export abstract class ModelFleet<Effect, Answer> {
  walLsn = 100
  nowMs = 0
  readonly #owners = new Map<string, number>()
  #machine: Machine<Effect, Answer> | null = null

  /** What is stored; another object whenever it changes. */
  protected abstract record(): object
  protected abstract makeMachine(nowMs: number): Machine<Effect, Answer>
  protected abstract perform(effect: Effect): Answer
  protected abstract isUp(node: number): boolean
  abstract restart(node: number): void
  /** What must hold at every moment. */
  abstract check(): void

  /** The control plane dies, and is there again. */
  crash(): void {
    this.#machine = null
  }

  /** One step, false when there is none left; `lose` loses the answer of what was done. */
  step(options: { lose?: boolean } = {}): boolean {
    this.nowMs += 1_000
    this.beforeStep()
    const machine = this.#machine ?? this.makeMachine(this.nowMs)
    this.#machine = machine
    const effect = machine.next(this.nowMs)
    if (effect === null) return false
    const before = this.record()
    const answer = this.perform(effect)
    this.check()
    const lost: Lost = { kind: 'failed', reason: 'lost' }
    machine.answered(effect, options.lose ? lost : answer, this.nowMs)
    // As the shell does when the record is another.
    if (this.record() !== before) this.crash()
    return true
  }

  /** Nothing goes wrong any more. */
  settle(): void {
    for (const id of NODES) if (!this.isUp(id)) this.restart(id)
    this.beforeSettling()
    for (let steps = 0; this.step() || this.isUnderWay(); steps++) {
      if (steps > 400) throw new Error(`not settled: ${JSON.stringify(this.record())}`)
    }
  }

  /** What others do meanwhile. */
  protected beforeStep(): void {}

  protected beforeSettling(): void {}

  /** The machine has nothing to do for the moment, and has not ended. */
  protected isUnderWay(): boolean {
    return false
  }

  /** No generation is ever held by two pageservers. */
  protected claim(key: string, node: number): void {
    const owner = this.#owners.get(key) ?? node
    expect(owner, `generation ${key} has one holder`).toBe(node)
    this.#owners.set(key, node)
  }
}

type StepFault = { kind: 'step'; lose: boolean } | { kind: 'crash' }
type NodeFault = { kind: 'restart' | 'lose'; node: number }

/** Steps, of which some lose their answer, and crashes; by weight. */
export function stepCommands(steps: number): fc.WeightedArbitrary<StepFault>[] {
  return [
    { weight: steps, arbitrary: fc.constant({ kind: 'step', lose: false }) },
    { weight: 3, arbitrary: fc.constant({ kind: 'step', lose: true }) },
    { weight: 3, arbitrary: fc.constant({ kind: 'crash' }) },
  ]
}

/** Pageservers restart and are lost. */
export const nodeCommands: fc.WeightedArbitrary<NodeFault> = {
  weight: 1,
  arbitrary: fc.record({
    kind: fc.constantFrom('restart', 'lose'),
    node: fc.constantFrom(...NODES),
  }),
}
