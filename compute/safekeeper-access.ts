/**
 * How this compute shows safekeepers who it is: a token for its one timeline, that came with the
 * spec and is exchanged for another at the control plane before it ends.
 */
import { chmodSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ComputeSpec } from '#libs/api/compute-spec.ts'
import type { Credentials } from '#libs/auth/credentials.ts'
import { RenewingToken } from '#libs/auth/renewing-token.ts'
import { errorMessage } from '#libs/errors.ts'
import type { Logger } from '#libs/log.ts'
import { giveTo } from '#libs/system-user.ts'

const RENEW_TIMEOUT_MS = 5_000
const PASSFILE_CHECK_MS = 20_000
/** In the data folder, for the WAL receiver of a replica. */
const PASSFILE = 'safekeeper.pass'
const CA_FILE = 'safekeeper-ca.pem'

type AccessSpec = Pick<
  ComputeSpec,
  'tenantId' | 'endpoint' | 'attempt' | 'controlPlaneUrl' | 'safekeeperAccess'
>

export function computeCredentials(spec: AccessSpec, log: Logger): Credentials {
  const { token, expiresInMs, ca } = spec.safekeeperAccess ?? {}
  const tls = () => (ca === undefined ? null : { ca })
  if (token === undefined || expiresInMs === undefined) {
    return { token: () => Promise.resolve(null), tls }
  }
  const renewing = new RenewingToken({
    initial: { token, expiresInMs },
    fetch: async (current) => {
      const { callControl } = await import('#libs/api/control-client.ts')
      return callControl(spec.controlPlaneUrl, 'renewToken', {
        params: { tenantId: spec.tenantId, name: spec.endpoint },
        body: { attempt: spec.attempt, token: current ?? token },
        timeoutMs: RENEW_TIMEOUT_MS,
      })
    },
    log,
  })
  return { token: () => renewing.get(), tls }
}

/**
 * What libpq needs in a connection string besides addresses; empty without credentials. The token
 * lies in a file, which libpq reads each time that it connects.
 */
export function accessConninfo(spec: AccessSpec, dataFolder: string): string[] {
  const { token, ca } = spec.safekeeperAccess ?? {}
  const quoted = (name: string) => `'${join(dataFolder, name).replace(/['\\]/g, '\\$&')}'`
  return [
    ...(token === undefined ? [] : [`passfile=${quoted(PASSFILE)}`]),
    ...(ca === undefined
      ? ['sslmode=disable']
      : [
          'sslmode=verify-full',
          `sslrootcert=${quoted(CA_FILE)}`,
          'ssl_min_protocol_version=TLSv1.3',
        ]),
  ]
}

/** Keeps the files of `accessConninfo` up to date until the returned function is called. */
export async function keepAccessFiles(
  spec: AccessSpec,
  credentials: Credentials,
  dataFolder: string,
  log: Logger,
): Promise<() => void> {
  const ca = credentials.tls()?.ca
  if (ca !== undefined) replacePrivateFile(join(dataFolder, CA_FILE), ca)
  if (spec.safekeeperAccess?.token === undefined) return () => {}
  let written = ''
  const update = async () => {
    const token = await credentials.token({ for: 'wal', target: null })
    if (token === null || token === written) return
    replacePrivateFile(join(dataFolder, PASSFILE), `*:*:*:*:${token}\n`)
    written = token
  }
  await update()
  const timer = setInterval(() => {
    update().catch((error: unknown) =>
      log.warn({ reason: errorMessage(error) }, 'the token of the WAL receiver is old'),
    )
  }, PASSFILE_CHECK_MS)
  return () => clearInterval(timer)
}

/** For Postgres' eyes only; a crash leaves the old file or the new one. */
export function replacePrivateFile(file: string, text: string): void {
  writeFileSync(`${file}.new`, text, { mode: 0o600 })
  chmodSync(`${file}.new`, 0o600)
  giveTo(`${file}.new`)
  renameSync(`${file}.new`, file)
}
