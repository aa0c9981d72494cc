/**
 * Who keeps the WAL of a timeline, as the control plane's record has it, and the three changes of it.
 * Pure. Each change raises the generation, so that no two configurations ever share one:
 *
 *   generation g      members C                         in force
 *   begin    g + 1    members C, newMembers C'          joint: both majorities elect and commit
 *   finish   g + 2    members C'                        or
 *   abort    g + 2    members C
 *
 * Finish and abort are compare-and-swaps of the same record, so only one of them can happen. Whoever
 * is out afterwards is written down for deletion in the same step.
 */
import { ZenithError } from '#libs/errors.ts'

/** A safekeeper's copy that has to go. Anything of a generation up to this one may be deleted. */
export interface Deletion {
  readonly node: number
  readonly generation: number
}

export interface Membership {
  readonly generation: number
  /** Ids, rising. */
  readonly members: readonly number[]
  /** Ids of those who take over, rising; null while no change is under way. */
  readonly newMembers: readonly number[] | null
  /** Members that lost their disk: copied anew, and not counted until then. Empty without a change. */
  readonly rebuild: readonly number[]
  /** Members known to have no copy, made whole by a change that rebuilds them. */
  readonly pending: readonly number[]
  /** A majority of the members has this configuration, and the pageserver was told. */
  readonly announced: boolean
  readonly deletions: readonly Deletion[]
}

/** What one safekeeper said of the timeline. Positions compare by last log term, then flush. */
export interface MemberReport {
  readonly generation: number
  readonly term: number
  readonly lastLogTerm: number
  readonly flushLsn: number
}

export type LogPosition = Pick<MemberReport, 'lastLogTerm' | 'flushLsn'>

/** Below 0 when `a` is behind `b`. The length alone says nothing: a longer log may be a stale one. */
export function comparePositions(a: LogPosition, b: LogPosition): number {
  return a.lastLogTerm - b.lastLogTerm || a.flushLsn - b.flushLsn
}

/** Everybody who takes part: members, and while a change is under way the new ones. */
export function allMembers(membership: Membership): number[] {
  return sorted([...membership.members, ...(membership.newMembers ?? [])])
}

/** Those who come in with the change under way. */
export function newcomers(membership: Membership): number[] {
  return (membership.newMembers ?? []).filter((id) => !membership.members.includes(id))
}

/**
 * Makes the joint configuration. `rebuild` names members of both sets that lost their disk. Throws
 * `conflict` while a change is under way or a newcomer still has to delete an older copy, and
 * `invalid_argument` for a change that changes nothing or leaves nobody.
 */
export function beginChange(
  membership: Membership,
  newMembers: readonly number[],
  rebuild: readonly number[] = [],
): Membership {
  const target = sorted(newMembers)
  if (membership.newMembers !== null) {
    throw new ZenithError('conflict', 'A change of the members is under way already.', {
      hint: 'Wait for it, or abort it: zenith safekeeper list shows how far it is.',
    })
  }
  if (target.length === 0) throw new ZenithError('invalid_argument', 'No safekeeper would be left.')
  const both = (id: number) => target.includes(id) && membership.members.includes(id)
  if (!rebuild.every(both)) {
    throw new ZenithError('invalid_argument', 'Only a member that stays can be rebuilt.')
  }
  if (rebuild.length === 0 && sameIds(target, membership.members)) {
    throw new ZenithError('invalid_argument', 'These are the members already.')
  }
  const lacking = [...rebuild, ...membership.pending.filter(both)]
  const whole = membership.members.length - new Set(lacking).size
  if (whole < majorityOf(membership.members.length)) {
    throw new ZenithError('precondition_failed', 'Too few members still have their disk.', {
      hint: 'A majority of the members must hold the timeline for another to be rebuilt from them.',
    })
  }
  const busy = membership.deletions.find(
    ({ node }) => target.includes(node) && !membership.members.includes(node),
  )
  if (busy) {
    throw new ZenithError(
      'conflict',
      `Safekeeper ${busy.node} still has to delete an older copy.`,
      {
        hint: 'It does so as soon as it runs; then try again.',
      },
    )
  }
  return {
    ...membership,
    generation: membership.generation + 1,
    newMembers: target,
    rebuild: sorted(lacking),
    announced: false,
  }
}

/** The new members alone, from now on. `lacking` are those of them that are still without a copy. */
export function finishChange(membership: Membership, lacking: readonly number[]): Membership {
  const { members, newMembers } = membership
  if (newMembers === null) throw new ZenithError('internal', 'there is no change to finish')
  const out = members.filter((id) => !newMembers.includes(id))
  return settled(membership, newMembers, out, sorted(lacking))
}

/** The members from before, under a generation that nobody had. */
export function abortChange(membership: Membership): Membership {
  const { members, rebuild, pending } = membership
  return settled(membership, members, newcomers(membership), sorted([...pending, ...rebuild]))
}

function settled(
  membership: Membership,
  members: readonly number[],
  out: readonly number[],
  pending: readonly number[],
): Membership {
  const generation = membership.generation + 1
  return {
    generation,
    members,
    newMembers: null,
    rebuild: [],
    pending,
    announced: false,
    deletions: [...membership.deletions, ...out.map((node) => ({ node, generation }))],
  }
}

export function sameMembership(a: Membership, b: Membership): boolean {
  return JSON.stringify(ordered(a)) === JSON.stringify(ordered(b))
}

function ordered(membership: Membership): unknown[] {
  const { generation, members, newMembers, rebuild, pending, announced, deletions } = membership
  const out = deletions.map(({ node, generation: limit }) => [node, limit])
  return [generation, members, newMembers, rebuild, pending, announced, out]
}

/** Size of a majority of `count` members: 1 of 1, 2 of 2, 2 of 3, 3 of 5. */
export function majorityOf(count: number): number {
  return Math.floor(count / 2) + 1
}

function sameIds(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((id) => b.includes(id))
}

function sorted(ids: readonly number[]): number[] {
  return [...new Set(ids)].sort((a, b) => a - b)
}
