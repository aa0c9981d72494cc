/**
 * The life of timelines in the pageserver's HTTP API: one table of routes, part of
 * `pageserverRoutes`. Each request can be repeated: what is done already is done.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import {
  IdText,
  LsnText,
  None,
  Nullable,
  TenantShardText,
  TIMELINE_PATH,
  TimelineShardParams,
} from './schemas.ts'

/** Where a timeline leaves its ancestor. */
export const BranchPlaceText = Type.Object({ ancestorTimelineId: IdText, ancestorLsn: LsnText })
export type BranchPlaceText = Static<typeof BranchPlaceText>

export const DetachedTimeline = Type.Object({
  /** Where its history begins now. */
  startLsn: LsnText,
  /** Its children, those that the detach gave it included. */
  children: Type.Array(IdText),
})
export type DetachedTimeline = Static<typeof DetachedTimeline>

export const TimelineSizes = Type.Object({
  /** All relations at the end; null while the timeline is archived. */
  logicalBytes: Nullable(Type.Integer()),
  /** Layer files of its own. */
  ownBytes: Type.Integer(),
  /** Layer files that belong to timelines it was detached from. */
  adoptedBytes: Type.Integer(),
  /** WAL written since the branch point. */
  writtenBytes: Type.Integer(),
})
export type TimelineSizes = Static<typeof TimelineSizes>

export const pageserverLifecycleRoutes = routes({
  deleteTimeline: {
    method: 'DELETE',
    path: TIMELINE_PATH,
    summary: 'Delete a timeline for good; 409 while it has children; one that is gone is fine',
    params: TimelineShardParams,
    response: None,
  },
  deleteTenant: {
    method: 'DELETE',
    path: '/v1/tenant/:tenantId',
    summary: 'Delete all timelines of a tenant for good; to be asked again until nothing is left',
    params: Type.Object({ tenantId: TenantShardText }),
    /** Objects that have yet to leave storage. */
    response: Type.Object({ objects: Type.Integer() }),
  },
  archiveTimeline: {
    method: 'POST',
    path: `${TIMELINE_PATH}/archive`,
    summary: 'Take in WAL up to an LSN, flush, and free everything local; 409 with open children',
    params: TimelineShardParams,
    body: Type.Object({ lsn: LsnText }),
    response: None,
  },
  unarchiveTimeline: {
    method: 'POST',
    path: `${TIMELINE_PATH}/unarchive`,
    summary: 'Open an archived timeline; 409 while its ancestor is archived',
    params: TimelineShardParams,
    response: None,
  },
  detachTimeline: {
    method: 'POST',
    path: `${TIMELINE_PATH}/detach`,
    summary: 'Take over the history of the ancestors, and its siblings from before; copies nothing',
    params: TimelineShardParams,
    body: BranchPlaceText,
    response: DetachedTimeline,
  },
  getTimelineSizes: {
    method: 'GET',
    path: `${TIMELINE_PATH}/sizes`,
    summary: 'Logical, physical and written bytes',
    params: TimelineShardParams,
    response: TimelineSizes,
  },
})
