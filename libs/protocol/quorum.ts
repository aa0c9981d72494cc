/** Majorities of the member sets of a configuration. */
import type { Lsn } from '../lsn.ts'
import type { Member, MemberConfiguration } from './wal-push.ts'

/** Every member of either set once; one that is in both has its newer address. */
export function allMembers(configuration: MemberConfiguration): Member[] {
  const all = [...configuration.members, ...(configuration.newMembers ?? [])]
  return [...new Map(all.map((member) => [member.id, member])).values()]
}

/** Why nobody may follow a configuration, in a sentence; null when it is sound. */
export function configurationProblem(configuration: MemberConfiguration): string | null {
  const { generation, members, newMembers } = configuration
  for (const set of newMembers === null ? [members] : [members, newMembers]) {
    if (set.length === 0) return `generation ${generation} has a set without members`
    const ids = new Set(set.map((member) => member.id))
    if (ids.size < set.length) return `generation ${generation} lists a safekeeper twice`
  }
  const owners = new Map<string, number>()
  for (const { id, host, pgPort } of allMembers(configuration)) {
    const endpoint = `${host}:${pgPort}`
    const owner = owners.get(endpoint)
    if (owner !== undefined) {
      return `generation ${generation} has safekeepers ${owner} and ${id} both at ${endpoint}`
    }
    owners.set(endpoint, id)
  }
  return null
}

/** Whether two configurations have the same members; addresses may differ. */
export function sameMembers(a: MemberConfiguration, b: MemberConfiguration): boolean {
  const text = (configuration: MemberConfiguration) =>
    JSON.stringify(memberSets(configuration).map((ids) => ids.sort((x, y) => x - y)))
  return text(a) === text(b)
}

/** Member ids of each set that must agree: one set, or two while a change is under way. */
export function memberSets(configuration: MemberConfiguration): number[][] {
  const sets = [configuration.members]
  if (configuration.newMembers) sets.push(configuration.newMembers)
  return sets.map((members) => [...new Set(members.map((member) => member.id))])
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
