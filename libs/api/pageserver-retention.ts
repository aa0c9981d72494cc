/**
 * How much history is kept, in the pageserver's HTTP API: one table of routes, part of
 * `pageserverRoutes`. Times are microseconds since 2000-01-01 UTC, as Postgres counts them.
 */
import { routes } from '#libs/http/route.ts'
import { type Static, Type } from 'typebox'
import {
  LsnText,
  Nullable,
  TenantShardParams,
  TIMELINE_PATH,
  TimelineShardParams,
} from './schemas.ts'

/** How much history a tenant keeps: what is younger than the interval, and of that so many bytes. */
export const HistorySettings = Type.Object({
  pitrIntervalMs: Type.Integer({ minimum: 0 }),
  /** Bytes of WAL from the end back; null = however much it is. */
  pitrBytes: Nullable(Type.Integer({ minimum: 0 })),
})
export type HistorySettings = Static<typeof HistorySettings>

export const Retained = Type.Object({
  /** Reads below are refused unless leased; null = all is there since `startLsn`. */
  cutoffLsn: Nullable(LsnText),
  startLsn: LsnText,
  lastRecordLsn: LsnText,
  /** Latest commit at or below the oldest LSN that is kept; null when unknown. */
  oldestTimeUs: Nullable(Type.Integer()),
  /** WAL from the oldest LSN that is kept to the end. */
  historyBytes: Type.Integer(),
  /** States below the cutoff that are kept, and the cutoff. */
  points: Type.Array(LsnText),
  leasedLsns: Type.Array(LsnText),
  /** Where the furthest standby reads; null without one. */
  horizonLsn: Nullable(LsnText),
  layers: Type.Integer(),
  layerBytes: Type.Integer(),
})
export type Retained = Static<typeof Retained>

export const GrantedLease = Type.Object({
  lsn: LsnText,
  /** It lapses after so long unless it is renewed. */
  validMs: Type.Integer(),
})
export type GrantedLease = Static<typeof GrantedLease>

export const pageserverRetentionRoutes = routes({
  setTenantConfig: {
    method: 'PUT',
    path: '/v1/tenant/:tenantId/config',
    summary: 'Say how much history the tenant keeps; until then nothing is removed',
    params: TenantShardParams,
    body: HistorySettings,
    response: HistorySettings,
  },
  collectGarbage: {
    method: 'POST',
    path: `${TIMELINE_PATH}/gc`,
    summary: 'Move the cutoff and remove layers now; what is left out is as the tenant is set',
    params: TimelineShardParams,
    body: Type.Partial(HistorySettings),
    response: Type.Object({
      cutoffLsn: Nullable(LsnText),
      retainedPoints: Type.Array(LsnText),
      removedLayers: Type.Integer(),
      removedBytes: Type.Integer(),
    }),
  },
  lease: {
    method: 'POST',
    path: `${TIMELINE_PATH}/lease`,
    summary: 'Keep the state at an LSN readable for a while; 400 when it may be gone',
    params: TimelineShardParams,
    body: Type.Object({ lsn: LsnText }),
    response: GrantedLease,
  },
  holdHorizon: {
    method: 'POST',
    path: `${TIMELINE_PATH}/horizon`,
    summary: 'A standby reads from this LSN on: the cutoff stays below for a while',
    params: TimelineShardParams,
    body: Type.Object({
      /** Who reads; each has one horizon. */
      holder: Type.String({ minLength: 1, maxLength: 200 }),
      /** Absent: where a standby that is started now begins. */
      lsn: Type.Optional(LsnText),
    }),
    response: GrantedLease,
  },
  getRetained: {
    method: 'GET',
    path: `${TIMELINE_PATH}/retained`,
    summary: 'How much history there is, and who keeps it',
    params: TimelineShardParams,
    response: Retained,
  },
  commitTime: {
    method: 'GET',
    path: `${TIMELINE_PATH}/commit_time`,
    summary: 'The latest time of a commit at or below an LSN',
    params: TimelineShardParams,
    querystring: Type.Object({ lsn: LsnText }),
    response: Type.Object({ timeUs: Nullable(Type.Integer()) }),
  },
})
