/** What the control plane asks of pageservers about history. */
import type { GrantedLease, HistorySettings, Retained } from '#libs/api/pageserver-retention.ts'
import { askPageserver, type MaybeShard } from './remote.ts'

const ANSWER_MS = 5_000
/** The WAL up to the LSN may still be on its way. */
const LEASE_MS = 40_000

interface Params {
  tenantId: string
  timelineId: string
}

export const pageserverHistory = {
  configure: (
    node: MaybeShard,
    tenantId: string,
    body: HistorySettings,
  ): Promise<HistorySettings> =>
    askPageserver(node, 'setTenantConfig', {
      params: { tenantId },
      body,
      timeoutMs: ANSWER_MS,
    }),

  /** Throws `out_of_range` when the state at the LSN may be gone. */
  lease: (node: MaybeShard, params: Params, lsn: string): Promise<GrantedLease> =>
    askPageserver(node, 'lease', { params, body: { lsn }, timeoutMs: LEASE_MS }),

  /** Without an LSN: where a standby that is started now begins. */
  holdHorizon: (
    node: MaybeShard,
    params: Params,
    body: { holder: string; lsn?: string },
  ): Promise<GrantedLease> =>
    askPageserver(node, 'holdHorizon', { params, body, timeoutMs: ANSWER_MS }),

  retained: (node: MaybeShard, params: Params): Promise<Retained> =>
    askPageserver(node, 'getRetained', { params, timeoutMs: ANSWER_MS }),

  /** Of the latest commit at or below the LSN, in microseconds since 2000. */
  commitTime: (node: MaybeShard, params: Params, lsn: string): Promise<{ timeUs: number | null }> =>
    askPageserver(node, 'commitTime', { params, query: { lsn }, timeoutMs: ANSWER_MS }),
}
