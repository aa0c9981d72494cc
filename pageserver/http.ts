/** The HTTP side of the pageserver: every route of `#libs/api/pageserver.ts` with its handler. */
import { type PageserverRoutes, pageserverRoutes } from '#libs/api/pageserver.ts'
import { ZenithError } from '#libs/errors.ts'
import { type RouteHandlers, serveRoutes } from '#libs/http/serve-routes.ts'
import type { HttpServer } from '#libs/http/server.ts'
import { parseTimelineId } from '#libs/ids.ts'
import { formatLsn, parseLsn } from '#libs/lsn.ts'
import { parseTenantShardId } from '#libs/sharding.ts'
import { unpackStatistics } from '#libs/pg/statistics-bundle.ts'
import type { GarbageCollector } from './gc/garbage-collector.ts'
import { retentionHandlers } from './gc/routes.ts'
import type { Locations } from './locations.ts'
import { findCommitWindow } from './read/commit-window.ts'
import type { TenantManager } from './tenants/tenant-manager.ts'
import type { Timeline } from './timeline/timeline.ts'
import { importHandlers } from './import/import-handlers.ts'
import type { ImportJobs } from './import/import-jobs.ts'
import type { TimelineService } from './timeline-service.ts'

type Handlers = RouteHandlers<PageserverRoutes>

export interface HttpParts {
  id: number
  service: TimelineService
  imports: ImportJobs
  locations: Locations
  tenants: TenantManager
  collector: GarbageCollector
  /** Says why requests cannot be served yet, or null. */
  notReady: () => string | null
}

/** Adds all routes; they are refused as long as the pageserver is not ready. */
export function addRoutes(app: HttpServer, parts: HttpParts): void {
  serveRoutes(app, pageserverRoutes, handlersOf(parts), () => {
    const reason = parts.notReady()
    if (reason !== null) throw new ZenithError('unavailable', `the pageserver is ${reason}`)
  })
}

function idsOf(params: { tenantId: string; timelineId: string }) {
  return {
    tenantId: parseTenantShardId(params.tenantId),
    timelineId: parseTimelineId(params.timelineId),
  }
}

function positionsOf(timeline: Timeline) {
  return {
    lastRecordLsn: formatLsn(timeline.lastRecordLsn),
    diskConsistentLsn: formatLsn(timeline.diskConsistentLsn),
    remoteConsistentLsn: formatLsn(timeline.remoteConsistentLsn),
  }
}

function handlersOf({ id, service, locations, tenants, collector, imports }: HttpParts): Handlers {
  return {
    ...importHandlers(imports, service),
    ...retentionHandlers({ tenants, collector }),
    setLocation: ({ params, body }) => locations.set(parseTenantShardId(params.tenantId), body),
    getLocation: async ({ params }) => locations.info(parseTenantShardId(params.tenantId)),
    heatmap: ({ params }) => locations.heatmap(parseTenantShardId(params.tenantId)),
    flushTenant: ({ params }) => locations.flush(parseTenantShardId(params.tenantId)),
    status: async () => ({ id, tenants: service.tenants().length }),
    listTenants: async () => service.tenants(),
    attachTenant: ({ params, body }) =>
      service.attach(parseTenantShardId(params.tenantId), body.generation, body.stripeBlocks),
    createTimeline: ({ params, body }) => service.createTimeline(idsOf(params), body),
    listTimelines: ({ params }) => service.listTimelines(parseTenantShardId(params.tenantId)),
    getTimeline: ({ params, query }) =>
      service.describe(idsOf(params), { withSize: query.size === true }),
    waitLsn: async ({ params, body }) => {
      const timeline = service.useTimeline(idsOf(params))
      await timeline.waitForLsn(parseLsn(body.lsn), body.timeoutMs)
      return positionsOf(timeline)
    },
    checkpoint: async ({ params }) => {
      const timeline = service.timeline(idsOf(params))
      await timeline.flush()
      return positionsOf(timeline)
    },
    compact: async ({ params }) => {
      const timeline = service.timeline(idsOf(params))
      await timeline.createImageLayers()
      await timeline.compaction.compactBottom()
      return positionsOf(timeline)
    },
    commitWindow: async ({ params, query }) => {
      const window = await findCommitWindow(service.useTimeline(idsOf(params)), query.timeUs)
      switch (window.kind) {
        case 'before':
          return {
            ...window,
            oldestLsn: formatLsn(window.oldestLsn),
            isCutOff: service.timeline(idsOf(params)).gcCutoffLsn !== null,
          }
        case 'within':
          return {
            kind: 'within',
            fromLsn: formatLsn(window.fromLsn),
            toLsn: formatLsn(window.toLsn),
          }
        case 'after':
          return { kind: 'after', lsn: formatLsn(window.lsn) }
      }
    },
    putStatistics: async ({ params, body }) => {
      const bundle = Buffer.from(body.bundle, 'base64')
      unpackStatistics(bundle)
      service.findTenant(idsOf(params).tenantId)?.attachment.checkMayWrite()
      await service.timeline(idsOf(params)).statistics.put(parseLsn(body.lsn), bundle)
      return {}
    },
    deleteTimeline: async ({ params }) => {
      await service.deleteTimeline(idsOf(params))
      return {}
    },
    borrowed: async ({ params }) => service.borrowed(parseTenantShardId(params.tenantId)),
    sweepFormer: async ({ params, body }) => ({
      left: await service.sweepFormer(
        parseTenantShardId(params.tenantId),
        parseTenantShardId(body.former),
        body.keep,
      ),
    }),
    deleteTenant: async ({ params }) => ({
      objects: await service.deleteTenant(parseTenantShardId(params.tenantId)),
    }),
    archiveTimeline: async ({ params, body }) => {
      await service.archiveTimeline(idsOf(params), parseLsn(body.lsn))
      return {}
    },
    unarchiveTimeline: async ({ params }) => {
      await service.unarchiveTimeline(idsOf(params))
      return {}
    },
    detachTimeline: ({ params, body }) =>
      service.detachTimeline(idsOf(params), {
        ancestorTimelineId: parseTimelineId(body.ancestorTimelineId),
        ancestorLsn: parseLsn(body.ancestorLsn),
      }),
    getTimelineSizes: ({ params }) => service.sizes(idsOf(params)),
    setSafekeepers: ({ params, body }) => service.setSafekeepers(idsOf(params), body.safekeepers),
  }
}
