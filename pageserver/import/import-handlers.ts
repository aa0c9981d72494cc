/** The pageserver's routes of imports (`importJobRoutes`). */
import type { importJobRoutes } from '#libs/api/transfer.ts'
import type { RouteHandlers } from '#libs/http/serve-routes.ts'
import { parseTenantId, parseTimelineId } from '#libs/ids.ts'
import { formatLsn } from '#libs/lsn.ts'
import type { TimelineService } from '../timeline-service.ts'
import type { ImportJobs } from './import-jobs.ts'
import { dropSlot } from './primary-backup.ts'

/** Each can be repeated; `not_found` for an import that this process does not know. */
export function importHandlers(
  jobs: ImportJobs,
  service: TimelineService,
): RouteHandlers<typeof importJobRoutes> {
  const idsOf = (params: { tenantId: string; timelineId: string }) => ({
    tenantId: parseTenantId(params.tenantId),
    timelineId: parseTimelineId(params.timelineId),
  })
  return {
    startImportJob: async ({ params, body }) => jobs.start(idsOf(params), body.source, body.slot),
    getImportJob: async ({ params }) => jobs.get(idsOf(params)),
    abortImportJob: async ({ params }) => {
      await jobs.abort(idsOf(params))
      return {}
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
