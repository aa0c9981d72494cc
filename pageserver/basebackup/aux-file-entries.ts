/**
 * Auxiliary files (`../keyspace/aux-file.ts`) of a base backup, at their paths: what Postgres keeps
 * outside pages, and below `zenith/` what the compute's supervisor unpacks itself.
 */
import type { Lsn } from '#libs/lsn.ts'
import { decodeAuxFile } from '../keyspace/aux-file.ts'
import { KeyClass } from '../keyspace/key-class.ts'
import type { Timeline } from '../timeline/timeline.ts'
import type { BackupEntry } from './base-backup.ts'
import { DIRECTORIES } from './data-folder.ts'

/** Folders first, outer ones before inner ones, then the files in order of their paths. */
export async function auxFileEntries(timeline: Timeline, lsn: Lsn): Promise<BackupEntry[]> {
  const pieces = new Map<string, Buffer[]>()
  // Entries of one file come in the order of their block numbers, which are offsets.
  for (const { value } of await timeline.scanBlobs(KeyClass.AuxFile, lsn)) {
    const { path, content } = decodeAuxFile(value)
    const before = pieces.get(path)
    if (before === undefined) pieces.set(path, [content])
    else before.push(content)
  }
  const paths = [...pieces.keys()].sort()
  const entries: BackupEntry[] = foldersOf(paths).map((name) => ({ name, type: 'directory' }))
  for (const name of paths) {
    entries.push({ name, type: 'file', content: Buffer.concat(pieces.get(name) as Buffer[]) })
  }
  return entries
}

function foldersOf(paths: readonly string[]): string[] {
  const folders = new Set<string>()
  for (const path of paths) {
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1)) {
      folders.add(path.slice(0, slash))
    }
  }
  return [...folders].filter((folder) => !DIRECTORIES.includes(folder)).sort()
}
