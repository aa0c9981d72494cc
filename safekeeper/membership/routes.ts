/** Routes by which the control plane changes who keeps a timeline, and by which copies are made. */
import { type MemberState, type PullRequest, safekeeperRoutes } from '#libs/api/safekeeper.ts'
import type { HttpServer } from '#libs/http/server.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { lastLogTerm } from '#libs/protocol/term-history.ts'
import { encodeControlState } from '../control-state.ts'
import { answer } from '../route-schema.ts'
import type { Timeline } from '../timeline.ts'
import type { Timelines } from '../timelines.ts'
import type { PullOrder } from './pull.ts'

interface Params {
  tenantId: string
  timelineId: string
}

export function addMembershipRoutes(app: HttpServer, timelines: Timelines): void {
  const { configure, memberState, bumpTerm, pull, control, listTombstones } = safekeeperRoutes
  const find = ({ tenantId, timelineId }: Params) =>
    timelines.get(parseTenantId(tenantId), parseTimelineId(timelineId))

  app.put(
    configure.path,
    { schema: { ...answer(configure), params: configure.params, body: configure.body } },
    async ({ params, body }) => {
      const timeline = find(params)
      await timeline.configure(body)
      return stateOf(timeline)
    },
  )
  app.get(
    memberState.path,
    { schema: { ...answer(memberState), params: memberState.params } },
    async ({ params }) => stateOf(find(params)),
  )
  app.post(
    bumpTerm.path,
    { schema: { ...answer(bumpTerm), params: bumpTerm.params, body: bumpTerm.body } },
    async ({ params, body }) => {
      const timeline = find(params)
      await timeline.bumpTerm(body.term)
      return stateOf(timeline)
    },
  )
  app.post(
    pull.path,
    { schema: { ...answer(pull), params: pull.params, body: pull.body } },
    async ({ params, body }) => {
      const progress = await timelines.pull(orderOf(params, body))
      const { finished, copiedBytes, totalBytes } = progress
      return { done: finished ? stateOf(find(params)) : null, copiedBytes, totalBytes }
    },
  )
  app.get(
    control.path,
    { schema: { ...answer(control), params: control.params } },
    async ({ params }) => {
      const timeline = find(params)
      // Its tail may be in object storage only; whoever copies it reads it next.
      const leave = await timeline.occupy()
      try {
        return {
          control: encodeControlState(timeline.control).toString('base64'),
          flushLsn: formatLsn(timeline.flushLsn),
          lastLogTerm: timeline.lastLogTerm,
        }
      } finally {
        leave()
      }
    },
  )
  app.get(listTombstones.path, { schema: answer(listTombstones) }, () =>
    timelines.tombstones.list(),
  )
}

/** What is durable, and nothing that a crash would take back: the answer lets others be removed. */
function stateOf({ stored, flushLsn }: Timeline): MemberState {
  return {
    generation: stored.configuration.generation,
    term: stored.term,
    lastLogTerm: lastLogTerm(stored.history, flushLsn),
    flushLsn: formatLsn(flushLsn),
  }
}

function orderOf(params: Params, { donors, configuration, minimum }: PullRequest): PullOrder {
  return {
    target: {
      tenantId: parseTenantId(params.tenantId),
      timelineId: parseTimelineId(params.timelineId),
    },
    donors,
    configuration,
    minimum: minimum === null ? null : { ...minimum, flushLsn: parseLsn(minimum.flushLsn) },
  }
}
