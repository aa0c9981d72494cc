/**
 * The data directory of one WAL redo process: the least that single-user Postgres accepts before
 * the redo library takes over. About 16 KiB, one per process because Postgres locks it.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  CONTROL_DATA_SIZE,
  CONTROL_VERSION_17,
  DB_STATE,
  serializeControlFile,
} from '#libs/pg/control-file.ts'
import { WAL_SEGMENT_SIZE } from '#libs/lsn.ts'
import { giveTo } from '#libs/system-user.ts'

/** CATALOG_VERSION_NO of Postgres 17 (catalog/catversion.h). */
const CATALOG_VERSION_17 = 202406281

/** Folders that start-up of shared memory looks into. */
const FOLDERS = ['base', 'global', 'pg_dynshmem', 'pg_notify', 'pg_wal']

/** Makes the directory anew, owned by the user that Postgres runs as. */
export async function makeRedoDataDir(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true })
  await mkdir(path, { recursive: true, mode: 0o700 })
  await Promise.all(FOLDERS.map((folder) => mkdir(join(path, folder), { mode: 0o700 })))
  await Promise.all([
    writeFile(join(path, 'PG_VERSION'), '17\n'),
    writeFile(join(path, 'postgresql.conf'), ''),
    writeFile(join(path, 'postgresql.auto.conf'), ''),
    writeFile(join(path, 'global', 'pg_control'), redoControlFile()),
  ])
  giveTo(path)
}

/**
 * A pg_control that passes ReadControlFile (access/transam/xlog.c). Nothing but its compile-time
 * constants is looked at; "no data checksums" matters, since redo then treats hint bits as a
 * standby does.
 */
function redoControlFile(): Buffer {
  const raw = Buffer.alloc(CONTROL_DATA_SIZE)
  raw.writeUInt32LE(8, 204) // maximum alignment
  raw.writeDoubleLE(1234567, 208) // floating-point format
  raw.writeUInt32LE(8192, 216) // block size
  raw.writeUInt32LE(131072, 220) // blocks per file
  raw.writeUInt32LE(8192, 224) // WAL block size
  raw.writeUInt32LE(WAL_SEGMENT_SIZE, 228)
  raw.writeUInt32LE(64, 232) // NAMEDATALEN
  raw.writeUInt32LE(32, 236) // INDEX_MAX_KEYS
  raw.writeUInt32LE(1996, 240) // TOAST_MAX_CHUNK_SIZE
  raw.writeUInt32LE(2048, 244) // LOBLKSIZE
  raw[248] = 1 // float8 by value
  return serializeControlFile({
    systemId: 1n,
    controlVersion: CONTROL_VERSION_17,
    catalogVersion: CATALOG_VERSION_17,
    state: DB_STATE.shutDown,
    timeSeconds: 0,
    checkpointLsn: 0,
    checkpoint: {
      redo: 0,
      walTimeline: 1,
      previousWalTimeline: 1,
      fullPageWrites: false,
      walLevel: 1,
      nextXid: 3,
      nextOid: 16384,
      nextMulti: 1,
      nextMultiOffset: 0,
      oldestXid: 3,
      oldestXidDb: 1,
      oldestMulti: 1,
      oldestMultiDb: 1,
      timeSeconds: 0,
      oldestCommitTsXid: 0,
      newestCommitTsXid: 0,
      oldestActiveXid: 0,
    },
    unloggedLsn: 0,
    minRecoveryPoint: 0,
    minRecoveryTimeline: 0,
    backupStartPoint: 0,
    backupEndPoint: 0,
    backupEndRequired: false,
    walLevel: 1,
    walLogHints: false,
    maxConnections: 1,
    maxWorkerProcesses: 0,
    maxWalSenders: 0,
    maxPreparedXacts: 0,
    maxLocksPerXact: 10,
    trackCommitTimestamp: false,
    dataChecksumVersion: 0,
    raw,
  })
}
