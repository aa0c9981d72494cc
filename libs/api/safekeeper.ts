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
import { NodeInfo } from './node-info.ts'
import { IdText, LsnText, None, TIMELINE_PATH, TimelineParams } from './schemas.ts'

export const SafekeeperStatus = Type.Object({
  id: Type.Integer(),
  name: Type.String(),
  timelines: Type.Integer(),
  disk: Type.Object({
    freeBytes: Type.Union([Type.Integer(), Type.Null()]),
    /** What the segments of all timelines take. */
    walBytes: Type.Integer(),
    /** Why appends that need another segment are refused; null when they are not. */
    refusal: Type.Union([Type.String(), Type.Null()]),
  }),
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
  /** Everything below is in object storage. */
  backupLsn: LsnText,
  /** Where the WAL on this safekeeper's disk begins; older WAL is read from object storage. */
  localStartLsn: LsnText,
  /** An idle timeline: none of its WAL is on this disk, all of it in object storage. */
  evicted: Type.Boolean(),
  /** Why no more WAL goes to object storage; null while all is well. */
  offloadProblem: Type.Union([Type.String(), Type.Null()]),
  /** Durable in the page server's object storage. */
  remoteConsistentLsn: LsnText,
  generation: Type.Integer(),
  members: Type.Array(NodeInfo),
  /** Members that take over; null unless a change is under way. */
  newMembers: Type.Union([Type.Array(NodeInfo), Type.Null()]),
  pgVersion: Type.Integer(),
  systemId: Type.String(),
  /** A proposer is connected and streaming. */
  computeConnected: Type.Boolean(),
  /** WAL streams being served from here. */
  walReceivers: Type.Integer(),
  /** What the segments of this timeline take on disk. */
  walBytes: Type.Integer(),
  /** Why an append that needs another segment is refused; null when it is not. */
  refusal: Type.Union([Type.String(), Type.Null()]),
})
export type SafekeeperTimeline = Static<typeof SafekeeperTimeline>

const Generation = Type.Integer({ minimum: 0, maximum: 4294967295 })
const Term = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })

/** Who keeps a timeline. With `newMembers` both sets must agree: a change is under way. */
export const MembersBody = Type.Object({
  generation: Generation,
  members: Type.Array(NodeInfo, { minItems: 1, maxItems: 64 }),
  newMembers: Type.Union([Type.Array(NodeInfo, { minItems: 1, maxItems: 64 }), Type.Null()]),
})
export type MembersBody = Static<typeof MembersBody>

/** What a safekeeper durably is when it answers; positions compare by last log term, then flush. */
export const MemberState = Type.Object({
  generation: Generation,
  term: Term,
  lastLogTerm: Term,
  flushLsn: LsnText,
})
export type MemberState = Static<typeof MemberState>

export const PullRequest = Type.Object({
  /** Whom to copy from: the first that can be. */
  donors: Type.Array(NodeInfo, { minItems: 1, maxItems: 64 }),
  /** What the copy is made for; it must name this safekeeper. */
  configuration: MembersBody,
  /** Copy only a log that reaches this; the copy takes at least this term. */
  minimum: Type.Union([
    Type.Object({ term: Term, lastLogTerm: Term, flushLsn: LsnText }),
    Type.Null(),
  ]),
})
export type PullRequest = Static<typeof PullRequest>

export const PullAnswer = Type.Object({
  /** There when the timeline is whole here. */
  done: Type.Union([MemberState, Type.Null()]),
  copiedBytes: Type.Integer(),
  totalBytes: Type.Integer(),
})
export type PullAnswer = Static<typeof PullAnswer>

export const Tombstone = Type.Object({
  tenantId: IdText,
  timelineId: IdText,
  /** The timeline cannot come back under this generation or a lower one. */
  generation: Generation,
})
export type Tombstone = Static<typeof Tombstone>

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
    summary:
      'Delete a timeline of a generation (or a lower one) for good; one that is not there is fine',
    params: TimelineParams,
    querystring: Type.Object({
      generation: Type.Optional(Type.String({ pattern: '^[0-9]{1,10}$' })),
      objects: Type.Optional(
        Type.Union([Type.Literal('true'), Type.Literal('false')], {
          description: 'true: with what all its members have in object storage; default false',
        }),
      ),
    }),
    response: Type.Object({ deleted: Type.Boolean() }),
  },
  configure: {
    method: 'PUT',
    path: `${TIMELINE_PATH}/configuration`,
    summary: 'Follow the members of a generation, if it is higher; answers when that is durable',
    params: TimelineParams,
    body: MembersBody,
    response: MemberState,
  },
  memberState: {
    method: 'GET',
    path: `${TIMELINE_PATH}/configuration`,
    summary: 'Generation, term and end of the log, as they would be after a crash',
    params: TimelineParams,
    response: MemberState,
  },
  bumpTerm: {
    method: 'POST',
    path: `${TIMELINE_PATH}/term`,
    summary: 'Follow no leader below a term; answers when that is durable',
    params: TimelineParams,
    body: Type.Object({ term: Term }),
    response: MemberState,
  },
  pull: {
    method: 'POST',
    path: `${TIMELINE_PATH}/pull`,
    summary: 'Copy a timeline from another safekeeper; ask again until it is done',
    params: TimelineParams,
    body: PullRequest,
    response: PullAnswer,
  },
  control: {
    method: 'GET',
    path: `${TIMELINE_PATH}/control`,
    summary: 'The durable state of a timeline, for whoever copies it',
    params: TimelineParams,
    response: Type.Object({
      /** The control file with the positions of now, base64. */
      control: Type.String(),
      flushLsn: LsnText,
      lastLogTerm: Term,
    }),
  },
  listTombstones: {
    method: 'GET',
    path: '/v1/tombstone',
    summary: 'Timelines that were deleted here, each with the generation it cannot come back under',
    params: None,
    response: Type.Array(Tombstone),
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
