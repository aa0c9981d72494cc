/** What the control plane asks of pageservers about history. */
import type { NodeInfo } from '#libs/api/control.ts'
import { callPageserver } from '#libs/api/pageserver.ts'
import type { GrantedLease, HistorySettings, Retained } from '#libs/api/pageserver-retention.ts'

const ANSWER_MS = 5_000
/** The WAL up to the LSN may still be on its way. */
const LEASE_MS = 40_000

interface Params {
  tenantId: string
  timelineId: string
}

const urlOf = (node: NodeInfo) => `http://${node.host}:${node.httpPort}`

export const pageserverHistory = {
  configure: (node: NodeInfo, tenantId: string, body: HistorySettings): Promise<HistorySettings> =>
    callPageserver(urlOf(node), 'setTenantConfig', {
      params: { tenantId },
      body,
      timeoutMs: ANSWER_MS,
    }),

  /** Throws `out_of_range` when the state at the LSN may be gone. */
  lease: (node: NodeInfo, params: Params, lsn: string): Promise<GrantedLease> =>
    callPageserver(urlOf(node), 'lease', { params, body: { lsn }, timeoutMs: LEASE_MS }),

  /** Without an LSN: where a standby that is started now begins. */
  holdHorizon: (
    node: NodeInfo,
    params: Params,
    body: { holder: string; lsn?: string },
  ): Promise<GrantedLease> =>
    callPageserver(urlOf(node), 'holdHorizon', { params, body, timeoutMs: ANSWER_MS }),

  retained: (node: NodeInfo, params: Params): Promise<Retained> =>
    callPageserver(urlOf(node), 'getRetained', { params, timeoutMs: ANSWER_MS }),

  /** Of the latest commit at or below the LSN, in microseconds since 2000. */
  commitTime: (node: NodeInfo, params: Params, lsn: string): Promise<{ timeUs: number | null }> =>
    callPageserver(urlOf(node), 'commitTime', { params, query: { lsn }, timeoutMs: ANSWER_MS }),
}
