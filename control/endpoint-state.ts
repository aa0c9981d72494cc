/** State changes of an endpoint. Pure: a record and an event give the next record. */
import type { EndpointMode, EndpointReport } from '#libs/api/endpoint-info.ts'
import type { EndpointRecord } from './records.ts'

export function modeOf(record: Pick<EndpointRecord, 'mode'>): EndpointMode {
  return record.mode ?? 'primary'
}

/** Statuses in which a compute process may be there, and writing if it is a primary. */
export function isActive(status: EndpointRecord['status']): boolean {
  return status === 'starting' || status === 'running' || status === 'stopping'
}

/** How long a compute that was told to start may take until its first report. */
const START_GRACE_MS = 10_000

/** A new start: a higher attempt, so that reports of an earlier process are ignored from now on. */
export function started(record: EndpointRecord, port: number, now: Date): EndpointRecord {
  return {
    ...record,
    status: 'starting',
    port,
    httpPort: null,
    pid: null,
    error: null,
    attempt: record.attempt + 1,
    startedAt: now.toISOString(),
  }
}

/**
 * A report of a compute. Returns the record unchanged when the report is of an earlier attempt, or
 * of a process that was already taken for ended.
 */
export function reported(record: EndpointRecord, report: EndpointReport): EndpointRecord {
  if (report.attempt !== record.attempt || !isActive(record.status)) return record
  const next: EndpointRecord = {
    ...record,
    status: record.status === 'stopping' && isActive(report.status) ? 'stopping' : report.status,
    pid: report.pid ?? record.pid,
    httpPort: report.httpPort ?? record.httpPort,
    lsn: report.lsn ?? record.lsn,
    error: report.error ?? null,
  }
  return isActive(next.status) ? next : { ...next, pid: null, httpPort: null }
}

/** The compute process is gone without having said so. */
export function vanished(record: EndpointRecord): EndpointRecord {
  const stopped = record.status === 'stopping'
  return {
    ...record,
    status: stopped ? 'stopped' : 'crashed',
    error: stopped ? null : 'its compute process ended without a word (killed, or power was cut)',
    pid: null,
    httpPort: null,
  }
}

/** True when a starting compute has had its time and not even reported that it runs. */
export function startIsOverdue(record: EndpointRecord, now: Date): boolean {
  if (record.httpPort !== null || record.startedAt === null) return false
  return now.getTime() - Date.parse(record.startedAt) > START_GRACE_MS
}
