/** The text of a compute's postgresql.conf and pg_hba.conf. Pure. */
import type { ComputeSpec } from '#libs/api/control.ts'
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { computeSettingsConf } from '#libs/pg/compute-settings.ts'

/** Name that the supervisor's replication connection goes by. */
export const PROPOSER_NAME = 'walproposer'

const SETTING_NAME = /^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$/i

export interface ConfigOptions {
  spec: ComputeSpec
  startLsn: Lsn
  /** Folder of the Unix socket, or null for none. */
  socketFolder: string | null
}

/**
 * postgresql.conf: defaults that suit this architecture, then the owner's settings. What nobody may
 * change is on the command line, see `protectedSettings`.
 */
export function postgresConf({ spec }: Pick<ConfigOptions, 'spec'>): string {
  const { host, pgPort } = spec.pageserver
  return [
    '# Written at each start of the compute; changes are lost.',
    'shared_buffers = 128MB',
    'zenith.file_cache_size = 1GB',
    'max_wal_size = 1GB',
    'min_wal_size = 80MB',
    'logging_collector = off',
    "log_line_prefix = '%m [%p] '",
    'log_checkpoints = off',
    "timezone = 'UTC'",
    "log_timezone = 'UTC'",
    "default_text_search_config = 'pg_catalog.english'",
    '',
    '# As pg_control has them at first, so that start-up writes no WAL for them.',
    computeSettingsConf(),
    '# Chosen by the owner of the endpoint.',
    ...Object.entries(spec.settings ?? {}).map(([name, value]) => setting(name, value)),
    // The supervisor streams WAL, which minimal WAL does not allow.
    ...(spec.settings?.['wal_level'] === 'minimal' ? ['wal_level = replica'] : []),
    '',
    '# Followed at a reload, so that a page server can move.',
    setting('zenith.pageserver_connstring', `host=${host} port=${pgPort}`),
    '',
  ].join('\n')
}

/**
 * What the promises of the storage rest on. Given on the command line, where neither the owner's
 * settings nor ALTER SYSTEM can override it: a commit acknowledged without the quorum, or a crash
 * recovery in place on local files, would lose data.
 */
export function protectedSettings({
  spec,
  startLsn,
  socketFolder,
}: ConfigOptions): Record<string, string> {
  return {
    // The WAL quorum is what makes data durable; local files may be lost at any time.
    fsync: 'off',
    full_page_writes: 'off',
    wal_log_hints: 'off',
    restart_after_crash: 'off',
    recovery_prefetch: 'off',
    synchronous_standby_names: PROPOSER_NAME,
    max_slot_wal_keep_size: '-1',
    wal_sender_timeout: '0',
    shared_preload_libraries: preloaded(spec.settings),
    'zenith.tenant_id': spec.tenantId,
    'zenith.timeline_id': spec.timelineId,
    'zenith.start_lsn': formatLsn(startLsn),
    listen_addresses: spec.host,
    port: String(spec.port),
    unix_socket_directories: socketFolder ?? '',
    unix_socket_permissions: '0700',
  }
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

/**
 * `name = 'value'`, quoted as guc-file.l reads it: a quote is doubled, a backslash too. Throws
 * `invalid_argument` for what cannot be a setting's name or fit on a line.
 */
export function setting(name: string, value: string): string {
  if (!SETTING_NAME.test(name) || /[\n\r\0]/.test(value)) {
    throw new ZenithError(
      'invalid_argument',
      `"${name}" cannot be set to ${JSON.stringify(value)}.`,
    )
  }
  return `${name} = '${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}
