/**
 * Opens a base backup in whichever shape it comes: a plain folder, archives of pg_basebackup, or the
 * folder of a server that was stopped cleanly. What can be refused is refused here, before anything
 * is made of it.
 */
import { createReadStream, existsSync } from 'node:fs'
import { mkdir, readdir, readFile, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { type ControlFile, DB_STATE } from '#libs/pg/control-file.ts'
import { TarExtractor } from '#libs/tar-extract.ts'
import { type BackupLabel, parseBackupLabel } from './backup-label.ts'
import { type BackupManifest, readBackupManifest, verifyBackup } from './backup-manifest.ts'
import { readClusterControl } from './data-folder-import.ts'
import type { ImportProgress } from './import-progress.ts'

const READ_BYTES = 1024 * 1024
const SUFFIXES = ['', '.gz', '.zst']

export interface OpenBackup {
  folder: string
  walFolders: string[]
  control: ControlFile
  /** Null: the folder of a server that was stopped cleanly. */
  label: BackupLabel | null
}

export interface BackupRequest {
  path: string
  wal: string | null
  /** An empty folder for what must be unpacked. */
  staging: string
  progress: ImportProgress
  signal: AbortSignal
}

/** Throws `not_found`, `unsupported` or `corrupt`, naming what is wrong with the backup. */
export async function openBackup(request: BackupRequest): Promise<OpenBackup> {
  const { path, wal, staging } = request
  const found = await stat(path).catch(() => null)
  if (found === null) throw nothingAt(path)
  if (found.isDirectory() && existsSync(join(path, 'PG_VERSION'))) {
    const walFolders = wal === null ? [] : [await walFolder(wal, request)]
    return await checkBackup(path, join(path, 'backup_manifest'), walFolders, request)
  }
  const base = found.isDirectory() ? archiveIn(path, 'base.tar') : path
  if (base === null) throw nothingAt(path)
  await checkNoTablespaces(dirname(base))
  const folder = join(staging, 'data')
  const progress = request.progress.begin('fetching', (await stat(base)).size)
  await unpack(base, folder, (bytes) => progress.add(bytes), request.signal)
  const beside = archiveIn(dirname(base), 'pg_wal.tar')
  const isSet = basename(base).startsWith('base.tar')
  const walFolders = wal === null ? [] : [await walFolder(wal, request)]
  if (isSet && beside !== null) walFolders.push(await walFolder(beside, request))
  const inside = join(folder, 'backup_manifest')
  const manifest = isSet && !existsSync(inside) ? join(dirname(base), 'backup_manifest') : inside
  return await checkBackup(folder, manifest, walFolders, request)
}

/** Checks an unpacked backup: every file against the manifest, version, sizes, label. */
export async function checkBackup(
  folder: string,
  manifestPath: string,
  walFolders: readonly string[],
  { progress, signal }: Pick<BackupRequest, 'progress' | 'signal'>,
): Promise<OpenBackup> {
  // Archives always have one; it is empty where there are no tablespaces.
  const map = await stat(join(folder, 'tablespace_map')).catch(() => null)
  if (map !== null && map.size > 0) throw hasTablespaces()
  const manifest = await readBackupManifest(manifestPath)
  if (manifest !== null) await verify(folder, manifest, progress, signal)
  const control = await readClusterControl(folder)
  const systemId = manifest?.systemId ?? null
  if (systemId !== null && systemId !== String(control.systemId)) {
    throw new ZenithError('corrupt', 'the manifest belongs to the backup of another cluster')
  }
  const labelPath = join(folder, 'backup_label')
  const hasLabel = existsSync(labelPath)
  if (!hasLabel && control.state !== DB_STATE.shutDown) {
    throw new ZenithError(
      'precondition_failed',
      `${folder} was neither backed up nor stopped cleanly`,
      {
        hint: 'Stop its server cleanly first, or take a base backup with pg_basebackup.',
      },
    )
  }
  const label = hasLabel ? parseBackupLabel(await readFile(labelPath, 'utf8')) : null
  return {
    folder,
    walFolders: [...walFolders, join(folder, 'pg_wal')].filter(existsSync),
    control,
    label,
  }
}

async function verify(
  folder: string,
  manifest: BackupManifest,
  progress: ImportProgress,
  signal: AbortSignal,
): Promise<void> {
  const total = manifest.files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  const step = progress.begin('checking', total)
  await verifyBackup(folder, manifest, (bytes) => step.add(bytes), signal)
}

/** The folder itself, or what an archive of WAL holds. */
async function walFolder(path: string, request: BackupRequest): Promise<string> {
  const found = await stat(path).catch(() => null)
  if (found === null) {
    throw new ZenithError('not_found', `there is no WAL at ${path}`, {
      hint: 'Name a folder of WAL segments, or pg_wal.tar.',
    })
  }
  if (found.isDirectory()) {
    const archive = archiveIn(path, 'pg_wal.tar')
    return archive === null ? path : await walFolder(archive, request)
  }
  const folder = join(request.staging, `wal-${basename(path)}`)
  const progress = request.progress.begin('fetching', found.size)
  await unpack(path, folder, (bytes) => progress.add(bytes), request.signal)
  return folder
}

function archiveIn(folder: string, name: string): string | null {
  const found = SUFFIXES.map((suffix) => join(folder, name + suffix)).find(existsSync)
  return found ?? null
}

async function unpack(
  path: string,
  folder: string,
  onBytes: (bytes: number) => void,
  signal: AbortSignal,
): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const extractor = new TarExtractor(folder, null)
  const file = createReadStream(path, { highWaterMark: READ_BYTES, signal })
  file.on('data', (chunk) => onBytes(chunk.length))
  try {
    for await (const chunk of decompressed(file, path)) extractor.write(chunk as Buffer)
    extractor.end()
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof ZenithError && error.code !== 'corrupt') throw error
    if ((error as NodeJS.ErrnoException).syscall !== undefined) throw error
    throw new ZenithError('corrupt', `${path} is damaged: ${errorMessage(error)}`, {
      hint: 'Copy it anew from where it is kept. It must be an archive of pg_basebackup.',
      cause: error,
    })
  }
}

function decompressed(file: Readable, path: string): Readable {
  if (path.endsWith('.gz')) return carry(file, createGunzip())
  if (path.endsWith('.zst')) return carry(file, createZstdDecompress())
  if (!path.endsWith('.lz4')) return file
  throw new ZenithError('unsupported', `${path} is compressed with LZ4`, {
    hint: 'Unpack it first: lz4 -d. Archives of gzip and zstd are taken as they are.',
  })
}

function carry<T extends NodeJS.ReadWriteStream & Readable>(from: Readable, to: T): T {
  from.on('error', (error) => to.destroy(error))
  from.pipe(to)
  return to
}

async function checkNoTablespaces(folder: string): Promise<void> {
  const names = await readdir(folder)
  if (names.some((name) => /^\d+\.tar(\.\w+)?$/.test(name))) throw hasTablespaces()
}

function hasTablespaces(): ZenithError {
  return new ZenithError('unsupported', 'the cluster has tablespaces', {
    hint: 'Move everything to pg_default (ALTER ... SET TABLESPACE), drop them, and back up again.',
  })
}

function nothingAt(path: string): ZenithError {
  return new ZenithError('not_found', `there is no base backup at ${path}`, {
    hint: 'Name a folder or a base.tar of pg_basebackup, on the machine of the pageserver.',
  })
}
