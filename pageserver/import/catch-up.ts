/**
 * The shards of a timeline that follows a server must end at the same LSN before it follows no more:
 * those that are behind take in the rest, and nothing after it.
 */
import type { StockServer } from '#libs/api/transfer.ts'
import { ZenithError } from '#libs/errors.ts'
import type { TenantId, TimelineId } from '#libs/ids.ts'
import { formatLsn, type Lsn } from '#libs/lsn.ts'
import type { Timeline } from '../timeline/timeline.ts'
import { replayStream } from './cluster-import.ts'
import { SOURCE_ID } from './import-jobs.ts'
import { ImportProgress } from './import-progress.ts'

const TIMEOUT_MS = 60_000

/**
 * Streams from the server up to exactly the LSN. No slot is used: that of another shard, which is as
 * far, may be gone by now. Throws `unavailable` or `timeout` when the server does not send it.
 */
export async function catchUp(
  timeline: Timeline,
  target: { tenantId: TenantId; timelineId: TimelineId; server: StockServer; endLsn: Lsn },
): Promise<void> {
  const { server, endLsn, tenantId, timelineId } = target
  const source = { kind: 'postgres' as const, id: SOURCE_ID, ...server }
  const late = new ZenithError(
    'timeout',
    `WAL of the server up to ${formatLsn(endLsn)} was not there in ${TIMEOUT_MS / 1000} s`,
  )
  const abort = new AbortController()
  const timer = setTimeout(() => abort.abort(late), TIMEOUT_MS)
  try {
    await replayStream(
      timeline,
      { tenantId, timelineId, source, endLsn, exact: true },
      { progress: new ImportProgress(), signal: abort.signal },
    )
  } finally {
    clearTimeout(timer)
  }
}
