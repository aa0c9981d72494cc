/** Rules broken on purpose, each of which the exploration must find out. */
import { ProposerCore } from '../../compute/proposer/core.ts'
import { quorumLsn } from '#libs/protocol/quorum.ts'
import { Acceptor, type AcceptorEffect, type AcceptorEvent } from '../../safekeeper/acceptor.ts'

/** Replaces the effects of every step. */
function onEffects(change: (effects: AcceptorEffect[], event: AcceptorEvent) => AcceptorEffect[]) {
  const prototype = Acceptor.prototype as {
    step: (this: Acceptor, event: AcceptorEvent) => AcceptorEffect[]
  }
  const { step } = prototype
  prototype.step = function mutated(event) {
    return change(step.call(this, event), event)
  }
}

export const MUTATIONS: Record<string, () => void> = {
  /** Bytes of older terms on a majority count as committed. */
  'commit-without-term-start': () => {
    const prototype = ProposerCore.prototype as unknown as {
      quorumCommitLsn: (this: ProposerCore) => number
    }
    prototype.quorumCommitLsn = function hasty() {
      const acked = new Map(this.nodes().map((node) => [node.id, node.ackedLsn]))
      return quorumLsn(this.configuration, (id) => acked.get(id) ?? 0)
    }
  },
  /** A vote names WAL that may still be lost. */
  'vote-without-flush': () =>
    onEffects((effects) => effects.filter(({ kind }) => kind !== 'flush')),
  /** A term is told before it is stored. */
  'vote-not-durable': () =>
    onEffects((effects) =>
      effects.map((one) => (one.kind === 'persist' ? { ...one, background: true } : one)),
    ),
  /** The new leader's history is stored before the foreign tail is gone. */
  'history-before-truncate': () =>
    onEffects((effects) => {
      const cuts = effects.filter(({ kind }) => kind === 'truncate')
      const at = effects.findIndex(({ kind }) => kind === 'persist')
      if (cuts.length === 0 || at < 0) return effects
      const rest = effects.filter(({ kind }) => kind !== 'truncate')
      return [...rest.slice(0, at + 1), ...cuts, ...rest.slice(at + 1)]
    }),
}

/** Throws for a name that is not known. */
export function mutate(name: string): void {
  const mutation = MUTATIONS[name]
  if (mutation === undefined) {
    throw new Error(
      `There is no mutation "${name}"; there are ${Object.keys(MUTATIONS).join(', ')}.`,
    )
  }
  mutation()
}
