/**
 * A base backup of a running stock primary through the replication protocol, and the physical slot
 * by which the primary keeps the WAL that comes after it.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { StockServer } from '#libs/api/transfer.ts'
import { errorMessage, ZenithError } from '#libs/errors.ts'
import type { PgClient } from '#libs/pgwire/client.ts'
import { TarExtractor } from '#libs/tar-extract.ts'
import { connectStock } from '../wal-receiver/source.ts'
import { PG_MAJOR_VERSION } from '../basebackup/data-folder.ts'
import type { ImportProgress } from './import-progress.ts'

const CONNECT_TIMEOUT_MS = 15_000
/** Kinds of messages within BASE_BACKUP's answer (manual, 53.4). */
const NEW_ARCHIVE = 0x6e
const MANIFEST = 0x6d
const DATA = 0x64
const PROGRESS = 0x70
const BASE_ARCHIVE = 'base.tar'

/** How errors and the list of imports name it. */
function describeServer({ host, pgPort }: StockServer): string {
  return `Postgres at ${host}:${pgPort}`
}

function connect(server: StockServer): Promise<PgClient> {
  return connectStock(server, {
    applicationName: 'zenith import',
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  })
}

/**
 * Copies the primary into `folder`, with the manifest in it. The slot is made first, so that no WAL
 * after the backup's start can be lost; one of that name which is there already is used.
 */
export async function fetchPrimary(
  server: StockServer,
  slot: string,
  folder: string,
  progress: ImportProgress,
  signal: AbortSignal,
): Promise<void> {
  const client = await connect(server)
  const stop = () => client.fail(new ZenithError('unavailable', 'the import was given up'))
  signal.addEventListener('abort', stop)
  try {
    await checkServer(client, server)
    await makeSlot(client, slot)
    await receiveBackup(client, folder, progress)
  } catch (error) {
    signal.throwIfAborted()
    if (!(error instanceof ZenithError)) throw error
    throw new ZenithError(error.code, `${describeServer(server)}: ${error.message}`, {
      ...(error.hint === undefined ? {} : { hint: error.hint }),
      cause: error,
    })
  } finally {
    signal.removeEventListener('abort', stop)
    client.destroy()
  }
}

/** Idempotent: a slot that is not there is no error. Throws when the server does not answer. */
export async function dropSlot(server: StockServer, slot: string): Promise<void> {
  const client = await connect(server)
  try {
    await client.query(`DROP_REPLICATION_SLOT ${slot} WAIT`)
  } catch (error) {
    if (!/does not exist/.test(errorMessage(error))) throw error
  } finally {
    client.destroy()
  }
}

async function checkServer(client: PgClient, server: StockServer): Promise<void> {
  const show = async (name: string) => (await client.query(`SHOW ${name}`)).rows[0]?.[0] ?? ''
  const version = Number(await show('server_version_num'))
  const major = Math.floor(version / 10_000)
  if (String(major) !== PG_MAJOR_VERSION) {
    throw new ZenithError(
      'unsupported',
      `the server is Postgres ${major}, not ${PG_MAJOR_VERSION}`,
      {
        hint: 'Upgrade it with pg_upgrade first, or dump and restore its databases.',
      },
    )
  }
  const segmentSize = await show('wal_segment_size')
  if (segmentSize !== '16MB') {
    throw new ZenithError('unsupported', `the server has WAL segments of ${segmentSize}`, {
      hint: 'Only 16 MB, the default, can be imported; dump and restore its databases.',
    })
  }
  const { columns, rows } = await client.query('IDENTIFY_SYSTEM')
  const walTimeline = rows[0]?.[columns.indexOf('timeline')]
  if (walTimeline !== '1') {
    throw new ZenithError('unsupported', `the server writes WAL timeline ${walTimeline}, not 1`, {
      hint: `${describeServer(server)} was promoted at some time; dump and restore its databases.`,
    })
  }
}

async function makeSlot(client: PgClient, slot: string): Promise<void> {
  try {
    await client.query(`CREATE_REPLICATION_SLOT ${slot} PHYSICAL (RESERVE_WAL true)`)
  } catch (error) {
    if (!/already exists/.test(errorMessage(error))) throw error
  }
}

/** The server's archive of everything, then its manifest. */
async function receiveBackup(
  client: PgClient,
  folder: string,
  progress: ImportProgress,
): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const extractor = new TarExtractor(folder, null)
  const manifest: Buffer[] = []
  let target: 'none' | 'base' | 'manifest' = 'none'
  const step = progress.begin('fetching', null)
  const command =
    "BASE_BACKUP (LABEL 'zenith import', PROGRESS, CHECKPOINT 'fast', WAL false, " +
    "MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', TABLESPACE_MAP true)"
  for await (const payload of client.copyOut(command)) {
    const kind = payload[0] ?? 0
    switch (kind) {
      case NEW_ARCHIVE: {
        const name = payload.toString('utf8', 1, payload.indexOf(0, 1))
        if (name !== BASE_ARCHIVE) {
          throw new ZenithError('unsupported', 'the cluster has tablespaces', {
            hint: 'Move everything to pg_default (ALTER ... SET TABLESPACE) and drop them.',
          })
        }
        target = 'base'
        break
      }
      case MANIFEST:
        target = 'manifest'
        break
      case DATA: {
        const bytes = payload.subarray(1)
        step.add(bytes.length)
        if (target === 'base') extractor.write(bytes)
        else if (target === 'manifest') manifest.push(bytes)
        break
      }
      case PROGRESS:
        break
      default:
        throw new ZenithError('unsupported', 'the server sends a base backup in an unknown form')
    }
  }
  extractor.end()
  if (manifest.length === 0) throw new ZenithError('corrupt', 'the base backup has no manifest')
  await writeFile(join(folder, 'backup_manifest'), Buffer.concat(manifest))
}
