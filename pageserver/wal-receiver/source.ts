/** Where WAL comes from: a safekeeper, or a stock Postgres that is being imported. */
import type { PostgresSource, WalSource } from '#libs/api/node-info.ts'
import { callSafekeeper } from '#libs/api/safekeeper.ts'
import { ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { parseLsn } from '#libs/lsn.ts'
import { connectPgWire, type PgClient } from '#libs/pgwire/client.ts'
import { connectSafekeeper } from '#libs/pgwire/safekeeper-connection.ts'
import type { Candidate } from './choice.ts'

const STATUS_TIMEOUT_MS = 2000
const CONNECT_TIMEOUT_MS = 5000

export interface SourceTarget {
  tenantId: TenantId
  timelineId: TimelineId
}

export function isPostgres(source: WalSource): source is PostgresSource {
  return 'kind' in source
}

/** For messages. */
export function describeSource(source: WalSource): string {
  return isPostgres(source)
    ? `Postgres at ${source.host}:${source.pgPort}`
    : `safekeeper ${source.id}`
}

/** Opens a replication connection. Throws `unavailable`. */
export function connectToSource(target: SourceTarget, source: WalSource): Promise<PgClient> {
  const { host, pgPort } = source
  const common = { applicationName: 'pageserver', connectTimeoutMs: CONNECT_TIMEOUT_MS }
  if (!isPostgres(source)) return connectSafekeeper({ ...common, host, pgPort, target })
  return connectStock(source, common)
}

/** A replication connection to a stock server, with the password and TLS that it wants. */
export function connectStock(
  source: Omit<PostgresSource, 'kind' | 'id'>,
  how: { applicationName: string; connectTimeoutMs: number },
): Promise<PgClient> {
  const { host, pgPort, user, password, sslMode, sslRootCert } = source
  return connectPgWire({
    ...how,
    host,
    port: pgPort,
    replication: true,
    ...(user === undefined ? {} : { user }),
    password: password ?? null,
    stockTls: { mode: sslMode ?? 'disable', ca: sslRootCert ?? null },
  })
}

/** Asks how far the source is. Throws when it does not answer in time. */
export async function askSource(target: SourceTarget, source: WalSource): Promise<Candidate> {
  if (isPostgres(source)) return await askPostgres(target, source)
  const { tenantId, timelineId } = target
  const status = await callSafekeeper(`http://${source.host}:${source.httpPort}`, 'getTimeline', {
    params: { tenantId, timelineId },
    timeoutMs: STATUS_TIMEOUT_MS,
  })
  return {
    id: source.id,
    commitLsn: parseLsn(status.commitLsn),
    computeConnected: status.computeConnected,
    remoteConsistentLsn: parseLsn(status.remoteConsistentLsn),
  }
}

/** A stock server may write WAL at any time, so that the connection to it is kept. */
async function askPostgres(target: SourceTarget, source: PostgresSource): Promise<Candidate> {
  const client = await connectToSource(target, source)
  try {
    const { columns, rows } = await client.query('IDENTIFY_SYSTEM')
    const position = rows[0]?.[columns.indexOf('xlogpos')]
    if (!position) throw new ZenithError('unavailable', 'it does not say how far its WAL is')
    return {
      id: source.id,
      commitLsn: parseLsn(position),
      computeConnected: true,
      remoteConsistentLsn: 0,
    }
  } finally {
    client.destroy()
  }
}
