/** The pageserver's routes of imports (`importJobRoutes`). */
import type { importJobRoutes } from '#libs/api/transfer.ts'
import type { RouteHandlers } from '#libs/http/serve-routes.ts'
import { parseTimelineId } from '#libs/ids.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { parseTenantShardId } from '#libs/sharding.ts'
import type { TimelineService } from '../timeline-service.ts'
import { catchUp } from './catch-up.ts'
import type { ImportJobs } from './import-jobs.ts'
import { dropSlot } from './primary-backup.ts'

/** Each can be repeated; `not_found` for an import that this process does not know. */
export function importHandlers(
  jobs: ImportJobs,
  service: TimelineService,
): RouteHandlers<typeof importJobRoutes> {
  const idsOf = (params: { tenantId: string; timelineId: string }) => ({
    tenantId: parseTenantShardId(params.tenantId),
    timelineId: parseTimelineId(params.timelineId),
  })
  return {
    startImportJob: async ({ params, body: { source, slot, endLsn } }) =>
      jobs.start(idsOf(params), source, slot, endLsn === undefined ? null : parseLsn(endLsn)),
    getImportJob: async ({ params }) => jobs.get(idsOf(params)),
    abortImportJob: async ({ params, body }) => {
      const ids = idsOf(params)
      await jobs.abort(ids)
      if (body.remove === true && service.has(ids)) await service.deleteTimeline(ids)
      return {}
    },
    catchUpFollowing: async ({ params, body: { server, endLsn } }) => {
      const ids = idsOf(params)
      const timeline = service.timeline(ids)
      await service.stopReceiver(ids)
      timeline.dropUnpublished()
      if (endLsn !== undefined)
        await catchUp(timeline, { ...ids, server, endLsn: parseLsn(endLsn) })
      return { endLsn: formatLsn(timeline.lastRecordLsn) }
    },
    finishFollowing: async ({ params }) => {
      const timeline = service.timeline(idsOf(params))
      await service.stopReceiver(idsOf(params))
      await timeline.beginOwnWal()
      return { endLsn: formatLsn(timeline.lastRecordLsn) }
    },
    dropSourceSlot: async ({ body }) => {
      await dropSlot(body.server, body.slot)
      return {}
    },
  }
}
