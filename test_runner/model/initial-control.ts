/** A timeline that nobody has written to. */
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { Lsn } from '#libs/lsn.ts'
import type { MemberConfiguration } from '#libs/protocol/wal-push.ts'
import type { ControlState } from '../../safekeeper/control-state.ts'

export function initialControl(configuration: MemberConfiguration, startLsn: Lsn): ControlState {
  return {
    tenantId: parseTenantId('1'.repeat(32)),
    timelineId: parseTimelineId('2'.repeat(32)),
    configuration,
    term: 0,
    history: [{ term: 0, startLsn }],
    pgVersion: 170011,
    systemId: 7n,
    startLsn,
    commitLsn: startLsn,
    backupLsn: startLsn,
    peerHorizonLsn: startLsn,
    remoteConsistentLsn: startLsn,
    createdAtMs: 0,
    localStartLsn: startLsn,
    partialBackups: [],
    eviction: null,
    dirtyTail: false,
  }
}
