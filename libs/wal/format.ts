/**
 * Constants of the write-ahead log of Postgres 17: page headers, record headers, resource manager
 * ids and the info bits of the records that the page server must understand.
 * Sources: access/xlog_internal.h, xlogrecord.h, rmgrlist.h, catalog/pg_control.h, xact.h,
 * storage_xlog.h, clog.h, commit_ts.h, multixact.h, heapam_xlog.h, dbcommands_xlog.h, standbydefs.h.
 */

/** xlp_magic of 17 (0xD113 is 16). */
export const WAL_PAGE_MAGIC = 0xd116

/** xlp_info: the page begins with the rest of a record. */
export const XLP_FIRST_IS_CONTRECORD = 0x0001
/** xlp_info: 40-byte header, on the first page of every segment. */
export const XLP_LONG_HEADER = 0x0002
/** xlp_info: the record that ran into this page was given up after a crash. */
export const XLP_FIRST_IS_OVERWRITE_CONTRECORD = 0x0008
/** Those, and 0x0004: page images from here on could be dropped by an archiver (XLP_BKP_REMOVABLE). */
export const XLP_ALL_FLAGS = 0x000f

/**
 * Bytes of the fixed record header (SizeOfXLogRecord):
 * 0 tot_len u32 | 4 xid u32 | 8 prev u64 | 16 info u8 | 17 rmid u8 | 18 zero u16 | 20 crc u32
 */
export const RECORD_HEADER_SIZE = 24
export const RECORD_CRC_OFFSET = 20
/** Postgres never writes a longer record (XLogRecordMaxSize). */
export const MAX_RECORD_SIZE = 1020 * 1024 * 1024

/** xl_info bits of the resource manager; the low four belong to the WAL machinery. */
export const XLR_RMGR_INFO_MASK = 0xf0

export const MAX_BLOCK_ID = 32
export const BLOCK_ID_DATA_SHORT = 255
export const BLOCK_ID_DATA_LONG = 254
export const BLOCK_ID_ORIGIN = 253
export const BLOCK_ID_TOPLEVEL_XID = 252

/** fork_flags of a block reference. */
export const BKPBLOCK_FORK_MASK = 0x0f
export const BKPBLOCK_HAS_IMAGE = 0x10
export const BKPBLOCK_HAS_DATA = 0x20
export const BKPBLOCK_WILL_INIT = 0x40
export const BKPBLOCK_SAME_REL = 0x80

/** bimg_info of a page image. */
export const BKPIMAGE_HAS_HOLE = 0x01
export const BKPIMAGE_APPLY = 0x02
export const BKPIMAGE_COMPRESS_PGLZ = 0x04
export const BKPIMAGE_COMPRESS_LZ4 = 0x08
export const BKPIMAGE_COMPRESS_ZSTD = 0x10
export const BKPIMAGE_COMPRESSED =
  BKPIMAGE_COMPRESS_PGLZ | BKPIMAGE_COMPRESS_LZ4 | BKPIMAGE_COMPRESS_ZSTD

/** Resource managers built into 17, in the order of rmgrlist.h. */
export const RMGR = {
  XLOG: 0,
  TRANSACTION: 1,
  STORAGE: 2,
  CLOG: 3,
  DATABASE: 4,
  TABLESPACE: 5,
  MULTIXACT: 6,
  RELMAP: 7,
  STANDBY: 8,
  HEAP2: 9,
  HEAP: 10,
  BTREE: 11,
  HASH: 12,
  GIN: 13,
  GIST: 14,
  SEQUENCE: 15,
  SPGIST: 16,
  BRIN: 17,
  COMMIT_TS: 18,
  REPLICATION_ORIGIN: 19,
  GENERIC: 20,
  LOGICAL_MESSAGE: 21,
} as const

/** Names as pg_waldump prints them, indexed by id. */
export const RMGR_NAMES: readonly string[] = [
  'XLOG',
  'Transaction',
  'Storage',
  'CLOG',
  'Database',
  'Tablespace',
  'MultiXact',
  'RelMap',
  'Standby',
  'Heap2',
  'Heap',
  'Btree',
  'Hash',
  'Gin',
  'Gist',
  'Sequence',
  'SPGist',
  'BRIN',
  'CommitTs',
  'ReplicationOrigin',
  'Generic',
  'LogicalMessage',
]

