/**
 * Folders of databases and tablespaces, with the files that tell where a database's catalog is.
 *
 * A compute has no files of permanent relations, yet Postgres looks for them: DROP TABLESPACE and
 * ALTER DATABASE SET TABLESPACE refuse when a database's folder in the tablespace is not empty, and
 * DROP DATABASE and CREATE DATABASE with STRATEGY file_copy only look into folders that exist. So a
 * folder stands wherever the database has a relation, and if nothing else is in it, a marker.
 */
import type { Lsn } from '#libs/lsn.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { BlobEntry } from '../timeline/timeline-reader.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { BackupEntry } from './base-backup.ts'
import {
  databaseFolder,
  DIRECTORIES,
  GLOBAL_TABLESPACE,
  PG_MAJOR_VERSION,
  tablespaceFolder,
} from './data-folder.ts'

/** Name of the marker; `pgxn/zenith/tablespaces.c` makes and removes it, too. */
const RELATIONS_MARKER = 'zenith_relations'

/**
 * Folders of tablespaces and databases, PG_VERSION and pg_filenode.map of every database and the
 * shared pg_filenode.map. `relations` are the timeline's RelSize entries at `lsn`. With their files
 * in the backup, as stock Postgres needs it, there are no markers: it would never remove them.
 */
export async function databaseEntries(
  timeline: Timeline,
  lsn: Lsn,
  relations: readonly BlobEntry[],
  withFiles: boolean,
): Promise<BackupEntry[]> {
  const [maps, tablespaces] = await Promise.all([
    timeline.scanBlobs(KeyClass.RelMap, lsn),
    timeline.scanBlobs(KeyClass.Tablespace, lsn),
  ])
  return [
    ...folderEntries(maps, relations, new Set(tablespaces.map(({ spc }) => spc))),
    ...maps.flatMap(mapEntries),
    ...(withFiles ? [] : markerEntries(maps, relations)),
  ]
}

/** Folders from the outside in, each once. */
function folderEntries(
  maps: readonly BlobEntry[],
  relations: readonly BlobEntry[],
  tablespaces: Set<number>,
): BackupEntry[] {
  const folders = new Set<string>()
  for (const { spc, db } of [...maps, ...relations]) folders.add(databaseFolder(spc, db))
  for (const spc of tablespaces) folders.add(tablespaceFolder(spc))
  const made = new Set(DIRECTORIES)
  const entries: BackupEntry[] = []
  for (const folder of folders) {
    for (const name of withParents(folder)) {
      if (made.has(name)) continue
      made.add(name)
      entries.push({ name, type: 'directory' })
    }
  }
  return entries
}

/** `a/b/c` gives `a`, `a/b`, `a/b/c`. */
function withParents(folder: string): string[] {
  const parts = folder.split('/')
  return parts.map((_, index) => parts.slice(0, index + 1).join('/'))
}

function mapEntries({ spc, db, value }: BlobEntry): BackupEntry[] {
  const folder = databaseFolder(spc, db)
  const map: BackupEntry = { name: `${folder}/pg_filenode.map`, type: 'file', content: value }
  if (spc === GLOBAL_TABLESPACE) return [map]
  const content = Buffer.from(`${PG_MAJOR_VERSION}\n`)
  return [{ name: `${folder}/PG_VERSION`, type: 'file', content }, map]
}

function markerEntries(maps: readonly BlobEntry[], relations: readonly BlobEntry[]): BackupEntry[] {
  const marked = new Set<string>()
  for (const { spc, db } of relations) marked.add(databaseFolder(spc, db))
  for (const { spc, db } of maps) marked.delete(databaseFolder(spc, db))
  marked.delete(databaseFolder(GLOBAL_TABLESPACE, 0))
  const content = Buffer.alloc(0)
  return [...marked].map((folder) => ({
    name: `${folder}/${RELATIONS_MARKER}`,
    type: 'file',
    content,
  }))
}
