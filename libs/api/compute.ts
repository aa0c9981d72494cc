/**
 * HTTP API of one compute supervisor (loopback): its state for the control plane and for people.
 * `GET /status`, `POST /stop`, besides `/healthz` and `/metrics`.
 */
import { type Static, Type } from 'typebox'
import { EndpointStatus, LsnText } from './control.ts'

const Nullable = <T extends Parameters<typeof Type.Union>[0][number]>(schema: T) =>
  Type.Union([schema, Type.Null()])

export const ComputeStatus = Type.Object({
  tenantId: Type.String(),
  timelineId: Type.String(),
  endpoint: Type.String(),
  attempt: Type.Integer(),
  state: EndpointStatus,
  /** Finer than `state`: electing, base-backup, starting-postgres, ... */
  phase: Type.String(),
  /** End of the WAL that a quorum of safekeepers has durably; null before the election. */
  commitLsn: Nullable(LsnText),
  /** S: where this compute's own WAL begins. */
  startLsn: Nullable(LsnText),
  term: Nullable(Type.Integer()),
  postgresPid: Nullable(Type.Integer()),
  host: Type.String(),
  port: Type.Integer(),
  error: Nullable(Type.String()),
  /** Milliseconds each finished phase of the start took. */
  phasesMs: Type.Record(Type.String(), Type.Number()),
})
export type ComputeStatus = Static<typeof ComputeStatus>

export const computeRoutes = {
  status: { method: 'GET', path: '/status', response: ComputeStatus },
  /** Starts a clean stop and answers at once; the process exits when it is done. */
  stop: { method: 'POST', path: '/stop', response: ComputeStatus },
} as const