export const MAX_BUILTIN_RMGR = 21
export const MIN_CUSTOM_RMGR = 128

/** Name for messages: `Heap`, or `custom resource manager 130`. */
export function rmgrName(rmid: number): string {
  return RMGR_NAMES[rmid] ?? (rmid >= MIN_CUSTOM_RMGR ? `custom${rmid}` : `unknown${rmid}`)
}

export const XLOG_INFO = {
  CHECKPOINT_SHUTDOWN: 0x00,
  CHECKPOINT_ONLINE: 0x10,
  NOOP: 0x20,
  NEXTOID: 0x30,
  SWITCH: 0x40,
  BACKUP_END: 0x50,
  PARAMETER_CHANGE: 0x60,
  RESTORE_POINT: 0x70,
  FPW_CHANGE: 0x80,
  END_OF_RECOVERY: 0x90,
  FPI_FOR_HINT: 0xa0,
  FPI: 0xb0,
  OVERWRITE_CONTRECORD: 0xd0,
  CHECKPOINT_REDO: 0xe0,
} as const

/** Transaction records keep a flag in the top bit, so their opcode mask is 0x70. */
export const XACT_OPCODE_MASK = 0x70
export const XACT_HAS_INFO = 0x80
export const XACT_INFO = {
  COMMIT: 0x00,
  PREPARE: 0x10,
  ABORT: 0x20,
  COMMIT_PREPARED: 0x30,
  ABORT_PREPARED: 0x40,
  ASSIGNMENT: 0x50,
  INVALIDATIONS: 0x60,
} as const

export const SMGR_INFO = { CREATE: 0x10, TRUNCATE: 0x20 } as const
export const SMGR_TRUNCATE_HEAP = 0x0001
export const SMGR_TRUNCATE_VM = 0x0002
export const SMGR_TRUNCATE_FSM = 0x0004

/** CLOG and CommitTs share these two. */
export const SLRU_INFO = { ZEROPAGE: 0x00, TRUNCATE: 0x10 } as const

export const MULTIXACT_INFO = {
  ZERO_OFF_PAGE: 0x00,
  ZERO_MEM_PAGE: 0x10,
  CREATE_ID: 0x20,
  TRUNCATE_ID: 0x30,
} as const

export const DATABASE_INFO = { CREATE_FILE_COPY: 0x00, CREATE_WAL_LOG: 0x10, DROP: 0x20 } as const

export const TABLESPACE_INFO = { CREATE: 0x00, DROP: 0x10 } as const

export const STANDBY_INFO = { LOCK: 0x00, RUNNING_XACTS: 0x10, INVALIDATIONS: 0x20 } as const

export const REPLORIGIN_INFO = { SET: 0x00, DROP: 0x10 } as const

/** Heap and Heap2 records: opcode mask 0x70, and 0x80 means that redo initialises the page. */
export const HEAP_OPCODE_MASK = 0x70
export const HEAP_INFO = {
  INSERT: 0x00,
  DELETE: 0x10,
  UPDATE: 0x20,
  TRUNCATE: 0x30,
  HOT_UPDATE: 0x40,
  CONFIRM: 0x50,
  LOCK: 0x60,
  INPLACE: 0x70,
} as const
export const HEAP2_INFO = {
  REWRITE: 0x00,
  PRUNE_ON_ACCESS: 0x10,
  PRUNE_VACUUM_SCAN: 0x20,
  PRUNE_VACUUM_CLEANUP: 0x30,
  VISIBLE: 0x40,
  MULTI_INSERT: 0x50,
  LOCK_UPDATED: 0x60,
  NEW_CID: 0x70,
} as const

/** Fork numbers (common/relpath.h). */
export const MAIN_FORK = 0
export const FSM_FORK = 1
export const VM_FORK = 2
export const INIT_FORK = 3
