/** Whom a safekeeper does not talk to, and which members it does not follow. Pure. */
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { allMembers, configurationProblem, sameMembers } from '#libs/protocol/quorum.ts'
import type { MemberConfiguration, ProposerGreeting } from '#libs/protocol/wal-push.ts'
import type { ControlState } from './control-state.ts'

/** Why the greeting of a proposer is refused; null when it is not. */
export function greetingRefusal(
  control: ControlState,
  nodeId: number,
  greeting: ProposerGreeting,
): string | null {
  if (greeting.tenantId !== control.tenantId || greeting.timelineId !== control.timelineId) {
    return 'the greeting names another timeline than the connection'
  }
  if (greeting.walSegmentSize !== WAL_SEGMENT_SIZE) {
    return `WAL segments of ${greeting.walSegmentSize} bytes are not supported`
  }
  const major = (version: number) => Math.floor(version / 10_000)
  if (greeting.pgVersion !== 0 && major(greeting.pgVersion) !== major(control.pgVersion)) {
    return `this timeline belongs to Postgres ${major(control.pgVersion)}`
  }
  if (greeting.systemId !== 0n && greeting.systemId !== control.systemId) {
    return `system identifier ${greeting.systemId} is not that of this timeline`
  }
  // One with older members learns of the newer ones from our own greeting.
  if (greeting.configuration.generation < control.configuration.generation) return null
  return configurationRefusal(control.configuration, nodeId, greeting.configuration)
}

/** Why members of the same or a higher generation are not followed; null when they are. */
export function configurationRefusal(
  own: MemberConfiguration,
  nodeId: number,
  offered: MemberConfiguration,
): string | null {
  const { generation } = offered
  if (generation < own.generation) {
    return `members are at generation ${own.generation} already, which is above ${generation}`
  }
  const problem = configurationProblem(offered)
  if (problem !== null) return problem
  if (generation === own.generation) {
    return sameMembers(offered, own) ? null : `generation ${generation} has other members here`
  }
  if (allMembers(offered).some((member) => member.id === nodeId)) return null
  return `members of generation ${generation} do not include this safekeeper`
}
