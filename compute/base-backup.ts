/** Fetches a base backup from the pageserver into a fresh data folder. */
import { existsSync, realpathSync, renameSync, rmSync } from 'node:fs'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { connectPgWire } from '#libs/pgwire/client.ts'
import { tenantShardId } from '#libs/sharding.ts'
import { runAs, unprivilegedDir } from '#libs/system-user.ts'
import { TarExtractor } from '#libs/tar-extract.ts'

const KIND_OF = { primary: 'primary', static: 'static', replica: 'standby' } as const

export interface BaseBackup {
  /** Real path of the data folder; it may lie elsewhere than asked when run as root. */
  readonly dataFolder: string
  /** Where the data folder of the last start is now; to be deleted when there is time. */
  readonly oldData: string | null
  readonly fileCount: number
  readonly byteCount: number
}

/**
 * Moves aside whatever is in the data folder and fills it anew with the branch's state at `lsn`. Throws what
 * the pageserver answered, `unavailable` when it cannot be reached, `corrupt` for a broken stream.
 */
export async function fetchBaseBackup(options: {
  spec: ComputeSpec
  /** Null when the pageserver shall choose, as for a replica. */
  lsn: Lsn | null
  dataFolder: string
}): Promise<BaseBackup> {
  const { spec } = options
  // Asked for first: in a copied installation the folder may still be that of the original.
  const oldData = setAside(unprivilegedDir(options.dataFolder))
  const dataFolder = unprivilegedDir(options.dataFolder)
  const extractor = new TarExtractor(dataFolder, runAs())
  const { host, pgPort } = spec.pageserver
  const client = await connectPgWire({ host, port: pgPort, applicationName: spec.endpoint }).catch(
    (error: unknown) => {
      throw new ZenithError('unavailable', `the pageserver at ${host}:${pgPort} does not answer`, {
        cause: error,
      })
    },
  )
  try {
    const lsn = options.lsn === null ? '' : `${formatLsn(options.lsn)} `
    const how = `${lsn}sparse kind=${KIND_OF[spec.mode]}`
    const command = `basebackup ${firstShardId(spec)} ${spec.timelineId} ${how}`
    for await (const chunk of client.copyOut(command)) extractor.write(chunk)
    extractor.end()
  } finally {
    client.destroy()
  }
  const { fileCount, byteCount } = extractor
  return { dataFolder, oldData, fileCount, byteCount }
}

/** The name that the pageserver knows the tenant by which has more than blocks of relations. */
export function firstShardId({ tenantId, shards }: ComputeSpec): string {
  return tenantShardId(tenantId, 0, shards?.pageservers.length ?? 0)
}

/** A folder full of WAL takes long to delete, a rename does not. */
function setAside(folder: string): string | null {
  if (!existsSync(folder)) return null
  const real = realpathSync(folder)
  const aside = `${real}.old`
  rmSync(aside, { recursive: true, force: true })
  renameSync(real, aside)
  return aside
}
