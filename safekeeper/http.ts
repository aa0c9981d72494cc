/** The safekeeper's HTTP side: decode, call, encode. Routes are in `#libs/api/safekeeper.ts`. */
import { createHash } from 'node:crypto'
import {
  type CreateSafekeeperTimeline,
  type SafekeeperTimeline,
  safekeeperRoutes,
} from '#libs/api/safekeeper.ts'
import { ZenithError } from '#libs/errors.ts'
import { guardRoutes } from '#libs/http/guard.ts'
import { createHttp, type HttpServer } from '#libs/http/server.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import type { Logger } from '#libs/log.ts'
import { type Access, routeGuard } from './access.ts'
import { type ControlState, newControlState } from './control-state.ts'
import { addMembershipRoutes } from './membership/routes.ts'
import type { SafekeeperMetrics } from './metrics.ts'
import { readWal } from './offload/segment-reader.ts'
import { segmentEnd } from './store/segment-plan.ts'
import type { Timeline } from './timeline.ts'
import { answer } from './route-schema.ts'
import type { Timelines } from './timelines.ts'

const DEFAULT_PG_VERSION = 170011
const MAX_READ_BYTES = 1024 * 1024

export interface SafekeeperHttpOptions {
  id: number
  name: string
  log: Logger
  metrics: SafekeeperMetrics
  timelines: Timelines
  access: Access
}

export async function createSafekeeperHttp(options: SafekeeperHttpOptions): Promise<HttpServer> {
  const { timelines, log, metrics } = options
  const { tls, verifier } = options.access
  const app = await createHttp({ service: 'safekeeper', log, metrics: metrics.registry, tls })
  if (verifier !== null) guardRoutes(app, { log, ...routeGuard(verifier) })
  const find = (params: { tenantId: string; timelineId: string }) =>
    timelines.get(parseTenantId(params.tenantId), parseTimelineId(params.timelineId))

  const { status, listTimelines, createTimeline, getTimeline, deleteTimeline, digest } =
    safekeeperRoutes
  app.get(status.path, { schema: answer(status) }, () => ({
    id: options.id,
    name: options.name,
    timelines: timelines.list().length,
    disk: timelines.disk,
  }))
  app.get(listTimelines.path, { schema: answer(listTimelines) }, () =>
    timelines.list().map(describe),
  )
  app.put(
    createTimeline.path,
    {
      schema: {
        ...answer(createTimeline),
        params: createTimeline.params,
        body: createTimeline.body,
      },
    },
    async (request) => describe(await timelines.create(initialState(request.params, request.body))),
  )
  app.get(
    getTimeline.path,
    { schema: { ...answer(getTimeline), params: getTimeline.params } },
    (request) => describe(find(request.params)),
  )
  app.delete(
    deleteTimeline.path,
    {
      schema: {
        ...answer(deleteTimeline),
        params: deleteTimeline.params,
        querystring: deleteTimeline.querystring,
      },
    },
    async ({ params, query }) => ({
      deleted: await timelines.delete(
        parseTenantId(params.tenantId),
        parseTimelineId(params.timelineId),
        query.generation === undefined ? null : Number(query.generation),
        query.objects === 'true',
      ),
    }),
  )
  addMembershipRoutes(app, timelines)
  app.get(
    digest.path,
    { schema: { ...answer(digest), params: digest.params, querystring: digest.querystring } },
    async (request) => {
      const { from, to } = request.query
      return { sha256: await digestOf(find(request.params), parseLsn(from), parseLsn(to)) }
    },
  )
  return app
}

function initialState(
  params: { tenantId: string; timelineId: string },
  body: CreateSafekeeperTimeline,
): ControlState {
  const startLsn = parseLsn(body.startLsn)
  if (startLsn === 0 || startLsn % 8 !== 0) {
    throw new ZenithError('invalid_argument', `a timeline cannot start at ${body.startLsn}`, {
      hint: 'It starts at the end of a record, which is a multiple of 8 and never 0/0.',
    })
  }
  const systemId = BigInt(body.systemId)
  if (systemId === 0n || systemId >= 1n << 64n) {
    throw new ZenithError('invalid_argument', `${body.systemId} is not a system identifier`)
  }
  return newControlState({
    tenantId: parseTenantId(params.tenantId),
    timelineId: parseTimelineId(params.timelineId),
    configuration: { generation: body.generation, members: body.members, newMembers: null },
    pgVersion: body.pgVersion ?? DEFAULT_PG_VERSION,
    systemId,
    startLsn,
    createdAtMs: Date.now(),
  })
}

function describe(timeline: Timeline): SafekeeperTimeline {
  const control = timeline.control
  return {
    tenantId: control.tenantId,
    timelineId: control.timelineId,
    term: control.term,
    lastLogTerm: timeline.lastLogTerm,
    termHistory: control.history.map((entry) => ({
      term: entry.term,
      startLsn: formatLsn(entry.startLsn),
    })),
    startLsn: formatLsn(control.startLsn),
    flushLsn: formatLsn(timeline.flushLsn),
    commitLsn: formatLsn(control.commitLsn),
    backupLsn: formatLsn(control.backupLsn),
    localStartLsn: formatLsn(control.localStartLsn),
    evicted: timeline.evicted,
    offloadProblem: timeline.offloadProblem,
    remoteConsistentLsn: formatLsn(control.remoteConsistentLsn),
    generation: control.configuration.generation,
    members: control.configuration.members,
    newMembers: control.configuration.newMembers,
    pgVersion: control.pgVersion,
    systemId: String(control.systemId),
    computeConnected: timeline.computeConnected,
    walReceivers: timeline.readers,
    walBytes: timeline.diskBytes,
    refusal: timeline.segmentRefusal,
  }
}

/** Hashes WAL that is durable here. Throws `out_of_range` when the range is not. */
async function digestOf(timeline: Timeline, from: number, to: number): Promise<string> {
  if (from < timeline.control.startLsn || to > timeline.flushLsn || from > to) {
    throw new ZenithError(
      'out_of_range',
      `WAL from ${formatLsn(from)} to ${formatLsn(to)} is not all here`,
    )
  }
  const hash = createHash('sha256')
  for (let lsn = from; lsn < to; ) {
    const end = Math.min(to, segmentEnd(lsn), lsn + MAX_READ_BYTES)
    hash.update(await readWal(timeline, lsn, end))
    lsn = end
  }
  return hash.digest('hex')
}
