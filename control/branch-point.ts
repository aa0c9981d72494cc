/**
 * At which LSN does a branch start? Pure decisions over what computes and safekeepers said.
 *
 * The promise: a branch made at the end of its parent holds every commit of the parent that was
 * acknowledged before the branch was asked for, and nothing that may still be taken back.
 */
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn, walHeaderSize, walPageOffset } from '#libs/lsn.ts'

export interface ComputeFact {
  /** `gone`: nothing listens there any more; `silent`: it did not answer in time. */
  readonly kind: 'answered' | 'gone' | 'silent'
  readonly term: number | null
  readonly commitLsn: Lsn | null
}

export interface SafekeeperFact {
  readonly id: number
  readonly term: number
  readonly flushLsn: Lsn
  readonly commitLsn: Lsn
}

export interface TipFacts {
  /** The compute that runs on the parent, or null when none is known. */
  readonly compute: ComputeFact | null
  /** Members of the parent's quorum that answered. */
  readonly safekeepers: readonly SafekeeperFact[]
  readonly memberCount: number
}

export type TipDecision =
  | { readonly kind: 'at'; readonly lsn: Lsn }
  /** Ask again shortly: a compute is just being elected, or one is not answering. */
  | { readonly kind: 'wait'; readonly reason: string }
  /** Nobody writes: recover and commit what a quorum holds, and take its end. */
  | { readonly kind: 'sync' }

/**
 * The end of the parent.
 *
 * A running compute knows best: it acknowledges a commit only after its own commit LSN has passed
 * it. Safekeepers with a higher term than that compute's mean that another has taken over.
 * Without its word: an acknowledged commit is at or below the flush LSN of at least one member of
 * any majority, so when the largest flush LSN of a majority is committed, that is the end. Otherwise
 * a tail is in doubt, and only an election can decide it; that would fence a compute, hence `wait`.
 */
export function decideTip(facts: TipFacts): TipDecision {
  const { compute, safekeepers, memberCount } = facts
  const highestTerm = Math.max(0, ...safekeepers.map(({ term }) => term))
  const commit = Math.max(0, ...safekeepers.map(({ commitLsn }) => commitLsn))
  if (compute?.kind === 'answered' && compute.commitLsn !== null) {
    if (compute.term !== null && compute.term >= highestTerm) {
      return { kind: 'at', lsn: Math.max(compute.commitLsn, commit) }
    }
  }
  const majority = safekeepers.length > memberCount / 2
  if (!majority) {
    return {
      kind: 'wait',
      reason: `only ${safekeepers.length} of ${memberCount} safekeepers answer, a majority is needed`,
    }
  }
  const flush = Math.max(...safekeepers.map(({ flushLsn }) => flushLsn))
  if (flush === commit) return { kind: 'at', lsn: commit }
  if (compute === null || compute.kind === 'gone') return { kind: 'sync' }
  return {
    kind: 'wait',
    reason:
      compute.kind === 'silent'
        ? 'the compute on the parent branch does not answer'
        : 'the compute on the parent branch is still starting',
  }
}

/**
 * Where a branch asked for at `lsn` really starts: a multiple of 8, as records do, and never inside
 * a WAL page header, since a record can start behind it only.
 */
export function alignBranchLsn(lsn: Lsn): Lsn {
  const aligned = lsn - (lsn % 8)
  const offset = walPageOffset(aligned)
  const pageStart = aligned - offset
  return offset > 0 && offset < walHeaderSize(pageStart) ? pageStart : aligned
}

/** Throws `out_of_range`, naming the valid range, unless `startLsn <= lsn <= tipLsn`. */
export function checkBranchLsn(options: {
  parent: string
  lsn: Lsn
  startLsn: Lsn
  tipLsn: Lsn
}): void {
  const { parent, lsn, startLsn, tipLsn } = options
  if (lsn >= startLsn && lsn <= tipLsn) return
  throw new ZenithError(
    'out_of_range',
    `Branch "${parent}" has no LSN ${formatLsn(lsn)}: it reaches from ${formatLsn(startLsn)} to ${formatLsn(tipLsn)}.`,
    {
      hint:
        lsn < startLsn
          ? 'Name an LSN in that range; for an earlier one, branch from its parent.'
          : 'Name an LSN in that range. A branch that names none begins at the end.',
    },
  )
}
