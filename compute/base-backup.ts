/** Fetches a base backup from the pageserver into a fresh data folder. */
import type { ComputeSpec } from '#libs/api/control.ts'
import { ZenithError } from '#libs/errors.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import { connectPgWire } from '#libs/pgwire/client.ts'
import { removeUnprivilegedDir, runAs, unprivilegedDir } from '#libs/system-user.ts'
import { TarExtractor } from './tar-extract.ts'

export interface BaseBackup {
  /** Real path of the data folder; it may lie elsewhere than asked when run as root. */
  readonly dataFolder: string
  readonly fileCount: number
  readonly byteCount: number
}

/**
 * Deletes whatever is in the data folder and fills it with the branch's state at `lsn`. Throws what
 * the pageserver answered, `unavailable` when it cannot be reached, `corrupt` for a broken stream.
 */
export async function fetchBaseBackup(options: {
  spec: ComputeSpec
  lsn: Lsn
  dataFolder: string
}): Promise<BaseBackup> {
  const { spec, lsn } = options
  removeUnprivilegedDir(options.dataFolder)
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
    const command = `basebackup ${spec.tenantId} ${spec.timelineId} ${formatLsn(lsn)}`
    for await (const chunk of client.copyOut(command)) extractor.write(chunk)
    extractor.end()
  } finally {
    client.destroy()
  }
  const { fileCount, byteCount } = extractor
  return { dataFolder, fileCount, byteCount }
}
