/** What the control plane and a compute tell of an endpoint, and its settings. */
import { type Static, Type } from 'typebox'
import { IdText, LsnText, Nullable, Port, Time } from './schemas.ts'

export const EndpointStatus = Type.Union([
  Type.Literal('stopped'),
  Type.Literal('starting'),
  Type.Literal('running'),
  Type.Literal('stopping'),
  Type.Literal('crashed'),
  Type.Literal('fenced'),
])
export type EndpointStatus = Static<typeof EndpointStatus>

/** Settings by name, values as text without quotes: `{ work_mem: '64MB' }`. */
export const Settings = Type.Record(Type.String(), Type.String())
export type Settings = Static<typeof Settings>

/**
 * What a compute does with its branch: `primary` writes to it, `static` shows it as of one LSN,
 * `replica` follows it as a hot standby.
 */
export const EndpointMode = Type.Union([
  Type.Literal('primary'),
  Type.Literal('static'),
  Type.Literal('replica'),
])
export type EndpointMode = Static<typeof EndpointMode>

export const EndpointInfo = Type.Object({
  name: Type.String(),
  branch: Type.String(),
  timelineId: IdText,
  mode: EndpointMode,
  /** What a static endpoint shows; null for others. */
  readLsn: Nullable(LsnText),
  status: EndpointStatus,
  host: Type.String(),
  /** Postgres port: the one in use, or the one last used; null before the first start. */
  port: Nullable(Port),
  /** The port its owner asked for; then it is never replaced by another. */
  requestedPort: Nullable(Port),
  /** Port of the compute supervisor's own HTTP API while it runs. */
  httpPort: Nullable(Port),
  pid: Nullable(Type.Integer()),
  /** Commit LSN, or what a replica has replayed: live while running, else as last reported. */
  lsn: Nullable(LsnText),
  /** Bytes of WAL that a running replica has still to replay; null for others. */
  lagBytes: Nullable(Type.Integer()),
  /** Counts starts; status reports of an earlier start are ignored. */
  attempt: Type.Integer(),
  /** Why it crashed or was fenced. */
  error: Nullable(Type.String()),
  /** What its owner chose for postgresql.conf. */
  settings: Settings,
  /** What ALTER SYSTEM has set; it wins over `settings`, as postgresql.auto.conf does. */
  systemSettings: Settings,
  createdAt: Time,
  startedAt: Nullable(Time),
})
export type EndpointInfo = Static<typeof EndpointInfo>

/** What a compute reports about itself; `attempt` must be that of its spec. */
export const EndpointReport = Type.Object({
  attempt: Type.Integer(),
  status: EndpointStatus,
  pid: Type.Optional(Type.Integer()),
  httpPort: Type.Optional(Port),
  lsn: Type.Optional(LsnText),
  error: Type.Optional(Type.String()),
  /** What the spec's `dropSubscriptions` asked for is done, durably. */
  subscriptionsDropped: Type.Optional(Type.Boolean()),
})
export type EndpointReport = Static<typeof EndpointReport>

export const SettingsChange = Type.Object({
  set: Type.Optional(Settings),
  /** Names that go back to their defaults, whoever set them. */
  reset: Type.Optional(Type.Array(Type.String())),
  /** Everything goes back to its default. */
  resetAll: Type.Optional(Type.Boolean()),
})
export type SettingsChange = Static<typeof SettingsChange>

export const SettingsAnswer = Type.Object({
  endpoint: EndpointInfo,
  /** True if a compute runs and has read the new settings. */
  applied: Type.Boolean(),
  /** Settings that the running compute takes only when it is started again. */
  restartNeeded: Type.Array(Type.String()),
})
export type SettingsAnswer = Static<typeof SettingsAnswer>
