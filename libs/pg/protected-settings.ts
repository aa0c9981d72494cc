/**
 * Settings of Postgres that belong to Zenith: its promises, or the address of the endpoint, rest on
 * them. Neither the endpoint's owner nor ALTER SYSTEM may set them. The supervisor gives most of
 * them on the command line, which overrides every file; it hands the list to the extension, which
 * refuses ALTER SYSTEM with a reason.
 */

const DURABILITY = 'commits are made durable by a quorum of safekeepers, not by local files'
const ADDRESS = 'the address of an endpoint is chosen when it is started'
const FOLDER = 'the data folder of a compute is made anew at each start'
const STORAGE = 'it says which branch this compute serves, and how it reaches its storage'
const RECOVERY = 'a compute gets its data from the pageserver, never by recovery'

const REASONS: Readonly<Record<string, string>> = {
  synchronous_standby_names: DURABILITY,
  fsync: DURABILITY,
  full_page_writes: DURABILITY,
  wal_log_hints: DURABILITY,
  restart_after_crash: DURABILITY,
  max_slot_wal_keep_size: DURABILITY,
  synchronized_standby_slots: DURABILITY,
  listen_addresses: ADDRESS,
  port: ADDRESS,
  unix_socket_directories: ADDRESS,
  unix_socket_permissions: ADDRESS,
  unix_socket_group: ADDRESS,
  data_directory: FOLDER,
  config_file: FOLDER,
  hba_file: FOLDER,
  ident_file: FOLDER,
  external_pid_file: FOLDER,
  hot_standby: RECOVERY,
  primary_conninfo: RECOVERY,
  primary_slot_name: RECOVERY,
  restore_command: RECOVERY,
  recovery_end_command: RECOVERY,
  recovery_prefetch: RECOVERY,
  recovery_target: RECOVERY,
  recovery_target_action: RECOVERY,
  recovery_target_inclusive: RECOVERY,
  recovery_target_lsn: RECOVERY,
  recovery_target_name: RECOVERY,
  recovery_target_time: RECOVERY,
  recovery_target_timeline: RECOVERY,
  recovery_target_xid: RECOVERY,
  'zenith.mode': STORAGE,
  'zenith.pageserver_connstring': STORAGE,
  'zenith.progress_file': STORAGE,
  'zenith.protected_settings': STORAGE,
  'zenith.start_lsn': STORAGE,
  'zenith.supervisor_address': STORAGE,
  'zenith.tenant_id': STORAGE,
  'zenith.timeline_id': STORAGE,
}

/** All names, in lower case. Postgres compares names of settings without regard to case. */
export const PROTECTED_SETTINGS: readonly string[] = Object.keys(REASONS)

/**
 * Why the owner of an endpoint may not give a setting this value, as the end of a sentence; null if
 * they may.
 */
export function protectionOf(name: string, value: string): string | null {
  const key = name.toLowerCase()
  if (key === 'wal_level' && value.trim().toLowerCase() === 'minimal') {
    return 'the pageserver knows of changes from the WAL alone, so it must be complete'
  }
  if (key === 'max_wal_senders' && Number(value) === 0) {
    return 'WAL is sent to the safekeepers through a WAL sender'
  }
  if (key === 'max_wal_senders' && Number(value) === 0) {
    return 'WAL is sent to the safekeepers through a WAL sender'
  }
  return REASONS[key] ?? null
}
