/**
 * The fixed part of a Postgres 17 data folder: subdirectories (initdb.c) and small files, and the
 * names of files that are made from keys (relpath.c, slru.c, twophase.c).
 */

export const PG_MAJOR_VERSION = '17'
/** pg_default: relations of a database lie in base/<db>. */
export const DEFAULT_TABLESPACE = 1663
/** pg_global: shared relations, in global/. */
export const GLOBAL_TABLESPACE = 1664
/** TABLESPACE_VERSION_DIRECTORY: major version and catalog version of Postgres 17. */
const TABLESPACE_VERSION_FOLDER = 'PG_17_202406281'

export const DIRECTORIES: readonly string[] = [
  'global',
  'pg_wal',
  'pg_wal/archive_status',
  'pg_wal/summaries',
  'pg_commit_ts',
  'pg_dynshmem',
  'pg_notify',
  'pg_serial',
  'pg_snapshots',
  'pg_subtrans',
  'pg_twophase',
  'pg_multixact',
  'pg_multixact/members',
  'pg_multixact/offsets',
  'base',
  'base/1',
  'pg_replslot',
  'pg_tblspc',
  'pg_stat',
  'pg_stat_tmp',
  'pg_xact',
  'pg_logical',
  'pg_logical/snapshots',
  'pg_logical/mappings',
]

/** Loopback and the Unix socket without a password; the supervisor may replace it. */
export const PG_HBA_CONF = `# TYPE  DATABASE        USER            ADDRESS                 METHOD
local   all             all                                     trust
host    all             all             127.0.0.1/32            trust
host    all             all             ::1/128                 trust
local   replication     all                                     trust
host    replication     all             127.0.0.1/32            trust
host    replication     all             ::1/128                 trust
`

const FORK_SUFFIX = ['', '_fsm', '_vm', '_init'] as const

/** Folder of a tablespace made with CREATE TABLESPACE: always inside the data folder. */
export function tablespaceFolder(spc: number): string {
  return `pg_tblspc/${spc}/${TABLESPACE_VERSION_FOLDER}`
}

/** Folder of a database in a tablespace, as `base/5`, or `global` for the shared relations. */
export function databaseFolder(spc: number, db: number): string {
  if (spc === GLOBAL_TABLESPACE) return 'global'
  if (spc === DEFAULT_TABLESPACE) return `base/${db}`
  return `${tablespaceFolder(spc)}/${db}`
}

/** Path of a relation fork's first segment; further segments append `.1`, `.2` ... */
export function relationPath(spc: number, db: number, rel: number, fork: number): string {
  return `${databaseFolder(spc, db)}/${rel}${FORK_SUFFIX[fork] ?? ''}`
}

/** Folder and SLRU, indexed by the kind number of keys and of the page stream. */
export const SLRU_FOLDERS = [
  'pg_xact',
  'pg_multixact/offsets',
  'pg_multixact/members',
  'pg_commit_ts',
] as const

/** Path of an SLRU segment: at least four hex digits, upper case. */
export function slruPath(kind: number, segment: number): string {
  return `${SLRU_FOLDERS[kind]}/${segment.toString(16).toUpperCase().padStart(4, '0')}`
}

/** Path of the state file of a prepared transaction, by its 64-bit id. */
export function twoPhasePath(xidHigh: number, xidLow: number): string {
  const hex = (word: number) => word.toString(16).toUpperCase().padStart(8, '0')
  return `pg_twophase/${hex(xidHigh)}${hex(xidLow)}`
}
