/** The membership of a timeline as its record holds it. Records of earlier versions have no change. */
import type { TimelineRecord } from '../records.ts'
import type { Membership } from './membership.ts'

export function membershipOf(record: TimelineRecord): Membership {
  return {
    generation: record.membershipGeneration,
    members: record.safekeepers,
    newMembers: record.newSafekeepers ?? null,
    rebuild: record.rebuildSafekeepers ?? [],
    pending: record.pendingSafekeepers,
    announced: record.unannounced !== true,
    deletions: record.deletions ?? [],
  }
}

/** The record with another membership; a finished change leaves no field behind. */
export function withMembership(record: TimelineRecord, membership: Membership): TimelineRecord {
  const { generation, members, newMembers, rebuild, pending, announced, deletions } = membership
  return {
    ...withoutChange(record),
    membershipGeneration: generation,
    safekeepers: [...members],
    pendingSafekeepers: [...pending],
    ...(newMembers === null ? {} : { newSafekeepers: [...newMembers] }),
    ...(rebuild.length === 0 ? {} : { rebuildSafekeepers: [...rebuild] }),
    ...(announced ? {} : { unannounced: true }),
    ...(deletions.length === 0 ? {} : { deletions: [...deletions] }),
  }
}

/** For a branch: it is a timeline of its own, with members and no history of changes. */
export function withoutChange(record: TimelineRecord): TimelineRecord {
  const {
    newSafekeepers: _,
    rebuildSafekeepers: __,
    unannounced: ___,
    deletions: ____,
    detaching: _____,
    replaces: ______,
    historyStartLsn: _______,
    importing: ________,
    importState: __________,
    follows: _________,
    ...rest
  } = record
  return rest
}

/** Whether the driver has anything to do for it. */
export function isUnfinished({ newMembers, announced, deletions }: Membership): boolean {
  return newMembers !== null || !announced || deletions.length > 0
}
