/** Rules that can be broken on purpose: the simulation must notice each of them. */
import { quorumLsn } from '#libs/protocol/quorum.ts'
import type {
  AcceptorMessage,
  MemberConfiguration,
  ProposerMessage,
} from '#libs/protocol/wal-push.ts'
import { ProposerCore } from '../../compute/proposer/core.ts'
import type { AcceptorEffect } from '../../safekeeper/acceptor.ts'

export type Mutation =
  | 'vote-without-flush'
  | 'vote-not-durable'
  | 'history-before-truncate'
  | 'cut-below'
  | 'ack-written'
  | 'ack-after-failed-sync'
  | 'no-rewrite-at-boot'
  | 'commit-without-term-start'
  | 'keep-acks-after-wipe'
  | 'peer-commit-without-term'
  | 'skip-term-bump'
  | 'delete-by-horizon'
  | 'remove-above-backup'
  | 'skip-generation-check'
  | 'elected-again-with-foreign-log'
  | 'restore-without-check'
  | 'evict-without-compare'

/** Effects as a safekeeper that breaks a rule would have them. */
export function mutateEffects(
  mutation: Mutation | null,
  effects: AcceptorEffect[],
): AcceptorEffect[] {
  if (mutation === 'vote-without-flush') {
    return effects.filter((effect) => effect.kind !== 'flush')
  }
  if (mutation === 'history-before-truncate') {
    const rank = (effect: AcceptorEffect) => (effect.kind === 'truncate' ? 1 : 0)
    const moved = effects.filter((effect) => effect.kind !== 'send')
    const sends = effects.filter((effect) => effect.kind === 'send')
    return [...moved.sort((a, b) => rank(a) - rank(b)), ...sends]
  }
  if (mutation === 'vote-not-durable') {
    return effects.map((effect) =>
      effect.kind === 'persist' ? { ...effect, background: true } : effect,
    )
  }
  return effects
}

/**
 * A message as a safekeeper that does not look at generations takes it, and the reply as its sender
 * then gets it: each is told its own generation.
 */
export function ignoreGenerations(
  message: ProposerMessage,
  own: MemberConfiguration,
): ProposerMessage {
  if (message.kind === 'greeting') return { ...message, configuration: own }
  return { ...message, generation: own.generation }
}

export function hideGenerations(
  message: AcceptorMessage,
  offered: MemberConfiguration,
): AcceptorMessage {
  if (message.kind === 'greeting') return { ...message, configuration: offered }
  return { ...message, generation: offered.generation }
}

/** A message as a safekeeper that breaks a rule would send it. */
export function mutateReply(mutation: Mutation | null, message: AcceptorMessage): AcceptorMessage {
  if (mutation !== 'cut-below' || message.kind !== 'vote') return message
  const history = message.history.filter((entry) => entry.startLsn < message.flushLsn)
  return { ...message, history: history.length > 0 ? history : message.history.slice(0, 1) }
}

/** Commits by acks below the start of the term too, as a leader without that rule would. */
class HastyCore extends ProposerCore {
  protected override quorumCommitLsn(): number {
    const acked = new Map(this.nodes().map((node) => [node.id, node.ackedLsn]))
    return quorumLsn(this.configuration, (id) => acked.get(id) ?? 0)
  }
}

/** Counts what a safekeeper acknowledged in an earlier life or an earlier term. */
class RememberingCore extends ProposerCore {
  readonly #best = new Map<number, number>()

  protected override quorumCommitLsn(): number {
    for (const { id, ackedLsn } of this.nodes()) {
      this.#best.set(id, Math.max(ackedLsn, this.#best.get(id) ?? 0))
    }
    return quorumLsn(this.configuration, (id) => {
      const acked = this.#best.get(id) ?? 0
      return acked >= this.termStartLsn ? acked : 0
    })
  }
}

/** Takes any log for its own when it is elected again with its Postgres alive. */
class GreedyCore extends ProposerCore {
  protected override ownsTerm(): boolean {
    return true
  }
}

export function proposerCore(mutation: Mutation | null): typeof ProposerCore {
  if (mutation === 'commit-without-term-start') return HastyCore
  if (mutation === 'keep-acks-after-wipe') return RememberingCore
  return mutation === 'elected-again-with-foreign-log' ? GreedyCore : ProposerCore
}
