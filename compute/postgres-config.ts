/** The text of a compute's postgresql.conf and pg_hba.conf. Pure. */
import type { ComputeSpec } from '#libs/api/control.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { computeSettingsConf } from '#libs/pg/compute-settings.ts'

/** Name that the supervisor's replication connection goes by. */
export const PROPOSER_NAME = 'walproposer'

export interface ConfigOptions {
  spec: ComputeSpec
  startLsn: Lsn
  /** Folder of the Unix socket, or null for none. */
  socketFolder: string | null
}

/**
 * postgresql.conf. Order decides, the last line wins: defaults that suit this architecture, then
 * the owner's settings, then what the storage depends on and nobody may change.
 */
export function postgresConf({ spec, startLsn, socketFolder }: ConfigOptions): string {
  const { host, pgPort } = spec.pageserver
  return [
    '# Written at each start of the compute; changes are lost.',
    'shared_buffers = 128MB',
    'max_wal_size = 1GB',
    'min_wal_size = 80MB',
    'wal_keep_size = 0',
    'logging_collector = off',
    "log_line_prefix = '%m [%p] '",
    'log_checkpoints = off',
    "timezone = 'UTC'",
    "log_timezone = 'UTC'",
    '',
    '# Chosen by the owner of the endpoint.',
    ...Object.entries(spec.settings ?? {}).map(([name, value]) => setting(name, value)),
    '',
    '# Kept equal to pg_control, so that start-up writes no WAL for them.',
    computeSettingsConf(),
    '# The WAL quorum is what makes data durable; local files may be lost at any time.',
    'fsync = off',
    'full_page_writes = off',
    'wal_log_hints = off',
    'restart_after_crash = off',
    'recovery_prefetch = off',
    'synchronous_commit = on',
    setting('synchronous_standby_names', PROPOSER_NAME),
    'max_slot_wal_keep_size = -1',
    'wal_sender_timeout = 0',
    setting('shared_preload_libraries', preloaded(spec.settings)),
    setting('zenith.tenant_id', spec.tenantId),
    setting('zenith.timeline_id', spec.timelineId),
    setting('zenith.pageserver_connstring', `host=${host} port=${pgPort}`),
    setting('zenith.start_lsn', formatLsn(startLsn)),
    setting('listen_addresses', spec.host),
    `port = ${spec.port}`,
    setting('unix_socket_directories', socketFolder ?? ''),
    'unix_socket_permissions = 0700',
    '',
  ].join('\n')
}

/** Everybody on this machine may connect: endpoints listen on loopback, like the original's. */
export function hbaConf(): string {
  return [
    '# TYPE  DATABASE     USER  ADDRESS       METHOD',
    'local   all          all                 trust',
    'host    all          all   127.0.0.1/32  trust',
    'host    all          all   ::1/128       trust',
    'local   replication  all                 trust',
    'host    replication  all   127.0.0.1/32  trust',
    'host    replication  all   ::1/128       trust',
    '',
  ].join('\n')
}

function preloaded(settings: Record<string, string> = {}): string {
  const asked = (settings['shared_preload_libraries'] ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '' && name !== 'zenith')
  return ['zenith', ...asked].join(',')
}

/** `name = 'value'`, quoted as guc-file.l reads it: a quote is doubled, a backslash too. */
export function setting(name: string, value: string): string {
  return `${name} = '${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}
