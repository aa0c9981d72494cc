/** How every process connects to the WAL port of a safekeeper. */
import { type Credentials, ownCredentials } from '../auth/credentials.ts'
import { connectPgWire, type PgClient } from './client.ts'
import { type SessionTarget, targetOptions } from './session-target.ts'

export interface SafekeeperConnection {
  host: string
  pgPort: number
  target: SessionTarget
  applicationName: string
  connectTimeoutMs?: number
  /** Default: those of this process. */
  credentials?: Credentials
}

/** Throws `unavailable`, or `unauthenticated` when the safekeeper does not take our token. */
export async function connectSafekeeper(options: SafekeeperConnection): Promise<PgClient> {
  const { host, pgPort, target, applicationName, connectTimeoutMs } = options
  const credentials = options.credentials ?? ownCredentials()
  return connectPgWire({
    host,
    port: pgPort,
    options: targetOptions(target),
    applicationName,
    replication: true,
    ...(connectTimeoutMs === undefined ? {} : { connectTimeoutMs }),
    token: await credentials.token({ for: 'wal', target }),
    tls: credentials.tls(),
  })
}
