/**
 * Which tenant and timeline a connection means. Clients that we do not write (pg_receivewal, stock
 * standbys) can only set startup `options`, so the ids travel there:
 * `options='-c tenant_id=<32 hex> -c timeline_id=<32 hex>'`.
 */
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from '../ids.ts'

export interface SessionTarget {
  tenantId: TenantId
  timelineId: TimelineId
}

/** Reads the ids from the startup parameters; null when `options` names none. Throws on a malformed id. */
export function sessionTarget(startup: ReadonlyMap<string, string>): SessionTarget | null {
  const options = startup.get('options') ?? ''
  const tenant = /(?:^|[\s,])(?:-c\s*)?tenant_id=([^\s,]+)/.exec(options)
  const timeline = /(?:^|[\s,])(?:-c\s*)?timeline_id=([^\s,]+)/.exec(options)
  if (!tenant || !timeline) return null
  return {
    tenantId: parseTenantId(tenant[1] as string),
    timelineId: parseTimelineId(timeline[1] as string),
  }
}

/** The startup `options` value that `sessionTarget` reads. */
export function targetOptions(target: SessionTarget): string {
  return `-c tenant_id=${target.tenantId} -c timeline_id=${target.timelineId}`
}
