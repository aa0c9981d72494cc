/** Builds the WAL proposer from a compute's spec. */
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { Logger } from '#libs/log.ts'
import { WalProposer } from './proposer/wal-proposer.ts'

export type ProposerSpec = Pick<
  ComputeSpec,
  | 'tenantId'
  | 'timelineId'
  | 'safekeepers'
  | 'newSafekeepers'
  | 'membershipGeneration'
  | 'pgVersion'
  | 'systemId'
>

export function createProposer(spec: ProposerSpec & { endpoint?: string }, log: Logger) {
  return new WalProposer({
    tenantId: parseTenantId(spec.tenantId),
    timelineId: parseTimelineId(spec.timelineId),
    endpointName: spec.endpoint ?? 'sync',
    configuration: {
      generation: spec.membershipGeneration,
      members: spec.safekeepers,
      newMembers: spec.newSafekeepers ?? null,
    },
    pgVersion: spec.pgVersion,
    systemId: spec.systemId,
    log,
  })
}
