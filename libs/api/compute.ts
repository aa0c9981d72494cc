/**
 * HTTP API of one compute supervisor (loopback): its state for the control plane and for people.
 * `GET /status` and `POST /stop` answer with a `ComputeStatus`; settings are changed with the other
 * two; besides there are `/healthz` and `/metrics`. Plain types without schemas: loading a schema library would be a third of a start.
 */
import type { EndpointMode, EndpointStatus } from './endpoint-info.ts'
import type { NodeInfo } from './node-info.ts'

export interface ComputeStatus {
  tenantId: string
  timelineId: string
  endpoint: string
  mode: EndpointMode
  attempt: number
  state: EndpointStatus
  /** Finer than `state`: electing, fetching, starting, ... (compute/lifecycle.ts). */
  phase: string
  /**
   * End of the WAL that a quorum of safekeepers has durably, null before the election. Of a static
   * compute what it shows, of a replica what it has replayed.
   */
  commitLsn: string | null
  /** S: where this compute's own WAL begins; of a replica where its replay began. */
  startLsn: string | null
  /** Null for computes that don't write. */
  term: number | null
  /** Bytes of WAL that a replica has still to replay; null for others, and before it knows. */
  lagBytes: number | null
  /** What the tenant allows all databases of the branch together; null = any number of bytes. */
  sizeLimitBytes: number | null
  /** Where it reads the pages of its branch. */
  map: ComputePageservers
  postgresPid: number | null
  host: string
  port: number
  error: string | null
  /** Milliseconds each finished phase of the start took. */
  phasesMs: Record<string, number>
}

/** What `POST /settings` takes: all settings of the endpoint, and which names were touched. */
export interface ComputeSettingsChange {
  settings: Record<string, string>
  /** Names whose value of ALTER SYSTEM, if any, no longer counts. */
  touched: string[]
  /** All that ALTER SYSTEM has set no longer counts. */
  resetAll: boolean
}

export interface ComputeSettingsAnswer {
  /** Settings that take effect only when the compute is started again. */
  restartNeeded: string[]
}

/** Where the pages of a compute's branch are. */
export interface ComputePageservers {
  /** One for each of the tenant's shards, in their order. */
  pageservers: NodeInfo[]
  /** Null for a tenant that is not sharded. */
  stripeBlocks: number | null
}

export const computePaths = {
  status: { method: 'GET', path: '/status' },
  /** Starts a clean stop and answers at once; the process exits when it is done. */
  stop: { method: 'POST', path: '/stop' },
  /** New settings of the endpoint: writes them to the configuration files and reloads. */
  changeSettings: { method: 'POST', path: '/settings' },
  /** Who keeps the branch from now on (`{ safekeepers: NodeInfo[] }`): where a replica gets WAL. */
  setSafekeepers: { method: 'POST', path: '/safekeepers' },
  /**
   * Where the branch's pages are from now on (`ComputePageservers`). Postgres reads it at once;
   * running queries follow.
   */
  setPageservers: { method: 'POST', path: '/pageservers' },
  /** What all databases together may have from now on (`{ bytes: number | null }`). */
  setSizeLimit: { method: 'POST', path: '/size-limit' },
  /** From a backend after ALTER SYSTEM: answers once the control plane has it durably. */
  systemSettings: { method: 'POST', path: '/system-settings' },
} as const
