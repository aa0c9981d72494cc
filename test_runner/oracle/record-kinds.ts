/**
 * Every kind of record of Postgres 17, by resource manager, as pg_waldump names them: the names in
 * src/backend/access/rmgrdesc of 17.11, one for each info value of the headers.
 */
import type { VanillaPostgres } from '../fixtures/vanilla-postgres.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'

export const RECORD_KINDS: Readonly<Record<string, readonly string[]>> = {
  XLOG: [
    ...['CHECKPOINT_SHUTDOWN', 'CHECKPOINT_ONLINE', 'NOOP', 'NEXTOID', 'SWITCH', 'BACKUP_END'],
    ...['PARAMETER_CHANGE', 'RESTORE_POINT', 'FPW_CHANGE', 'END_OF_RECOVERY', 'FPI_FOR_HINT'],
    ...['FPI', 'OVERWRITE_CONTRECORD', 'CHECKPOINT_REDO'],
  ],
  Transaction: [
    ...['COMMIT', 'PREPARE', 'ABORT', 'COMMIT_PREPARED', 'ABORT_PREPARED', 'ASSIGNMENT'],
    'INVALIDATION',
  ],
  Storage: ['CREATE', 'TRUNCATE'],
  CLOG: ['ZEROPAGE', 'TRUNCATE'],
  Database: ['CREATE_FILE_COPY', 'CREATE_WAL_LOG', 'DROP'],
  Tablespace: ['CREATE', 'DROP'],
  MultiXact: ['ZERO_OFF_PAGE', 'ZERO_MEM_PAGE', 'CREATE_ID', 'TRUNCATE_ID'],
  RelMap: ['UPDATE'],
  Standby: ['LOCK', 'RUNNING_XACTS', 'INVALIDATIONS'],
  Heap2: [
    ...['REWRITE', 'PRUNE_ON_ACCESS', 'PRUNE_VACUUM_SCAN', 'PRUNE_VACUUM_CLEANUP', 'VISIBLE'],
    ...['MULTI_INSERT', 'MULTI_INSERT+INIT', 'LOCK_UPDATED', 'NEW_CID'],
  ],
  Heap: [
    ...['INSERT', 'INSERT+INIT', 'DELETE', 'UPDATE', 'UPDATE+INIT', 'TRUNCATE', 'HOT_UPDATE'],
    ...['HEAP_CONFIRM', 'LOCK', 'INPLACE'],
  ],
  Btree: [
    ...['INSERT_LEAF', 'INSERT_UPPER', 'INSERT_META', 'SPLIT_L', 'SPLIT_R', 'INSERT_POST'],
    ...['DEDUP', 'DELETE', 'UNLINK_PAGE', 'UNLINK_PAGE_META', 'NEWROOT', 'MARK_PAGE_HALFDEAD'],
    ...['VACUUM', 'REUSE_PAGE', 'META_CLEANUP'],
  ],
  Hash: [
    ...['INIT_META_PAGE', 'INIT_BITMAP_PAGE', 'INSERT', 'ADD_OVFL_PAGE', 'SPLIT_ALLOCATE_PAGE'],
    ...['SPLIT_PAGE', 'SPLIT_COMPLETE', 'MOVE_PAGE_CONTENTS', 'SQUEEZE_PAGE', 'DELETE'],
    ...['SPLIT_CLEANUP', 'UPDATE_META_PAGE', 'VACUUM_ONE_PAGE'],
  ],
  Gin: [
    ...['CREATE_PTREE', 'INSERT', 'SPLIT', 'VACUUM_PAGE', 'DELETE_PAGE', 'UPDATE_META_PAGE'],
    ...['INSERT_LISTPAGE', 'DELETE_LISTPAGE', 'VACUUM_DATA_LEAF_PAGE'],
  ],
  Gist: ['PAGE_UPDATE', 'DELETE', 'PAGE_REUSE', 'PAGE_SPLIT', 'PAGE_DELETE', 'ASSIGN_LSN'],
  Sequence: ['LOG'],
  SPGist: [
    ...['ADD_LEAF', 'MOVE_LEAFS', 'ADD_NODE', 'SPLIT_TUPLE', 'PICKSPLIT', 'VACUUM_LEAF'],
    ...['VACUUM_ROOT', 'VACUUM_REDIRECT'],
  ],
  BRIN: [
    ...['CREATE_INDEX', 'INSERT', 'INSERT+INIT', 'UPDATE', 'UPDATE+INIT', 'SAMEPAGE_UPDATE'],
    ...['REVMAP_EXTEND', 'DESUMMARIZE'],
  ],
  CommitTs: ['ZEROPAGE', 'TRUNCATE'],
  ReplicationOrigin: ['SET', 'DROP'],
  Generic: ['Generic'],
  LogicalMessage: ['MESSAGE'],
}

/** `Heap/INSERT` for every kind. */
export function allRecordKinds(): string[] {
  return Object.entries(RECORD_KINDS).flatMap(([rmgr, kinds]) =>
    kinds.map((kind) => `${rmgr}/${kind}`),
  )
}

/** The kinds of records in a range of the server's WAL, as pg_waldump counts them. */
export async function recordKindsIn(
  server: VanillaPostgres,
  walDir: string,
  startLsn: Lsn,
  endLsn: Lsn,
): Promise<Map<string, number>> {
  const range = ['-s', formatLsn(startLsn), '-e', formatLsn(endLsn)]
  const { stdout } = await server.tool('pg_waldump', ['-p', walDir, ...range, '--stats=record'])
  const counts = new Map<string, number>()
  for (const line of stdout.split('\n')) {
    const match = /^(\w+\/\w+(?:\+INIT)?)\s+(\d+) \(/.exec(line)
    if (match) counts.set(match[1] as string, Number(match[2]))
  }
  return counts
}
