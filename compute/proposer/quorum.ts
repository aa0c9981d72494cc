/** Majorities of the member sets of a configuration. */
import type { Lsn } from '#libs/lsn.ts'
import type { MemberConfiguration } from '#libs/protocol/wal-push.ts'

/** Member ids of each set that must agree: one set, or two while a change is under way. */
export function memberSets(configuration: MemberConfiguration): number[][] {
  const sets = [configuration.members]
  if (configuration.newMembers) sets.push(configuration.newMembers)
  return sets.map((members) => members.map((member) => member.id))
}

/** Size of a majority of `count` members: 1 of 1, 2 of 2, 2 of 3, 3 of 4, 3 of 5. */
export function majority(count: number): number {
  return Math.floor(count / 2) + 1
}

/** Whether those for whom `has` holds are a majority of each set. */
export function isQuorum(
  configuration: MemberConfiguration,
  has: (memberId: number) => boolean,
): boolean {
  return memberSets(configuration).every((ids) => ids.filter(has).length >= majority(ids.length))
}

/** The highest position that a majority of each set has reached. */
export function quorumLsn(
  configuration: MemberConfiguration,
  positionOf: (memberId: number) => Lsn,
): Lsn {
  let lowest = Number.POSITIVE_INFINITY
  for (const ids of memberSets(configuration)) {
    const positions = ids.map(positionOf).sort((a, b) => a - b)
    lowest = Math.min(lowest, positions[ids.length - majority(ids.length)] ?? 0)
  }
  return lowest
}
