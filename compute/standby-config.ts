/** Settings of computes that only read, besides those that every compute has. Pure. */
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import type { NodeInfo } from '#libs/api/node-info.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { ControlFile } from '#libs/pg/control-file.ts'
import { targetOptions } from '#libs/pgwire/session-target.ts'
import { accessConninfo } from './safekeeper-access.ts'

/** In the data folder of a replica: its safekeepers, as libpq reads them. */
export const SERVICE_FILE = 'safekeepers.conf'
const SERVICE = 'safekeepers'

/** How soon a replica whose safekeeper is gone turns to another one. */
const RETRY_INTERVAL = '200ms'

/**
 * What is given on the command line of a server that replays WAL, or, when static, is as if it had
 * just come to the end of it. Of the primary's limits it must have as much (a standby keeps the
 * state of all transactions and locks of its primary), and gets more only if its owner says so.
 */
export function standbySettings(
  spec: ComputeSpec,
  control: ControlFile,
  dataFolder: string,
): Readonly<Record<string, string>> {
  const following = spec.mode === 'replica'
  return {
    hot_standby: 'on',
    primary_conninfo: following ? safekeeperConninfo(spec, dataFolder) : '',
    primary_slot_name: '',
    restore_command: '',
    recovery_target_timeline: 'current',
    ...(following ? { wal_retrieve_retry_interval: RETRY_INTERVAL } : {}),
    max_connections: atLeast(spec, 'max_connections', control.maxConnections),
    max_worker_processes: atLeast(spec, 'max_worker_processes', control.maxWorkerProcesses),
    max_wal_senders: atLeast(spec, 'max_wal_senders', control.maxWalSenders),
    max_prepared_transactions: atLeast(spec, 'max_prepared_transactions', control.maxPreparedXacts),
    max_locks_per_transaction: atLeast(spec, 'max_locks_per_transaction', control.maxLocksPerXact),
  }
}

function atLeast(spec: ComputeSpec, name: string, needed: number): string {
  const chosen = Number(spec.systemSettings?.[name] ?? spec.settings?.[name] ?? 0)
  return String(Number.isInteger(chosen) ? Math.max(chosen, needed) : needed)
}

/**
 * Any of the safekeepers will do, since all serve committed WAL only; libpq tries them in random
 * order until one answers. Where they are is in a service file, which libpq reads each time that it
 * connects: the members of a branch change, and what is on the command line cannot.
 */
function safekeeperConninfo(spec: ComputeSpec, dataFolder: string): string {
  const { endpoint } = spec
  const options = targetOptions({
    tenantId: parseTenantId(spec.tenantId),
    timelineId: parseTimelineId(spec.timelineId),
  })
  return [
    `service=${SERVICE}`,
    'load_balance_hosts=random',
    'connect_timeout=3',
    'user=standby',
    `application_name=${endpoint}`,
    `options='${options}'`,
    ...accessConninfo(spec, dataFolder),
  ].join(' ')
}

/** Contents of the service file. */
export function safekeeperService(safekeepers: readonly NodeInfo[]): string {
  const hosts = safekeepers.map(({ host }) => host).join(',')
  const ports = safekeepers.map(({ pgPort }) => pgPort).join(',')
  return `[${SERVICE}]\nhost=${hosts}\nport=${ports}\n`
}
