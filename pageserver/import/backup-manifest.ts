/**
 * backup_manifest: the files of a base backup with sizes and checksums. The same checks as
 * pg_verifybackup's, made before anything is taken in.
 */
import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import { type Lsn, parseLsn } from '#libs/lsn.ts'
import { crc32c } from '#libs/wal/crc32c.ts'

/** Written, or changed, after the manifest was made. */
const NOT_LISTED = new Set([
  'backup_manifest',
  'postgresql.auto.conf',
  'recovery.signal',
  'standby.signal',
])
const READ_BYTES = 1024 * 1024

interface ManifestFile {
  path: string
  sizeBytes: number
  /** Null: no checksum was made. */
  algorithm: string | null
  checksum: string
}

export interface BackupManifest {
  files: ManifestFile[]
  /** Decimal text; null in manifests of before 17. */
  systemId: string | null
  /** Where WAL that makes the backup consistent ends; null when it is not told. */
  endLsn: Lsn | null
}

/** Throws `corrupt` when the text is not a manifest or fails its own checksum. */
export function parseBackupManifest(text: string): BackupManifest {
  const end = text.lastIndexOf('"Manifest-Checksum"')
  const expected = /^"Manifest-Checksum"\s*:\s*"([0-9a-f]{64})"\s*}\s*$/.exec(text.slice(end))?.[1]
  const sum = createHash('sha256')
    .update(text.slice(0, Math.max(end, 0)))
    .digest('hex')
  if (expected === undefined || expected !== sum) {
    throw new ZenithError('corrupt', 'backup_manifest fails its own checksum')
  }
  try {
    const json = JSON.parse(text) as Record<string, unknown>
    const ranges = (json['WAL-Ranges'] ?? []) as { 'End-LSN': string }[]
    const last = ranges.at(-1)
    return {
      files: ((json['Files'] ?? []) as Record<string, unknown>[]).map(fileOf),
      // The number is larger than JSON.parse can tell.
      systemId: /"System-Identifier"\s*:\s*(\d+)/.exec(text)?.[1] ?? null,
      endLsn: last === undefined ? null : parseLsn(last['End-LSN']),
    }
  } catch (error) {
    throw new ZenithError('corrupt', `backup_manifest cannot be read: ${errorMessage(error)}`)
  }
}

function fileOf(entry: Record<string, unknown>): ManifestFile {
  const encoded = entry['Encoded-Path']
  const path =
    typeof encoded === 'string'
      ? Buffer.from(encoded, 'hex').toString('utf8')
      : String(entry['Path'])
  const { 'Checksum-Algorithm': algorithm, Checksum: checksum } = entry
  return {
    path,
    sizeBytes: Number(entry['Size']),
    algorithm: typeof algorithm === 'string' ? algorithm : null,
    checksum: typeof checksum === 'string' ? checksum : '',
  }
}

/**
 * Compares every file of the folder with the manifest. Throws `corrupt`, naming the first file that
 * is missing, too much, or has other bytes; `onBytes` is told how far the work is.
 */
export async function verifyBackup(
  folder: string,
  manifest: BackupManifest,
  onBytes: (bytes: number) => void,
  signal: AbortSignal,
): Promise<void> {
  const listed = new Set(manifest.files.map(({ path }) => path))
  for (const path of await filesBelow(folder, '')) {
    const known = listed.has(path) || NOT_LISTED.has(path) || path.startsWith('pg_wal/')
    if (!known) throw damaged(`holds the file "${path}", which its manifest does not name`)
  }
  for (const file of manifest.files) {
    signal.throwIfAborted()
    if (NOT_LISTED.has(file.path)) continue
    await verifyFile(folder, file, onBytes)
  }
}

async function filesBelow(folder: string, prefix: string): Promise<string[]> {
  const files: string[] = []
  for (const entry of await readdir(join(folder, prefix), { withFileTypes: true })) {
    const path = prefix === '' ? entry.name : `${prefix}/${entry.name}`
    if (entry.isDirectory()) files.push(...(await filesBelow(folder, path)))
    else files.push(path)
  }
  return files
}

async function verifyFile(
  folder: string,
  { path, sizeBytes, algorithm, checksum }: ManifestFile,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const sum = checksumOf(algorithm)
  let bytes = 0
  try {
    const stream = createReadStream(join(folder, path), { highWaterMark: READ_BYTES })
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      sum?.update(chunk)
      bytes += chunk.length
      onBytes(chunk.length)
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    throw damaged(`lacks the file "${path}"`)
  }
  if (bytes !== sizeBytes) throw damaged(`has ${bytes} bytes of "${path}", not ${sizeBytes}`)
  if (sum !== null && sum.digest() !== checksum) {
    throw damaged(`holds other bytes in "${path}" than were backed up: its checksum is wrong`)
  }
}

function checksumOf(
  algorithm: string | null,
): { update(chunk: Buffer): void; digest(): string } | null {
  if (algorithm === null || algorithm === 'NONE') return null
  if (algorithm === 'CRC32C') return new Crc32c()
  const name = algorithm.toLowerCase()
  if (!/^sha(224|256|384|512)$/.test(name)) {
    throw damaged(`has checksums of the unknown kind "${algorithm}"`)
  }
  const hash: Hash = createHash(name)
  return { update: (chunk) => void hash.update(chunk), digest: () => hash.digest('hex') }
}

/** Written as the four bytes lie in memory, least significant first. */
class Crc32c {
  #crc = 0

  update(chunk: Buffer): void {
    this.#crc = crc32c(chunk, 0, chunk.length, this.#crc)
  }

  digest(): string {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32LE(this.#crc >>> 0)
    return bytes.toString('hex')
  }
}

function damaged(what: string): ZenithError {
  return new ZenithError('corrupt', `the base backup ${what}`, {
    hint: 'Take it anew, or copy it anew from where it is kept; pg_verifybackup says more.',
  })
}

/** The folder's manifest, or null when it has none. */
export async function readBackupManifest(path: string): Promise<BackupManifest | null> {
  try {
    return parseBackupManifest(await readFile(path, 'utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}
