/**
 * One compute of the model: the production proposer core with its shell's habit of sending at once
 * whatever it may, as a table of transitions, filled on demand.
 *
 * Time stands still at 0. Waits end when the model says so: `time` lets a chosen kind of wait pass.
 */
import type { MemberConfiguration } from '#libs/protocol/wal-push.ts'
import { ABANDON_MS, ProposerCore } from '../../compute/proposer/core.ts'
import type { AppendHeader, ProposerEffect, ProposerEvent } from '../../compute/proposer/events.ts'
import { copyOf, fingerprint, Interner } from './snapshot.ts'

const NOTHING: ReadonlySet<string> = new Set()

export type ProposerMove =
  | { kind: 'event'; event: ProposerEvent }
  /** Tell of commits. */
  | { kind: 'news' }
  /** Waits before a connection or fetch is tried again are over. */
  | { kind: 'time' }
  /** So are the waits for a best voter that is away and for a rival that may be at it. */
  | { kind: 'long-time' }
  | { kind: 'relay'; node: number; beginLsn: number; endLsn: number }

export type ProposerOutput =
  | ProposerEffect
  | { kind: 'append'; node: number; header: AppendHeader; relayed: boolean }

export interface ProposerStep {
  readonly next: number
  readonly outputs: readonly ProposerOutput[]
}

export class ProposerNodes {
  readonly #states = new Interner<ProposerCore>()
  readonly #steps = new Map<string, ProposerStep>()

  get size(): number {
    return this.#states.size
  }

  get transitions(): number {
    return this.#steps.size
  }

  create(index: number, configuration: MemberConfiguration): number {
    const id = String(index)
    return this.#id(
      new ProposerCore({
        tenantId: '1'.repeat(32),
        timelineId: '2'.repeat(32),
        configuration,
        pgVersion: 170011,
        systemId: 7n,
        proposerId: id.repeat(32).slice(0, 32),
        random: () => 0.5,
      }),
    )
  }

  state(id: number): ProposerCore {
    return this.#states.value(id)
  }

  /** `moveKey` is equal for equal moves. */
  step(id: number, moveKey: string, move: ProposerMove): ProposerStep {
    const key = `${id}|${moveKey}`
    let step = this.#steps.get(key)
    if (step === undefined) {
      const core = copyOf(this.#states.value(id))
      const outputs = perform(core, move)
      step = { next: this.#id(core), outputs }
      this.#steps.set(key, step)
    }
    return step
  }

  #id(core: ProposerCore): number {
    return this.#states.id(fingerprint(core, NOTHING), core)
  }
}

/** Fields of the opened core that say when a wait is over. */
interface Waits {
  readonly $nodes: ReadonlyMap<
    number,
    { state: string; reconnectAtMs: number; fetchAtMs: number; activeAtMs: number }
  >
  readonly $tenure: { $campaignAtMs: number; $waitFactor: number }
}

function perform(core: ProposerCore, move: ProposerMove): ProposerOutput[] {
  const outputs: ProposerOutput[] = []
  switch (move.kind) {
    case 'event':
      outputs.push(...core.step(move.event))
      break
    case 'time':
    case 'long-time': {
      const { $nodes, $tenure } = core as unknown as Waits
      if (move.kind === 'long-time') $tenure.$campaignAtMs = 0
      for (const node of $nodes.values()) {
        node.reconnectAtMs = Math.min(node.reconnectAtMs, 0)
        node.fetchAtMs = Math.min(node.fetchAtMs, 0)
        if (move.kind === 'long-time' && node.state !== 'active') node.activeAtMs = -ABANDON_MS
      }
      outputs.push(...core.step({ kind: 'tick', nowMs: 0 }))
      for (const node of $nodes.values()) if (node.activeAtMs < 0) node.activeAtMs = 0
      break
    }
    case 'relay': {
      const header = core.relay(move.node, move.beginLsn, move.endLsn)
      if (header) outputs.push({ kind: 'append', node: move.node, header, relayed: true })
      outputs.push(...core.step({ kind: 'fetch-ended', node: move.node, complete: true }))
      break
    }
    case 'news':
  }
  // How long a wait is makes no difference here.
  const { $tenure } = core as unknown as Waits
  $tenure.$waitFactor = 1
  pump(core, outputs, move.kind === 'news')
  return outputs
}

function pump(core: ProposerCore, outputs: ProposerOutput[], news: boolean): void {
  if (core.phase !== 'elected') return
  for (const { id } of core.nodes()) {
    for (
      let header = core.nextAppend(id, news);
      header !== null;
      header = core.nextAppend(id, news)
    ) {
      outputs.push({ kind: 'append', node: id, header, relayed: false })
    }
  }
  outputs.push(...core.wantedFetches())
}
