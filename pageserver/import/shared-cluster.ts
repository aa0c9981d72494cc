/**
 * The fresh cluster that all shards of a timeline begin with. Two runs of initdb need not place the
 * same rows on the same pages, so shard 0 leaves its cluster in object storage, and every shard, its
 * own next attempt included, takes its blocks from there:
 *
 *   tenants/<tenant>-00<count>/timelines/<timeline>/initdb
 *
 *   zenith-initdb 1 <crc32 of the rest, 8 hex>\n
 *   zstd of: for each file  path length u16 | content length u32 | path | content   (little-endian)
 */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import type { ObjectStore } from '#libs/object-store/object-store.ts'
import { type ControlFile, parseControlFile, serializeControlFile } from '#libs/pg/control-file.ts'
import { type ShardIdentity, tenantShardId, wholeTenant } from '#libs/sharding.ts'
import { timelinesFolder } from '../remote/paths.ts'
import { freshControlFile, type InitdbTemplate } from './initdb-template.ts'

const HEADER = /^zenith-initdb 1 ([0-9a-f]{8})$/
const ENTRY_HEADER_BYTES = 6
const MAX_BYTES = 1024 * 1024 * 1024
const CONTROL_FILE = 'global/pg_control'
const PATH = /^[A-Za-z0-9_][A-Za-z0-9_.-]*(\/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$/

export interface SharedClusterOptions {
  store: ObjectStore
  tenantId: TenantId
  timelineId: TimelineId
  shard: ShardIdentity
  template: () => Promise<InitdbTemplate>
  /** The cluster lies below it for as long as it is used. */
  scratchFolder: string
}

/**
 * Runs `use` with a folder that holds the cluster, and its control file. Shard 0 makes it if there is
 * none; for the others that is `precondition_failed`.
 */
export async function withSharedCluster<T>(
  options: SharedClusterOptions,
  use: (folder: string, control: ControlFile) => Promise<T>,
): Promise<T> {
  const bundle = await sharedCluster(options)
  await mkdir(options.scratchFolder, { recursive: true })
  const folder = await mkdtemp(join(options.scratchFolder, 'cluster-'))
  try {
    for (const { path, content } of unpack(bundle)) {
      const file = join(folder, path)
      await mkdir(dirname(file), { recursive: true })
      await writeFile(file, content)
    }
    return await use(folder, parseControlFile(await readFile(join(folder, CONTROL_FILE))))
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function sharedCluster(options: SharedClusterOptions): Promise<Buffer> {
  const { store, tenantId, timelineId, shard } = options
  const first = tenantShardId(wholeTenant(tenantId), 0, shard.count)
  const name = `${timelinesFolder(first)}/${timelineId}/initdb`
  const existing = await getIfThere(store, name)
  if (existing !== null) return existing
  if (shard.number !== 0) {
    throw new ZenithError('precondition_failed', `shard 0 has not made timeline ${timelineId} yet`)
  }
  const bundle = await pack(await options.template())
  try {
    await store.put(name, bundle)
    return bundle
  } catch (error) {
    // Somebody else was faster; all must begin with one and the same.
    if (!(error instanceof ZenithError) || error.code !== 'already_exists') throw error
    return store.get(name)
  }
}

async function getIfThere(store: ObjectStore, name: string): Promise<Buffer | null> {
  try {
    return await store.get(name)
  } catch (error) {
    if (error instanceof ZenithError && error.code === 'not_found') return null
    throw error
  }
}

/** The template, with an identity of its own. */
async function pack(template: InitdbTemplate): Promise<Buffer> {
  const entries = await readdir(template.folder, { recursive: true, withFileTypes: true })
  const parts: Buffer[] = []
  for (const entry of entries.filter((one) => one.isFile())) {
    const file = join(entry.parentPath, entry.name)
    const path = Buffer.from(relative(template.folder, file))
    const content =
      path.toString() === CONTROL_FILE
        ? serializeControlFile(await freshControlFile(template))
        : await readFile(file)
    const header = Buffer.alloc(ENTRY_HEADER_BYTES)
    header.writeUInt16LE(path.length, 0)
    header.writeUInt32LE(content.length, 2)
    parts.push(header, path, content)
  }
  const body = zstdCompressSync(Buffer.concat(parts))
  const crc = crc32(body).toString(16).padStart(8, '0')
  return Buffer.concat([Buffer.from(`zenith-initdb 1 ${crc}\n`), body])
}

/** Throws `corrupt` for anything that `pack` cannot have made. */
function* unpack(bundle: Buffer): Generator<{ path: string; content: Buffer }> {
  const lineEnd = bundle.indexOf('\n')
  const crc = HEADER.exec(bundle.toString('latin1', 0, Math.max(lineEnd, 0)))?.[1]
  const body = bundle.subarray(lineEnd + 1)
  if (crc === undefined || Number.parseInt(crc, 16) !== crc32(body)) throw damaged()
  const bytes = zstdDecompressSync(body, { maxOutputLength: MAX_BYTES })
  for (let at = 0; at < bytes.length; ) {
    if (at + ENTRY_HEADER_BYTES > bytes.length) throw damaged()
    const pathEnd = at + ENTRY_HEADER_BYTES + bytes.readUInt16LE(at)
    const end = pathEnd + bytes.readUInt32LE(at + 2)
    const path = bytes.toString('utf8', at + ENTRY_HEADER_BYTES, pathEnd)
    if (end > bytes.length || !PATH.test(path)) throw damaged()
    yield { path, content: bytes.subarray(pathEnd, end) }
    at = end
  }
}

function damaged(): ZenithError {
  return new ZenithError('corrupt', 'the cluster that the shards begin with is damaged')
}
