/**
 * The safekeeper's HTTP API: one table of routes with their schemas, used by the server to register
 * them, by the OpenAPI page, and by clients through `callSafekeeper`. Creates are idempotent; the
 * same id with other contents is a 409. LSNs are strings, the system identifier a decimal string.
 */
import { type Credentials, ownCredentials } from '#libs/auth/credentials.ts'
import { callRoute, type RouteCallOptions, routes } from '#libs/http/route.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import type { SessionTarget } from '#libs/pgwire/session-target.ts'
import { type Static, Type } from 'typebox'
import { IdText, LsnText, NodeInfo } from './control.ts'

const None = Type.Object({})
const TimelineParams = Type.Object({ tenantId: IdText, timelineId: IdText })

export const SafekeeperStatus = Type.Object({
  id: Type.Integer(),
  name: Type.String(),
  timelines: Type.Integer(),
})
export type SafekeeperStatus = Static<typeof SafekeeperStatus>

export const CreateSafekeeperTimeline = Type.Object({
  /** Where this timeline's WAL begins: a record boundary, never 0/0. */
  startLsn: LsnText,
  /** As server_version_num; default 170011. */
  pgVersion: Type.Optional(Type.Integer({ minimum: 170000 })),
  systemId: Type.String({ pattern: '^[0-9]{1,20}$', description: 'decimal' }),
  walSegSize: Type.Optional(Type.Literal(16777216)),
  /** Generation of the member list. */
  generation: Type.Integer({ minimum: 0, maximum: 4294967295 }),
  members: Type.Array(NodeInfo, { minItems: 1, maxItems: 64 }),
})
export type CreateSafekeeperTimeline = Static<typeof CreateSafekeeperTimeline>

export const SafekeeperTimeline = Type.Object({
  tenantId: IdText,
  timelineId: IdText,
  /** Highest term voted for or accepted. */
  term: Type.Integer(),
  /** Term of the leader that wrote the end of the log. */
  lastLogTerm: Type.Integer(),
  termHistory: Type.Array(Type.Object({ term: Type.Integer(), startLsn: LsnText })),
  startLsn: LsnText,
  /** End of the last whole record that is durable here. */
  flushLsn: LsnText,
  /** End of the WAL known to be durable on a quorum, as far as it is here. */
  commitLsn: LsnText,
  backupLsn: LsnText,
  /** Durable in the page server's object storage. */
  remoteConsistentLsn: LsnText,
  generation: Type.Integer(),
  members: Type.Array(NodeInfo),
  pgVersion: Type.Integer(),
  systemId: Type.String(),
  /** A proposer is connected and streaming. */
  computeConnected: Type.Boolean(),
  /** WAL streams being served from here. */
  walReceivers: Type.Integer(),
})
export type SafekeeperTimeline = Static<typeof SafekeeperTimeline>

const TIMELINE_PATH = '/v1/tenant/:tenantId/timeline/:timelineId'

export const safekeeperRoutes = routes({
  status: {
    method: 'GET',
    path: '/v1/status',
    summary: 'Which safekeeper this is',
    params: None,
    response: SafekeeperStatus,
  },
  listTimelines: {
    method: 'GET',
    path: '/v1/timeline',
    summary: 'Timelines kept here',
    params: None,
    response: Type.Array(SafekeeperTimeline),
  },
  createTimeline: {
    method: 'PUT',
    path: TIMELINE_PATH,
    summary: 'Create a timeline that starts at an LSN; answers when it is durable',
    params: TimelineParams,
    body: CreateSafekeeperTimeline,
    response: SafekeeperTimeline,
  },
  getTimeline: {
    method: 'GET',
    path: TIMELINE_PATH,
    summary: 'Term, positions and members of a timeline',
    params: TimelineParams,
    response: SafekeeperTimeline,
  },
  deleteTimeline: {
    method: 'DELETE',
    path: TIMELINE_PATH,
    summary: 'Delete a timeline with its WAL; deleting one that is not there is fine',
    params: TimelineParams,
    response: Type.Object({ deleted: Type.Boolean() }),
  },
  digest: {
    method: 'GET',
    path: `${TIMELINE_PATH}/digest`,
    summary: 'SHA-256 of the WAL bytes in [from, to), to compare safekeepers',
    params: TimelineParams,
    querystring: Type.Object({ from: LsnText, to: LsnText }),
    response: Type.Object({ sha256: Type.String() }),
  },
})

export type SafekeeperRoutes = typeof safekeeperRoutes
export type SafekeeperRouteName = keyof SafekeeperRoutes

export interface SafekeeperCallOptions<N extends SafekeeperRouteName>
  extends RouteCallOptions<SafekeeperRoutes[N]> {
  /** Default: those of this process. */
  credentials?: Credentials
}

/**
 * Calls one route; a problem answer becomes the ZenithError it stands for. `baseUrl` begins with
 * `http:` whatever the safekeepers speak: credentials with TLS make it `https:`.
 */
export async function callSafekeeper<N extends SafekeeperRouteName>(
  baseUrl: string,
  name: N,
  options: SafekeeperCallOptions<N> = {},
): Promise<Static<SafekeeperRoutes[N]['response']>> {
  const { credentials = ownCredentials(), ...rest } = options
  const tls = credentials.tls()
  const token = await credentials.token({ for: 'http', target: targetOf(options.params) })
  const url = tls === null ? baseUrl : baseUrl.replace(/^http:/, 'https:')
  return callRoute<SafekeeperRoutes[N]>(safekeeperRoutes[name], url, { ...rest, token, tls })
}

function targetOf(params: unknown): SessionTarget | null {
  const { tenantId, timelineId } = (params ?? {}) as { tenantId?: string; timelineId?: string }
  if (tenantId === undefined || timelineId === undefined) return null
  return { tenantId: parseTenantId(tenantId), timelineId: parseTimelineId(timelineId) }
}
