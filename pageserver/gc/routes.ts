/** The handlers of `#libs/api/pageserver-retention.ts`. */
import type { pageserverRetentionRoutes } from '#libs/api/pageserver-retention.ts'
import type { RouteHandlers } from '#libs/http/serve-routes.ts'
import { parseTimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn, parseLsn } from '#libs/lsn.ts'
import { parseTenantShardId } from '#libs/sharding.ts'
import { checkpointAt } from '../ingest/checkpoint-state.ts'
import type { TenantManager } from '../tenants/tenant-manager.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { standbyStartLsn } from './cutoff.ts'
import type { GarbageCollector } from './garbage-collector.ts'

const LEASE_WAIT_MS = 30_000

/** They throw `not_found` for a tenant or timeline that is not here. */
export function retentionHandlers(parts: {
  tenants: TenantManager
  collector: GarbageCollector
}): RouteHandlers<typeof pageserverRetentionRoutes> {
  const { tenants, collector } = parts
  const timelineOf = (params: { tenantId: string; timelineId: string }) =>
    tenants.tenant(parseTenantShardId(params.tenantId)).timeline(parseTimelineId(params.timelineId))
  return {
    setTenantConfig: async ({ params, body }) => {
      tenants.tenant(parseTenantShardId(params.tenantId)).history = body
      return body
    },
    collectGarbage: async ({ params, body }) => {
      const tenant = tenants.tenant(parseTenantShardId(params.tenantId))
      const result = await collector.collect(tenant, parseTimelineId(params.timelineId), body)
      return {
        ...result,
        cutoffLsn: textOrNull(result.cutoffLsn),
        retainedPoints: result.retainedPoints.map(formatLsn),
      }
    },
    lease: async ({ params, body }) => {
      const timeline = timelineOf(params)
      const lsn = parseLsn(body.lsn)
      timeline.checkWithin(lsn)
      await timeline.waitForLsn(lsn, LEASE_WAIT_MS)
      timeline.retention.lease(lsn)
      return { lsn: body.lsn, validMs: timeline.retention.leaseMs }
    },
    holdHorizon: async ({ params, body }) => {
      const timeline = timelineOf(params)
      const lsn = body.lsn === undefined ? await standbyStartLsn(timeline) : parseLsn(body.lsn)
      timeline.retention.holdHorizon(body.holder, lsn)
      return { lsn: formatLsn(lsn), validMs: timeline.retention.leaseMs }
    },
    getRetained: ({ params }) => describe(timelineOf(params)),
    commitTime: async ({ params, query }) => {
      const timeline = timelineOf(params)
      const lsn = parseLsn(query.lsn)
      return { timeUs: await commitTimeAt(timeline, lsn) }
    },
  }
}

async function describe(timeline: Timeline) {
  const { retention, startLsn, lastRecordLsn, layers } = timeline
  const oldestLsn = Math.max(startLsn, retention.cutoffLsn ?? 0)
  const { leases } = retention
  return {
    cutoffLsn: textOrNull(retention.cutoffLsn),
    startLsn: formatLsn(startLsn),
    lastRecordLsn: formatLsn(lastRecordLsn),
    oldestTimeUs: await commitTimeAt(timeline, oldestLsn),
    historyBytes: lastRecordLsn - oldestLsn,
    points: retention.retainedPoints().map(formatLsn),
    leasedLsns: leases.points.map(formatLsn),
    horizonLsn: textOrNull(leases.horizonLsn),
    layers: layers.count,
    layerBytes: layers.bytes.own + layers.bytes.adopted,
  }
}

async function commitTimeAt(timeline: Timeline, lsn: Lsn): Promise<number | null> {
  const { lastCommitTimeUs } = await checkpointAt(timeline, lsn)
  return lastCommitTimeUs === 0 ? null : lastCommitTimeUs
}

function textOrNull(lsn: Lsn | null): string | null {
  return lsn === null ? null : formatLsn(lsn)
}
